"""Running error analysis: what one rounding and one sum do to an enclosure.

Math:
    store     e ← e + h(|v| + e)                          S ← S + h(|v|)²/3
    sum of K  e = Σ e + γ Σ |a|₊ on the accumulator, S = Σ S + κ a² + ⅔ κ v²
    κ = K u²/6 with u the accumulator's roundoff, |a|₊ = |a| + e
    γ is the contract's for K terms, plus K + 2 units of float64 for the computation of v itself.
Limits:
    Variances are of independent roundings. κ is left out where it is less than a thousandth of
    what storing the result adds. Companions in float32 want data of moderate size (`moderate`).
Source:
    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.3 (running
    error analysis) and 3.5 (matrix multiplication).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..contract import Contract
from ..grids import Grid
from .chunks import chunks, flat
from .enclosure import (
    VARIANCE_UNIT,
    Enclosure,
    half_ulp,
    half_ulp_squared,
    is_power_of_two,
    magnitude,
    size_of,
)

_WIDE = 2.0**40  # between the largest and the least number of an input
_LARGE = 2.0**10


def moderate(leaves: list[np.ndarray]) -> bool:
    """Whether companions in float32 can neither overflow nor underflow for these inputs."""
    for leaf in leaves:
        size = np.abs(leaf)
        largest = float(np.max(size, initial=0.0, where=np.isfinite(size)))
        least = float(np.min(size, initial=np.inf, where=size > 0))
        if largest > _LARGE or (0 < largest < 1 / _LARGE) or largest > least * _WIDE:
            return False
    return True


@dataclass(frozen=True)
class Arithmetic:
    """The roundings of a contract; companions are of `dtype`, variances kept if `variance`."""

    contract: Contract
    dtype: np.dtype
    variance: bool

    def exact(self, v: np.ndarray) -> Enclosure:
        return Enclosure(v, None, None, self.dtype)

    def store(
        self,
        v: np.ndarray,
        e: np.ndarray | None,
        s: np.ndarray | None,
        grid: Grid | None = None,
        size: np.ndarray | None = None,
        factor: float = 1.0,
    ) -> Enclosure:
        """factor · v ± e written on a grid, the contract's for intermediates if none is given."""
        grid = grid or self.contract.store
        v = np.asarray(v)
        new = Enclosure(v, np.empty(v.shape, self.dtype), None, self.dtype, size, factor)
        if size is None:
            new._size = np.empty(v.shape, self.dtype)
        if self.variance:
            new.s = np.empty(v.shape, self.dtype)
        given: list[Any] = [
            flat(v, v.shape),
            flat(e, v.shape),
            flat(s, v.shape),
            flat(new.size, v.shape),
        ]
        made: list[Any] = [flat(new.e, v.shape), flat(new.s, v.shape)]
        for part in chunks(v.size):
            v_, e_, s_, size_ = _parts(given, part)
            if size is None:
                np.copyto(size_, v_, casting="same_kind")
                magnitude(size_, factor)
            self._store(e_, s_, size_, grid, *_parts(made, part))
        return new

    def _store(
        self,
        e: np.ndarray | None,
        s: np.ndarray | None,
        size: np.ndarray,
        grid: Grid,
        e_out: np.ndarray,
        s_out: np.ndarray | None,
    ) -> None:
        """One rounding, of as many elements as fit into a cache."""
        upper = size if e is None else size + e
        half_ulp(upper, grid, e_out)
        if e is not None:
            e_out += e
        if self.ends_near(grid):
            e_out[size + e_out > grid.largest] = np.inf
        if s_out is not None:
            half_ulp_squared(size, grid, s_out)
            if s is not None:
                s_out += s

    def rounded(self, a: Enclosure, grid: Grid | None = None) -> Enclosure:
        """`a` written once more."""
        return self.store(a.base, a.e, a.s, grid, a.size, a.factor)

    def scaled(self, a: Enclosure, c: float) -> Enclosure:
        """c times what is stored as `a`, and stored again."""
        scaled = a.times(c)
        if not is_power_of_two(c):
            return self.rounded(scaled)
        if abs(c) == 1 or not self.ends_near(self.contract.store):
            return scaled
        lost = self.lost(scaled.upper, c)
        e = lost if scaled.e is None else scaled.e + lost
        s = scaled.s
        if self.variance:
            of_lost = lost * lost * self.dtype.type(1 / (3 * VARIANCE_UNIT))
            s = of_lost if s is None else s + of_lost
        return Enclosure(scaled.base, e, s, self.dtype, scaled.size, scaled.factor)

    def held(self, a: Enclosure, c: float) -> Enclosure:
        """`a`, which has a factor c, where that is a number of a coarse grid itself."""
        u = self.contract.scale.held_on.roundoff
        if u == 2.0**-53 or is_power_of_two(c):
            return a
        number = self.dtype.type
        e = a.upper * number(2 * u)  # c may be a product of two factors
        s = a.square * number(u * u / VARIANCE_UNIT) if self.variance else None
        e, s = e if a.e is None else e + a.e, s if s is None or a.s is None else s + a.s
        return Enclosure(a.base, e, s, self.dtype, a.size, a.factor)

    def lost(self, upper: np.ndarray, c: float) -> np.ndarray:
        """What c, a power of two, costs on a small grid that gets numbers up to `upper`."""
        grid = self.contract.store
        if abs(c) > 1:
            return np.where(upper > grid.largest, self.dtype.type(np.inf), self.dtype.type(0))
        least = (upper > 0) & (upper < 2.0**grid.emin)
        return np.where(least, self.dtype.type(grid.smallest / 2), self.dtype.type(0))

    def loaded(self, a: Enclosure) -> Enclosure:
        """`a` as a matrix product takes it."""
        load = self.contract.load
        if load is None or (bool(np.all(load.holds(a.v))) and a.e is None):
            return a
        return self.rounded(a, load)

    def of_partial_sums(self, v: np.ndarray, kappa: float) -> np.ndarray:
        """⅔ κ v²: the roundings of partial sums that grow towards v, of terms of one sign."""
        size = size_of(v, self.dtype, (2 * kappa / 3) ** 0.5)
        return np.multiply(size, size, out=size)

    def ends_near(self, grid: Grid) -> bool:
        """Whether numbers may leave a grid; companions in float32 have data of moderate size."""
        return grid.overflows_soon or self.dtype == np.float64

    @property
    def may_leave_range(self) -> bool:
        """Whether sums may overflow or underflow."""
        return self.ends_near(self.contract.accumulate.grid)

    def leave_range(self, e: np.ndarray, upper: np.ndarray, terms: int) -> None:
        """Adds to e what sums of size up to `upper` lose at either end of the accumulator."""
        if self.may_leave_range:
            grid = self.contract.accumulate.grid
            e[e > 0] += self.dtype.type(terms * grid.smallest)
            e[upper > grid.largest] = np.inf

    def accumulated_variance(self, terms: int) -> float:
        """κ in units of 2^−48, 0 where the store of the result hides it."""
        u = self.contract.accumulate.roundoff
        kappa = terms * u * u / 6
        return kappa / VARIANCE_UNIT if kappa > 1e-3 * self.contract.store.roundoff**2 / 3 else 0.0

    @property
    def functions_show(self) -> bool:
        """Whether the error of exp and its like shows beside the rounding of what is stored."""
        own = 2 * self.contract.exp_ulps * self.contract.accumulate.roundoff
        return own * own > 1e-3 * self.contract.store.roundoff**2

    def function_variance(self, size: np.ndarray) -> np.ndarray:
        """Of an exp, log, tanh or erf of this size, as uniform as a rounding is."""
        own = 2 * self.contract.exp_ulps * self.contract.accumulate.roundoff
        return size * size * self.dtype.type(own * own / (3 * VARIANCE_UNIT))

    def gamma(self, terms: int) -> float:
        return self.contract.gamma(terms) + (terms + 2) * 2.0**-53

    def inflation(self, terms: int) -> float:
        """What a product of companions may have lost to its own roundings."""
        return 1 + (terms + 16) * float(np.finfo(self.dtype).eps)

    def summed(
        self, e: np.ndarray | None, upper: np.ndarray, axis: int | tuple[int, ...], terms: int
    ) -> np.ndarray:
        """e of a sum along `axis`, on the accumulator: Σ e + γ Σ |a|₊."""
        inflation = self.inflation(terms)
        total = upper.sum(axis=axis, keepdims=True) * self.dtype.type(self.gamma(terms) * inflation)
        if e is not None:
            total += e.sum(axis=axis, keepdims=True) * self.dtype.type(inflation)
        if self.may_leave_range:
            self.leave_range(total, upper.sum(axis=axis, keepdims=True), terms)
        return total

    def union(self, *found: Enclosure) -> Enclosure:
        """What any of several enclosures of one value admits."""
        first, *others = found
        e, s = first.e, first.s
        for other in others:
            e = _larger(e, other.e)
            s = _larger(s, other.s)
        return Enclosure(first.v, e, s, self.dtype, first.size)


def _parts(arrays: list[Any], part: slice) -> list[Any]:
    return [None if t is None else t[part] for t in arrays]


def _larger(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return a if b is None else b
    return np.maximum(a, b)
