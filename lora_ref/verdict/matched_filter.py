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

Where a sample of rows leaves no doubt that a mistake is not there, all rows are not asked. What is
PRESENT is so in all rows.

Math:
    β, signal, `honest` and `near_base` as in `signature`; f and rounding as in `residual`
    PRESENT needs   signal >= 8, |β − 1| < min(0.15, 4/signal + 3u + honest), and without it
        rounding in each output, or something near, if |β − 1| < 4/signal + 2u
        (|β − 1| < 1/1024 is enough for either: long sums are not as exact as u)
    swamped         honest > max(0.05, 3/signal), or near_base > 1/2 where only y has changed
                    (or dx, under a contract that admits a merged weight)
    hidden          signal / f < 8
    What does not fit, but explains the same outputs better, takes the name from what does.
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
from dataclasses import replace
from operator import itemgetter

from .findings import LOST, Diagnosis, State
from .mistakes.advice import advice_for, to_tell_apart
from .oracle import Mistake
from .residual import WHOLE, Residual
from .signature import Signature
from .view import View

LEAST_SIGNAL = 8.0
LARGEST_SHARE = 0.15  # that may be missing of a mistake, or too much
INDISTINCT = 16.0  # of χ²: four standard deviations


def diagnose(view: View) -> tuple[Diagnosis, ...]:
    """What the outputs say of each mistake of the oracle: those present first."""
    few, mistakes = view.sampled(), view.oracle.mistakes
    if few is not None:
        said = _decided(few, mistakes, few.errors)
        if len(said) == len(mistakes):
            return tuple(said.values())
    return _diagnosed(view, few)


def _diagnosed(view: View, few: View | None) -> tuple[Diagnosis, ...]:
    """The mistakes that are there, and what is known of the others without them."""
    left, errors = view.oracle.mistakes, view.errors
    some = few.errors if few else errors
    present: list[Diagnosis] = []
    while True:
        said = _decided(few, left, some) if few else {}
        absent, chosen = _scan([m for m in left if m.name not in said], view, errors)
        if not chosen:
            said |= {d.name: d for d in absent}
            return (*present, *(said[m.name] for m in left if m.name in said))
        present.append(_present(chosen, view, errors))
        errors, settled = errors.without(chosen[0]), {s.mistake.name for s in chosen}
        left = tuple(m for m in left if m.name not in settled)
        if few:
            same = few.signatures(chosen[0].mistake)
            some = some.without(next((s for s in same if s.where == chosen[0].where), same[0]))


def _decided(few: View, mistakes: tuple[Mistake, ...], errors: Residual) -> dict[str, Diagnosis]:
    """What a sample says of each mistake that is not there, whatever the other rows are."""
    found: dict[str, Diagnosis] = {}
    for mistake in mistakes:
        tried = few.signatures(mistake)
        if tried and all(_is_out(s, errors, few.part) for s in tried):
            found[mistake.name] = _absent(tried[0], few, errors)
    return found


def _is_out(s: Signature, errors: Residual, part: float) -> bool:
    """Whether it is not there, and all rows will say the same of it: by six standard deviations."""
    if not s.D or _is_below_an_ulp(s):
        return True
    all_rows = 2 * s.signal / part**0.5  # or fewer standard deviations
    misfit = errors.misfit(s.D)
    if all_rows < LEAST_SIGNAL * misfit and (s.where or (s.signal and misfit > 1)):
        return True
    if s.signal < LEAST_SIGNAL * misfit or not is_decidable(s):
        return False
    share, error = s.share(errors.finite), 6 * misfit / s.signal
    return abs(share - 1) > LARGEST_SHARE + error and abs(abs(share) - 0.5) > error


