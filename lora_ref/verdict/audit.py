"""Audit: does an implementation do what its contract claims, or less?

An implementation that loads tf32 where float32 is claimed, keeps 16-bit intermediates, or adds on
a 16-bit accumulator is no bug of the formula: its outputs follow, nearly bit by bit, the
emulation of another contract. Each known departure is emulated, and the nearest one is named.

Math:
    distance of the outputs from an emulation: the root mean square of (actual − emulated) / σ,
    over all outputs that both have, σ² the variance of the claimed contract; of several choices
    that a contract leaves open the nearest counts. A departure is reported if its distance is
    below HALF that of the claimed contract and below LARGEST, or below TENTH of the claimed one:
    a sum in another order may carry some numbers across a tie when they are loaded. Departures
    whose emulations, each the nearest of its contract, are within √INDISTINCT σ of the nearest
    departure's, all elements together, are not told apart by these inputs: they are named
    together.
    A 16-bit accumulator leaves random errors instead, for the order of additions is not known:
    there the outputs must be within the bounds of its own contract, and the rms z of each of them
    between LEAST and LARGEST in it (a split sum rounds less than the model), beyond LARGEST in the
    claimed one, and beyond LARGEST_RMS for one of them. So must be the median of |z|, as multiple
    of that of Gaussian errors: a wrong column or element is no accumulator.
Limits:
    Truncation on a float32 accumulator cannot be told through a bfloat16 output. A departure that
    changes the outputs by less than their last rounding cannot be told either.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .bounds import Bounds, bounds
from .calibration import honest_outputs
from .choices import Choices, Fusion, ScaleSite
from .contract import Accumulator, Contract, Forms
from .grids import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16, TF32, Grid
from .kernels import merge_in_halves
from .oracle import Oracle
from .statistics import LARGEST_RMS, statistics

HALF, TENTH, LARGEST, LEAST = 0.5, 0.1, 1.5, 0.15
MEDIAN = 0.6745  # of |z| of Gaussian errors
INDISTINCT = 16.0  # of χ²: four standard deviations
FOURTEEN_BITS = Grid("14 bits", 14, -126, 2.0**127, True)  # Hopper's float8 tensor cores
_CHOICES = (
    Choices(),
    Choices(scale=ScaleSite.ACCUMULATOR),
    Choices(scale=ScaleSite.LEFT),
    Choices(scale=ScaleSite.RIGHT),
    Choices(fusion=Fusion.ELEMENTWISE),
    Choices(fusion=Fusion.EVERYTHING),
    Choices(merged=True),
)
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Departure:
    """What an implementation does instead, and how near its outputs come to that.

    `says` has all that these inputs do not tell apart, and `contract` is that of the first.
    """

    says: str
    contract: Contract
    distance: float
    claimed: float

    def __str__(self) -> str:
        return (
            f"{self.says}: within {self.distance:.2g} σ of the outputs, "
            f"{self.claimed:.3g} σ for what is claimed"
        )


def audit(
    actual: Outputs, oracle: Oracle, contract: Contract, found: Mapping[str, Bounds] | None = None
) -> tuple[Departure, ...]:
    """The departures that explain `actual` (float64, by name) better than the contract, best first.

    `found` are the contract's bounds with variances, if they are known already.
    """
    found = found or bounds(oracle, contract)
    sigma = {n: np.sqrt(b.s) for n, b in found.items() if n in actual}
    _, claimed = _nearest(actual, oracle, contract, sigma)
    near = []
    for says, other in _less(contract, oracle):
        emulated, distance = _nearest(actual, oracle, other, sigma)
        if distance < max(min(LARGEST, HALF * claimed), TENTH * claimed):
            near.append((emulated, Departure(says, other, distance, claimed)))
    if not near:
        return tuple(_accumulators(actual, oracle, contract, found))
    return tuple(_told_apart(sorted(near, key=lambda t: t[1].distance), sigma))


def _told_apart(near: list[tuple[Outputs, Departure]], sigma: Outputs) -> Iterator[Departure]:
    """The departures, nearest first; those of which the inputs say the same as one."""
    while near:
        outputs, first = near[0]
        same: list[tuple[Outputs, Departure]] = []
        others: list[tuple[Outputs, Departure]] = []
        for t in near:
            (same if _alike(outputs, t[0], sigma) else others).append(t)
        near = others
        yield replace(first, says=_together([d.says for _, d in same]))


def _alike(a: Outputs, b: Outputs, sigma: Outputs) -> bool:
    if any(np.any(np.isfinite(a[n]) != np.isfinite(b[n])) for n in sigma):
        return False
    return _squares(a, b, sigma)[0] < INDISTINCT


def _together(said: list[str]) -> str:
    """Several departures in one phrase, what they begin with once.

    >>> _together(["operands loaded as tf32", "operands loaded as float16"])
    'operands loaded as tf32 or float16 (these inputs do not tell them apart)'
    """
    if len(said) == 1:
        return said[0]
    first, *others = said
    start = first[: first.rfind(" ") + 1]
    rest = [text.removeprefix(start) for text in others]
    return f"{' or '.join([first, *rest])} (these inputs do not tell them apart)"


def _less(contract: Contract, oracle: Oracle) -> Iterator[tuple[str, Contract]]:
    """Contracts that round more than the claimed one."""
    held = contract.load or contract.inputs
    for grid in (TF32, BFLOAT16, FLOAT16, FLOAT8_E4M3, FLOAT8_E5M2):
        if grid.precision < held.precision:
            yield f"operands loaded as {grid.name}", contract.relax(load=grid)
    for grid in (BFLOAT16, FLOAT16):
        if grid.precision < contract.store.precision:
            yield f"intermediates stored in {grid.name}", contract.relax(store=grid)
    if oracle.merged is not None and not contract.forms.merged:
        halves = oracle.merged is merge_in_halves
        says = "the update added in two halves" if halves else "the merged form, W' stored"
        yield says, contract.relax(forms=Forms(factored=False, merged=True))


def _nearest(
    actual: Outputs, oracle: Oracle, contract: Contract, sigma: Outputs
) -> tuple[Outputs, float]:
    """The nearest emulation with the choices that the contract leaves open, and its distance."""
    nearest: tuple[Outputs, float] = ({}, float("inf"))
    for emulated in honest_outputs(oracle, contract, _CHOICES):
        squares, count = _squares(actual, emulated, sigma)
        distance = (squares / count) ** 0.5 if count else 0.0
        if distance < nearest[1]:
            nearest = (emulated, distance)
    return nearest


def _squares(a: Outputs, b: Outputs, sigma: Outputs) -> tuple[float, int]:
    """Σ ((a − b) / σ)² over the elements that both have, and their number."""
    total, count = 0.0, 0
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, s in sigma.items():
            z = (a[name] - b[name]) / s
            known = np.isfinite(z) & (s > 0)
            total += float(np.sum(z[known] ** 2))
            count += int(np.count_nonzero(known))
    return total, count


def _accumulators(
    actual: Outputs, oracle: Oracle, contract: Contract, found: Mapping[str, Bounds]
) -> Iterable[Departure]:
    claimed = [min(rms, typical) for rms, typical in _scatter(actual, found)]
    if max(claimed, default=0.0) <= LARGEST_RMS or min(claimed) <= LARGEST:
        return
    for grid in (FOURTEEN_BITS, FLOAT16, BFLOAT16):
        if grid.precision >= contract.accumulate.grid.precision:
            continue
        other = contract.relax(accumulate=Accumulator(grid))
        its = bounds(oracle, other)
        scatter = _scatter(actual, its)
        rms = [one for one, _ in scatter]
        if _inside(actual, its) and min(map(min, scatter)) > LEAST and max(rms) < LARGEST:
            yield Departure(f"sums kept on {grid.name}", other, max(rms), max(claimed))
            return


def _scatter(actual: Outputs, found: Mapping[str, Bounds]) -> list[tuple[float, float]]:
    """Of each output the root mean square of z, and what its median would make of it."""
    scatter = []
    for n, b in found.items():
        if n in actual:
            with np.errstate(invalid="ignore", divide="ignore"):
                z = np.abs(actual[n] - b.v) / np.sqrt(b.s)
            known = z[np.isfinite(z) & (b.s > 0)]
            median = float(np.median(known)) if known.size else 0.0
            scatter.append((statistics(actual[n] - b.v, b.s).rms_z, median / MEDIAN))
    return scatter


def _inside(actual: Outputs, found: Mapping[str, Bounds]) -> bool:
    with np.errstate(invalid="ignore"):
        return all(
            bool(np.all((np.abs(actual[n] - b.v) <= b.e) | ~np.isfinite(b.e)))
            for n, b in found.items()
            if n in actual
        )
