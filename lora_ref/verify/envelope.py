"""The envelope: is a merge that no recipe explains within the bounds of its contract?

A recipe is one order of rounding. What lies beyond the table is held against all orders of the
contract `merged_<dtype>` of the stored dtype together: the text of the merge is read with errors,
and each element must be within its bound. A mistake that hides below the rounding of each element
does not hide in their sum: what rounding leaves over must be free of the update.

Math:
    |M − (W + D*)| <= e, the bound of (W + ½D*) + ½D* in any order
    β = ⟨M − round(W + D*), D*⟩ / ‖D*‖²                             0 if nothing is wrong
    |β| <= 5 σ_β + 3 u + λ, λ what underflow can take of it:
        λ = ⟨|s| ((|L| + τ)(|R| + τ) − |L||R| + (r + 2) τ), |D*|⟩ / ‖D*‖²
    with τ the least positive number of the grid, σ_β² the variance of β
Limits:
    That an intermediate overflows is not admitted, for the result would not be finite.
Source:
    The contract and its sources are `lora_ref.verdict.contract.merged`.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..adapters.lora import LoRA
from ..verdict.bounds import Namespace, bounds_of
from ..verdict.bounds.arithmetic import Arithmetic
from ..verdict.bounds.bounded import leaf
from ..verdict.contract import merged
from ..verdict.grids import Grid
from ..verdict.kernels import merge_in_halves
from .measure import Pair, row_blocks
from .updates import EVERY, LowRank, Part

BEYOND = 2.0**99  # no number of a stored tensor is as large


@dataclass(frozen=True)
class Envelope:
    """Whether every element is inside the bound, and the share β of the update left over."""

    contract: str  # its name
    outside: int
    beta: float
    beta_error: float
    beta_lost: float  # the most that underflow of factors and products can make of it
    precision: int

    @property
    def holds(self) -> bool:
        """No element outside, and no more of the update missing than rounding s can explain."""
        allowed = 5 * self.beta_error + 3 * 2.0**-self.precision + self.beta_lost
        return self.outside == 0 and abs(self.beta) <= allowed

    @property
    def is_blind(self) -> bool:
        """Whether honest underflow could take a quarter of the update away."""
        return self.beta_lost > 0.25


def envelope(pair: Pair, update: LowRank) -> Envelope:
    """The bounds of the stored grid's contract, and the regression on the update.

    One pass, which ends where the first elements are outside: nothing else matters then.
    """
    grid, contract = pair.grid, merged(pair.grid)
    arithmetic = Arithmetic(merged(_without_overflow(grid)), np.dtype(np.float64), False)
    outside, sums = 0, np.zeros(4)
    for rows in row_blocks(pair.shape):
        W, M = pair.base(rows, EVERY), pair.merged(rows, EVERY)
        outside += int((~_inside(arithmetic, update, rows, W, M)).sum())
        if outside:
            break
        D, lost = update.delta(rows), _lost(update, grid, rows)
        rest = M - grid.round(W + D)
        sums += [np.vdot(rest, D), np.vdot(rest * rest, D * D), np.vdot(lost, abs(D)),
                 np.vdot(D, D)]  # fmt: skip
    along, scatter, taken, wanted = (float(t) for t in sums)
    wanted = wanted or 1.0
    beta, error = along / wanted, scatter**0.5 / wanted
    return Envelope(contract.name, outside, beta, error, taken / wanted, grid.precision)


def _without_overflow(grid: Grid) -> Grid:
    """The grid with as good as no largest number: what is finite has not overflowed."""
    return replace(grid, largest=BEYOND) if grid.overflows_soon else grid


def _inside(
    arithmetic: Arithmetic, update: LowRank, rows: np.ndarray, W: np.ndarray, M: np.ndarray
) -> np.ndarray:
    """Which elements of a block of whole rows are within their bounds."""
    first, last = int(rows[0]), int(rows[-1])
    edges = {e for p in update.parts for e in (p.start, p.stop) if first < e <= last}
    inside = np.zeros(W.shape, dtype=bool)
    for start, stop in pairwise(sorted({first, last + 1, *edges})):
        here = slice(start - first, stop - first)
        v, e = _bounds(arithmetic, update, start, stop, W[here])
        inside[here] = (np.abs(M[here] - v) <= e) & np.isfinite(e)
    return inside


def _bounds(
    arithmetic: Arithmetic, update: LowRank, start: int, stop: int, W: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The value of these rows of the merge, and how far an admitted one may be from it."""
    xp = Namespace(arithmetic)
    text = leaf(xp, W)
    for part in _parts(update, start, stop):
        L, R = leaf(xp, part.L[start - part.start : stop - part.start]), leaf(xp, part.R)
        text, _ = merge_in_halves(LoRA(A=R, B=L, scale=update.scale), W=text)
    found = bounds_of(text, arithmetic.contract)
    return found.v, found.e


def _parts(update: LowRank, start: int, stop: int) -> list[Part]:
    """Those that cover the rows, at least one of zeros."""
    zeros = Part(start, np.zeros((stop - start, 1)), np.zeros((1, update.shape[1])))
    return [p for p in update.parts if p.start <= start and stop <= p.stop] or [zeros]


def _lost(update: LowRank, grid: Grid, rows: np.ndarray) -> np.ndarray:
    """What underflow of the factors, of the products and of their sum can make of s L R."""
    least, r = grid.smallest, update.rank
    parts = tuple(Part(p.start, abs(p.L) + least, abs(p.R) + least) for p in update.parts)
    more = replace(update, parts=parts).product(rows)[0] - update.product(rows)[1]
    return abs(update.scale) * (np.maximum(more, 0.0) + (r + 2) * least)