def _scan(
    mistakes: Sequence[Mistake], view: View, errors: Residual
) -> tuple[list[Diagnosis], list[Signature]]:
    """What an error says of each mistake, and which ones explain it best.

    One mistake at a time: their signatures are as large as the outputs.
    """
    absent: list[Diagnosis] = []
    best: list[tuple[float, float, Signature]] = []
    rivals: list[tuple[float, set[str]]] = []
    for mistake in mistakes:
        for s in view.signatures(mistake):
            if not s.where:
                absent.append(_absent(s, view, errors))
            if _is_there(s, errors):
                slack = INDISTINCT + (s.signal * (2 * _roundoff(s) + s.honest)) ** 2
                best.append((s.remains(errors.z), slack, s))
                least, *_ = min(best, key=itemgetter(0))
                best = [t for t in best if t[0] <= least * (1 + 1e-9) + t[1]]
            elif _may_be_there(s, errors, 2 * LARGEST_SHARE):
                rivals.append((s.remains(errors.z), {*s.D}))
    chosen: dict[str, Signature] = {}
    for rest, _, s in sorted(best, key=itemgetter(0)):
        if not any(other + INDISTINCT < rest and {*s.D} == names for other, names in rivals):
            chosen.setdefault(s.mistake.name, s)
    everywhere = [s for s in chosen.values() if not s.where]
    return absent, everywhere or list(chosen.values())


def _may_be_there(s: Signature, errors: Residual, off: float) -> bool:
    """Whether it could be seen, and all of it is there but for a share of it."""
    if s.signal < LEAST_SIGNAL or errors.norm(s.D) < (1 - off) * s.signal:
        return False  # |β| <= ‖z‖/signal
    return abs(s.share(errors.finite) - 1) < off and is_decidable(s)


def _is_there(s: Signature, errors: Residual) -> bool:
    """Whether all of it is in the error and nothing else is, and it could be seen."""
    if not _may_be_there(s, errors, LARGEST_SHARE):
        return False
    off = abs(s.share(errors.finite) - 1)
    u, least = _roundoff(s), 1 / WHOLE
    if off >= max(4 / s.signal + 3 * u + s.honest, least):
        return False
    return errors.fits(s, closely=off <= max(4 / s.signal + 2 * u, least))


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
    if _is_below_an_ulp(s):
        return "swamped: the update is below an ulp of what it is added to"
    if s.is_swamped(max(0.05, 3 / s.signal)):
        return f"swamped: honest rounding alone looks like {s.honest:.2g} of it"
    return ""


def _is_below_an_ulp(s: Signature) -> bool:
    """Whether y alone is to show an update that its grid does not resolve.

    So is dx, and both of them, where the update may have been lost in a merged weight.
    """
    honest = s.mutant.honest
    merged = honest is not None and honest.merged is not None
    return {*s.D} <= ({"y", "dx"} if merged else {"y"}) and s.near_base > 0.5


def _present(chosen: Sequence[Signature], view: View, errors: Residual) -> Diagnosis:
    """One diagnosis, under all the names that the numbers do not tell apart."""
    first = chosen[0]
    name = " or ".join(s.name for s in chosen)
    formulas = [*dict.fromkeys(s.mistake.formula for s in chosen)]
    said = _diagnosis(first, State.PRESENT, first.share(errors.finite), 1.0, "")
    outputs = tuple(n for n in errors.z if any(n in s.changes for s in chosen))
    said = replace(said, name=name, formula=formulas[0], outputs=outputs)
    if len(chosen) == 1:
        return said
    apart = to_tell_apart((s.mistake for s in chosen), view.oracle)
    formula = f"one of these, which these inputs do not tell apart: {'; '.join(formulas)}"
    return replace(said, formula="; ".join(filter(None, (formula, apart))), advice=apart)


def _absent(s: Signature, view: View, errors: Residual) -> Diagnosis:
    """EXCLUDED, or why not."""
    misfit, share = errors.misfit(s.D), s.share(errors.finite)
    reason = why_undecidable(s)
    if reason and s.mutant.is_lost:
        reason = f"{reason}: {LOST}"
    elif not reason and not s.signal / misfit >= LEAST_SIGNAL:
        reason = "another error hides it"
    elif not reason and abs(share) >= 0.5:
        reason = f"{share:.3g} of it is there: not this mistake as it is known"
    state = State.UNDECIDABLE if reason else State.EXCLUDED
    advice = advice_for(s.mistake, view.oracle, changes=s.signal > 0) if reason else ""
    return replace(_diagnosis(s, state, share, misfit, reason), advice=advice)


def _diagnosis(s: Signature, state: State, share: float, misfit: float, reason: str) -> Diagnosis:
    error = misfit / s.signal if s.signal else float("inf")
    name, formula = s.mistake.name, s.mistake.formula
    return Diagnosis(name, formula, state, share, error, s.signal, reason, s.changes)
