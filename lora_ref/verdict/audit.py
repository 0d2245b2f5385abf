"""Audit: does an implementation do what its contract claims, or less?

An implementation that loads tf32 where float32 is claimed, keeps 16-bit intermediates, or adds on
a 16-bit accumulator is no bug of the formula: its outputs follow, nearly bit by bit, the
emulation of another contract. Each known departure is emulated, and the nearest one is named.

Math:
    distance of the outputs from an emulation: the root mean square of (actual − emulated) / σ,
    over all outputs that both have, σ² the variance of the claimed contract; of several choices
    that a contract leaves open the nearest counts. A departure is reported if its distance is
    below HALF that of the claimed contract, and below LARGEST.
    A 16-bit accumulator leaves random errors instead, for the order of additions is not known:
    there the outputs must be within the bounds of its own contract, and the rms z of each of them
    between LEAST and LARGEST in it (a split sum rounds less than the model), beyond LARGEST in the
    claimed one, and beyond LARGEST_RMS for one of them.
Limits:
    Truncation on a float32 accumulator cannot be told through a bfloat16 output. A departure that
    changes the outputs by less than their last rounding cannot be told either.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .bounds import Bounds, bounds
from .calibration import honest_outputs
from .choices import Choices, Fusion, ScaleSite
from .contract import Accumulator, Contract, Forms
from .grids import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16, TF32, Grid
from .kernels import merge_in_halves
from .oracle import Oracle
from .statistics import LARGEST_RMS, statistics

HALF, LARGEST, LEAST = 0.5, 1.5, 0.15
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
    """What an implementation does instead, and how near its outputs come to that."""

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
    claimed = _nearest(actual, oracle, contract, sigma)
    departures = [
        Departure(says, other, _nearest(actual, oracle, other, sigma), claimed)
        for says, other in _less(contract, oracle)
    ]
    near = [d for d in departures if d.distance < min(LARGEST, HALF * claimed)]
    if not near:
        near = list(_accumulators(actual, oracle, contract, found))
    return tuple(sorted(near, key=lambda d: d.distance))


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


def _nearest(actual: Outputs, oracle: Oracle, contract: Contract, sigma: Outputs) -> float:
    """The distance from the nearest of the choices that the contract leaves open."""
    distances = []
    for emulated in honest_outputs(oracle, contract, _CHOICES):
        distances.append(_distance(actual, emulated, sigma))
    return min(distances, default=float("inf"))


def _distance(actual: Outputs, emulated: Outputs, sigma: Outputs) -> float:
    total, count = 0.0, 0
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, s in sigma.items():
            z = (actual[name] - emulated[name]) / s
            known = np.isfinite(z) & (s > 0)
            total += float(np.sum(z[known] ** 2))
            count += int(np.count_nonzero(known))
    return (total / count) ** 0.5 if count else 0.0


def _accumulators(
    actual: Outputs, oracle: Oracle, contract: Contract, found: Mapping[str, Bounds]
) -> Iterable[Departure]:
    claimed = _rms(actual, found)
    if max(claimed, default=0.0) <= LARGEST_RMS or min(claimed) <= LARGEST:
        return
    for grid in (FOURTEEN_BITS, FLOAT16, BFLOAT16):
        if grid.precision >= contract.accumulate.grid.precision:
            continue
        other = contract.relax(accumulate=Accumulator(grid))
        its = bounds(oracle, other)
        rms = _rms(actual, its)
        if _inside(actual, its) and min(rms) > LEAST and max(rms) < LARGEST:
            yield Departure(f"sums kept on {grid.name}", other, max(rms), max(claimed))
            return


def _rms(actual: Outputs, found: Mapping[str, Bounds]) -> list[float]:
    return [statistics(actual[n] - b.v, b.s).rms_z for n, b in found.items() if n in actual]


def _inside(actual: Outputs, found: Mapping[str, Bounds]) -> bool:
    with np.errstate(invalid="ignore"):
        return all(
            bool(np.all((np.abs(actual[n] - b.v) <= b.e) | ~np.isfinite(b.e)))
            for n, b in found.items()
            if n in actual
        )
