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
             hides it in all but a few elements; honest rounding alone looks like it (an update
             swamped by its grid); another error hides it; or a part of it is there, which is a
             weaker form of it, or a bug that resembles it.

Math:
    β, signal and `honest` as in `signature`; f² the mean square z of the outputs that it changes
    PRESENT needs   signal >= 8, |β − 1| < min(0.15, 4/signal + 3u + honest), and without it
        mean z² <= 2.25 (1 + 6 √(2/N)),  max |z| <= 3 √(2 ln(2N / 1e-9))  in each output
        or, if |β − 1| < 4/signal + 2u, in the norm of each output that fails this
        ‖actual − mutated‖ <= 2 max(u, ‖σ‖/‖reference‖) ‖mutated‖ and <= ‖mutated − reference‖ / 16,
        because a gross mistake has roundings that the right kernel has not
    swamped         honest > max(0.05, 3/signal)
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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np

from .contract import Contract
from .findings import Diagnosis, State
from .honest import Honest, honest_kernels, mutated, noises_of
from .noise import Arrays, Noise, Noises
from .oracle import Oracle
from .signature import Signature, signatures

LEAST_SIGNAL = 8.0
LEAST_DIFFERING = 3
LARGEST_MISFIT = 2.25
NEAR = 2.0  # times the usual share of rounding, in the norm
GROSS = 16.0  # times what is left is what a mistake must change to be known by the norm
INDISTINCT = 16.0  # of χ²: four standard deviations
Zs = dict[str, np.ndarray]


def diagnose(
    actual: Arrays, oracle: Oracle, contract: Contract, variance: Arrays
) -> tuple[Diagnosis, ...]:
    """What the outputs say of each mistake of the oracle: those present first.

    `actual` and `variance` are by the name of the output, in float64; outputs that are not in both
    do not count. `variance` is that of an honest result under the contract.
    """
    noises = noises_of(oracle, contract, variance, actual)
    z = {n: noise.z for n, noise in noises.items()}
    honest = honest_kernels(oracle, contract, noises)
    present: list[Diagnosis] = []
    settled: set[str] = set()
    while True:
        absent, chosen = _scan(oracle, z, noises, honest, settled)
        if not chosen:
            return (*present, *absent)
        present.append(_present(chosen, z))
        settled |= {s.mistake.name for s in chosen}
        z = _without(z, chosen[0])


def _scan(
    oracle: Oracle, z: Zs, noises: Noises, honest: Honest, settled: set[str]
) -> tuple[list[Diagnosis], list[Signature]]:
    """What an error says of each mistake that is not settled, and which ones explain it best.

    One mistake at a time: their signatures are as large as the outputs.
    """
    absent: list[Diagnosis] = []
    best: list[tuple[float, float, Signature]] = []
    for mistake in oracle.mistakes:
        if mistake.name in settled:
            continue
        for s in signatures(mistake, mutated(mistake, oracle), noises, honest):
            if not s.where:
                absent.append(_absent(s, z))
            if _is_there(s, z, noises) and _fits(s, z, noises):
                slack = INDISTINCT + (s.signal * (2 * _roundoff(s, noises) + s.honest)) ** 2
                best.append((s.remains(z), slack, s))
                least, *_ = min(best, key=itemgetter(0))
                best = [t for t in best if t[0] <= least * (1 + 1e-9) + t[1]]
    chosen: dict[str, Signature] = {}
    for *_, s in sorted(best, key=itemgetter(0)):
        chosen.setdefault(s.mistake.name, s)
    everywhere = [s for s in chosen.values() if not s.where]
    return absent, everywhere or list(chosen.values())


def _is_there(s: Signature, z: Zs, noises: Noises) -> bool:
    """Whether all of it is in the error, and it could be seen."""
    if not is_decidable(s):
        return False
    return abs(s.share(z) - 1) < min(0.15, 4 / s.signal + 3 * _roundoff(s, noises) + s.honest)


def _roundoff(s: Signature, noises: Noises) -> float:
    return max(noises[n].grid.roundoff for n in s.D)


def is_decidable(s: Signature) -> bool:
    """Whether these inputs can show it."""
    return not why_undecidable(s)


