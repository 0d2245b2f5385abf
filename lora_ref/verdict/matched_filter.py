"""Which known mistake is in the outputs? A matched filter for each one of a catalogue.

Every mistake predicts how far the outputs would be off, element by element. How much of that is
in the error is a projection, and how much of it could be there unseen a matter of the noise.

A mistake is
PRESENT      if all of it is there (β is 1 within its error) and nothing else is: without it, every
             output that it changes is consistent with rounding. Of several such, the one that
             leaves the least; what the numbers cannot tell from that one is named with it. What is
             found is taken out, and the rest judged again: mistakes in other outputs come next.
EXCLUDED     if |β| < 0.5 in what remains, after what is present was taken out.
UNDECIDABLE  otherwise: it would stand out by fewer than 8 standard deviations; rounding the result
             hides it in all but a few elements; honest rounding alone looks like it, or y alone
             is to show an update that is below an ulp of it (swamped); another error hides it; or
             a part of it is there, which is a weaker form of it, or a bug that resembles it.

What a sample of rows excludes is excluded. All rows are compared for the mistakes that it does not
decide on, so what is PRESENT is so in all rows.

Math:
    β, signal, `honest` and `near_base` as in `signature`; f and rounding as in `residual`
    PRESENT needs   signal >= 8, |β − 1| < min(0.15, 4/signal + 3u + honest), and without it
        rounding in each output, or something near, if |β − 1| < 4/signal + 2u
    swamped         honest > max(0.05, 3/signal), or near_base > 1/2 where only y has changed
    hidden          signal / f < 8
    Mistakes that fit are told apart by χ²: 16 + ((2u + honest) signal)² is the least difference,
    as a scale held in the output's dtype moves β by up to u.
Limits:
    Two mistakes that change the same output together are found only where one of them explains
    what the other leaves as rounding; else neither is named. An unknown bug that is equal to a
    known one within the noise has its name.
Source:
    β alone, with 8, 0.15 and 0.5, on all outputs at bfloat16: 384 of 384 planted mistakes named,
    none of 256 correct runs, in the study that the power table repeats. The fit, the spread of
    the signal and the guard against swamping are what unknown bugs and the forward alone need.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from .contract import Contract
from .findings import Diagnosis, State
from .honest import Honest, honest_kernels, mutated, noises_of
from .noise import Arrays, Noises
from .oracle import Mistake, Oracle
from .residual import Residual
from .sample import in_parts, sample_of
from .signature import Signature, signatures

LEAST_SIGNAL = 8.0
LARGEST_SHARE = 0.15  # that may be missing of a mistake, or too much
INDISTINCT = 16.0  # of χ²: four standard deviations


@dataclass(frozen=True, eq=False)
class _View:
    """The outputs, in all rows or in some, with what is known of honest kernels there."""

    oracle: Oracle
    noises: Noises
    honest: Honest
    part: float = 1.0

    def signatures(self, mistake: Mistake) -> tuple[Signature, ...]:
        outputs = mutated(mistake, self.oracle)
        return tuple(signatures(mistake, outputs, self.noises, self.honest))

    @property
    def errors(self) -> Residual:
        return Residual({n: noise.z for n, noise in self.noises.items()}, self.noises)


def diagnose(
    actual: Arrays, oracle: Oracle, contract: Contract, variance: Arrays
) -> tuple[Diagnosis, ...]:
    """What the outputs say of each mistake of the oracle: those present first.

    `actual` and `variance` are by the name of the output, in float64; outputs that are not in both
    do not count. `variance` is that of an honest result under the contract.
    """
    oracle = in_parts(oracle)
    open_ones, absent = oracle.mistakes, {}
    sample = sample_of(oracle)
    if sample is not None:
        few = _view(sample.oracle, sample.of(actual), contract, sample.of(variance), sample.part)
        absent = _excluded(few)
        open_ones = tuple(m for m in oracle.mistakes if m.name not in absent)
    if not open_ones:
        return tuple(absent.values())
    present, found = _diagnosed(open_ones, _view(oracle, actual, contract, variance))
    absent |= {d.name: d for d in found}
    return (*present, *(absent[m.name] for m in oracle.mistakes if m.name in absent))


def _view(
    oracle: Oracle, actual: Arrays, contract: Contract, variance: Arrays, part: float = 1.0
) -> _View:
    noises = noises_of(oracle, contract, variance, actual)
    return _View(oracle, noises, honest_kernels(oracle, contract, noises), part)


def _excluded(few: _View) -> dict[str, Diagnosis]:
    """The mistakes that a sample excludes, in all outputs and in some alone."""
    errors, found = few.errors, {}
    for mistake in few.oracle.mistakes:
        tried = few.signatures(mistake)
        if tried and all(_is_out(s, errors, few.part) for s in tried):
            said = _absent(tried[0], errors)
            if said.state is State.EXCLUDED:
                found[mistake.name] = said
    return found


def _is_out(s: Signature, errors: Residual, part: float) -> bool:
    """Whether all rows cannot but say that it is not there: by six standard deviations."""
    if s.where and 2 * s.signal < LEAST_SIGNAL * part**0.5:
        return True  # all rows are too few as well
    error = errors.misfit(s.D) / s.signal if s.signal else float("inf")
    return LEAST_SIGNAL * error < 1 and abs(s.share(errors.finite)) + 6 * error < 0.5


def _diagnosed(
    mistakes: Sequence[Mistake], view: _View
) -> tuple[list[Diagnosis], list[Diagnosis]]:
    """The mistakes that are there, and what is known of the others without them."""
    errors, left = view.errors, list(mistakes)
    present: list[Diagnosis] = []
    while True:
        absent, chosen = _scan(left, view, errors)
        if not chosen:
            return present, absent
        present.append(_present(chosen, errors))
        settled = {s.mistake.name for s in chosen}
        left = [m for m in left if m.name not in settled]
        errors = errors.without(chosen[0])


def _scan(
    mistakes: Sequence[Mistake], view: _View, errors: Residual
) -> tuple[list[Diagnosis], list[Signature]]:
    """What an error says of each mistake, and which ones explain it best.

    One mistake at a time: their signatures are as large as the outputs.
    """
    absent: list[Diagnosis] = []
    best: list[tuple[float, float, Signature]] = []
    for mistake in mistakes:
        for s in view.signatures(mistake):
            if not s.where:
                absent.append(_absent(s, errors))
            if _is_there(s, errors):
                slack = INDISTINCT + (s.signal * (2 * _roundoff(s) + s.honest)) ** 2
                best.append((s.remains(errors.z), slack, s))
                least, *_ = min(best, key=itemgetter(0))
                best = [t for t in best if t[0] <= least * (1 + 1e-9) + t[1]]
    chosen: dict[str, Signature] = {}
    for *_, s in sorted(best, key=itemgetter(0)):
        chosen.setdefault(s.mistake.name, s)
    everywhere = [s for s in chosen.values() if not s.where]
    return absent, everywhere or list(chosen.values())


def _is_there(s: Signature, errors: Residual) -> bool:
    """Whether all of it is in the error and nothing else is, and it could be seen."""
    off = abs(s.share(errors.finite) - 1)
    if s.signal < LEAST_SIGNAL or off >= LARGEST_SHARE or not is_decidable(s):
        return False
    u = _roundoff(s)
    if off >= 4 / s.signal + 3 * u + s.honest:
        return False
    return errors.fits(s, closely=off <= 4 / s.signal + 2 * u)


def _roundoff(s: Signature) -> float:
    return max(s.mutant.noises[n].grid.roundoff for n in s.D)


def is_decidable(s: Signature) -> bool:
    """Whether these inputs can show it."""
    return not why_undecidable(s)


def why_undecidable(s: Signature) -> str:
    """Why these inputs cannot show it; nothing if they can."""
    if s.signal == 0:
        return "it changes nothing with these inputs"
    if s.signal < LEAST_SIGNAL:
        return f"it stands out by {s.signal:.2g} standard deviations, {LEAST_SIGNAL:g} are needed"
    if not s.differs:
        return "rounding the result hides it, but for too few elements to know it by"
    if {*s.D} == {"y"} and s.near_base > 0.5:
        return "swamped: the update is below an ulp of what it is added to, and y alone shows it"
    if s.is_swamped(max(0.05, 3 / s.signal)):
        return f"swamped: honest rounding alone looks like {s.honest:.2g} of it"
    return ""


def _present(chosen: Sequence[Signature], errors: Residual) -> Diagnosis:
    """One diagnosis, under all the names that the numbers do not tell apart."""
    first = chosen[0]
    name = " or ".join(s.name for s in chosen)
    formula = " or ".join(dict.fromkeys(s.mistake.formula for s in chosen))
    said = _diagnosis(first, State.PRESENT, first.share(errors.finite), 1.0, "")
    return replace(said, name=name, formula=formula)


def _absent(s: Signature, errors: Residual) -> Diagnosis:
    """EXCLUDED, or why not."""
    misfit, share = errors.misfit(s.D), s.share(errors.finite)
    reason = why_undecidable(s)
    if not reason and not s.signal / misfit >= LEAST_SIGNAL:
        reason = "another error hides it"
    elif not reason and abs(share) >= 0.5:
        reason = f"{share:.3g} of it is there: not this mistake as it is known"
    state = State.UNDECIDABLE if reason else State.EXCLUDED
    return _diagnosis(s, state, share, misfit, reason)


def _diagnosis(s: Signature, state: State, share: float, misfit: float, reason: str) -> Diagnosis:
    error = misfit / s.signal if s.signal else float("inf")
    return Diagnosis(s.mistake.name, s.mistake.formula, state, share, error, s.signal, reason)