def why_undecidable(s: Signature) -> str:
    """Why these inputs cannot show it; nothing if they can."""
    if s.signal == 0:
        return "it changes nothing with these inputs"
    if s.signal < LEAST_SIGNAL:
        return f"it stands out by {s.signal:.2g} standard deviations, {LEAST_SIGNAL:g} are needed"
    if s.differing < LEAST_DIFFERING:
        return "rounding the result hides it, but for too few elements to know it by"
    if s.honest > max(0.05, 3 / s.signal):
        return f"swamped: honest rounding alone looks like {s.honest:.2g} of it"
    return ""


def _fits(s: Signature, z: Zs, noises: Noises) -> bool:
    """Whether nothing but rounding is left in the outputs that it changes, without it.

    It is in the forward alone, or in the gradients alone, only if the other outputs are right.
    """
    others = [n for n in z if s.where and n not in s.D]
    if not all(_is_rounding(z[n], noises[n].known) for n in others):
        return False
    left = _without({n: z[n] for n in s.D}, s)
    if all(_is_rounding(t, noises[n].known) for n, t in left.items()):
        return True
    if abs(s.share(z) - 1) > 4 / s.signal + 2 * _roundoff(s, noises):
        return False
    return all(
        _is_rounding(t, noises[n].known) or _is_near(t, s.D[n], noises[n]) for n, t in left.items()
    )


def _is_near(left: np.ndarray, D: np.ndarray, noise: Noise) -> bool:
    """Whether what is left is as small against the mutated output as roundings of it would be."""
    if not np.isfinite(left).all():
        return False
    known = noise.weight > 0
    sigma, right = 1 / noise.weight[known], noise.reference[known]
    left, D = left[known] * sigma, D[known] * sigma
    rest, size, changed, right_size, usual = (
        float(np.linalg.norm(t)) for t in (left, right + D, D, right, sigma)
    )
    share = max(noise.grid.roundoff, usual / right_size if right_size else 0.0)
    return rest <= NEAR * share * size and rest <= changed / GROSS


def _is_rounding(z: np.ndarray, known: int) -> bool:
    """Whether an error in units of σ looks like rounding, of so many elements."""
    count = max(known, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        mean, most = float(np.sum(z * z)) / count, float(abs(z).max(initial=0.0))
    limit = 3 * np.sqrt(2 * np.log(2 * count / 1e-9))
    return mean <= LARGEST_MISFIT * (1 + 6 * np.sqrt(2 / count)) and most <= limit


def _without(z: Mapping[str, np.ndarray], s: Signature) -> Zs:
    return {n: t - s.D[n] if n in s.D else t for n, t in z.items()}


def _present(chosen: Sequence[Signature], z: Zs) -> Diagnosis:
    """One diagnosis, under all the names that the numbers do not tell apart."""
    first = chosen[0]
    name = " or ".join(s.name for s in chosen)
    formula = " or ".join(dict.fromkeys(s.mistake.formula for s in chosen))
    said = _diagnosis(first, State.PRESENT, first.share(z), 1.0, "")
    return replace(said, name=name, formula=formula)


def _absent(s: Signature, z: Zs) -> Diagnosis:
    """EXCLUDED, or why not."""
    misfit, share = _misfit(s, z), s.share(z)
    reason = why_undecidable(s)
    if not reason and not s.signal / misfit >= LEAST_SIGNAL:
        reason = "another error hides it"
    elif not reason and abs(share) >= 0.5:
        reason = f"{share:.3g} of it is there: not this mistake as it is known"
    state = State.UNDECIDABLE if reason else State.EXCLUDED
    return _diagnosis(s, state, share, misfit, reason)


def _misfit(s: Signature, z: Zs) -> float:
    """f: the root mean square z of the outputs that the mistake changes, at least 1."""
    count = sum(max(z[n].size, 1) for n in s.D)
    with np.errstate(over="ignore"):
        total = sum(float(np.sum(z[n] * z[n])) for n in s.D)
    return max(1.0, (total / max(count, 1)) ** 0.5)


def _diagnosis(s: Signature, state: State, share: float, misfit: float, reason: str) -> Diagnosis:
    error = misfit / s.signal if s.signal else float("inf")
    return Diagnosis(s.mistake.name, s.mistake.formula, state, share, error, s.signal, reason)
