"""Running error analysis: what one rounding, one product and one sum do to an enclosure.

Math:
    store     e ← e + h(|v| + e)                          S ← S + h(|v|)²/3
    product   e = (E_A + γ |A|₊) |B|₊ + |A| E_B           |A|₊ = |A| + E_A
              S = (S_A + κ A²) B² + A² S_B,  κ = K u²/6, u the accumulator's unit roundoff
    sum of k  e = Σ eᵢ + (k − 2) h(Σ |aᵢ|₊) + h(|v| + the rest), in any order
    γ is the contract's for K terms, plus K + 2 units of float64 for the computation of v itself.
Limits:
    Variances are of independent roundings. κ is left out where it is less than a thousandth of
    what storing the result adds. Companions in float32 want data of moderate size (`moderate`).
Source:
    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.3 (running
    error analysis) and 3.5 (matrix multiplication).
"""

from dataclasses import dataclass

import numpy as np

from ..contract import Contract
from ..grids import Grid
from .enclosure import VARIANCE_UNIT, Enclosure, half_ulp, half_ulp_squared

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
    ) -> Enclosure:
        """v ± e written on a grid, the contract's for intermediates if none is given."""
        grid = grid or self.contract.store
        if size is None:
            size = np.abs(v).astype(self.dtype)
        upper = size if e is None else size + e
        h = half_ulp(upper, grid)
        e = h if e is None else np.add(e, h, out=h)
        if grid.overflows_soon:
            e[upper + e > grid.largest] = np.inf
        if self.variance:
            own = half_ulp_squared(size, grid)
            s = own if s is None else np.add(s, own, out=own)
        return Enclosure(v, e, s, self.dtype, size)

    def rounded(self, a: Enclosure, grid: Grid | None = None) -> Enclosure:
        """`a` written once more."""
        return self.store(a.v, a.e, a.s, grid, a.size)

    def loaded(self, a: Enclosure) -> Enclosure:
        """`a` as a matrix product takes it."""
        load = self.contract.load
        if load is None or bool(np.all(load.holds(a.v))) and a.e is None:
            return a
        return self.rounded(a, load)

    def product(self, a: Enclosure, b: Enclosure) -> tuple[np.ndarray, np.ndarray | None]:
        """(e, S) of a b, summed on the accumulator and not stored yet; fresh arrays."""
        terms = a.v.shape[-1]
        gamma, inflation = self.gamma(terms), self.inflation(terms)
        if a.e is None and b.e is None:
            e = a.size @ b.size
            e *= self.dtype.type(gamma * inflation)
        elif a.e is None:
            e = a.size @ self._widened(b, gamma, inflation)
        else:
            e = self._widened(a, gamma, inflation) @ b.upper
            if b.e is not None:
                e += (a.size @ b.e) * self.dtype.type(inflation)
        return e, self._product_variance(a, b, terms) if self.variance else None

    def _widened(self, a: Enclosure, gamma: float, inflation: float) -> np.ndarray:
        """(E + γ |A|₊), inflated."""
        wide = a.upper * self.dtype.type(gamma * inflation)
        wide += a.e if inflation == 1 else a.e * self.dtype.type(inflation)
        return wide

    def _product_variance(self, a: Enclosure, b: Enclosure, terms: int) -> np.ndarray | None:
        kappa = self.accumulated_variance(terms)
        of_a = a.s
        if kappa:
            own = a.square * self.dtype.type(kappa)
            of_a = own if of_a is None else np.add(of_a, own, out=own)
        s = None if of_a is None else of_a @ b.square
        if b.s is not None:
            other = a.square @ b.s
            s = other if s is None else np.add(s, other, out=s)
        return s

    def accumulated_variance(self, terms: int) -> float:
        """κ in units of 2^−48, 0 where the store of the result hides it."""
        u = self.contract.accumulate.roundoff
        kappa = terms * u * u / 6
        return kappa / VARIANCE_UNIT if kappa > 1e-3 * self.contract.store.roundoff**2 / 3 else 0.0

    def gamma(self, terms: int) -> float:
        return self.contract.gamma(terms) + (terms + 2) * 2.0**-53

    def inflation(self, terms: int) -> float:
        """What a product of companions may have lost to its own roundings."""
        return 1 + (terms + 16) * float(np.finfo(self.dtype).eps)

    def summed(self, e: np.ndarray | None, upper: np.ndarray, axis: int | tuple[int, ...],
               terms: int) -> np.ndarray:
        """e of a sum along `axis`, on the accumulator: Σ e + γ Σ |a|₊."""
        inflation = self.inflation(terms)
        total = upper.sum(axis=axis, keepdims=True) * self.dtype.type(self.gamma(terms) * inflation)
        if e is not None:
            total += e.sum(axis=axis, keepdims=True) * self.dtype.type(inflation)
        return total

    def union(self, *found: Enclosure) -> Enclosure:
        """What any of several enclosures of one value admits."""
        first, *others = found
        e, s = first.e, first.s
        for other in others:
            e = _larger(e, other.e)
            s = _larger(s, other.s)
        return Enclosure(first.v, e, s, self.dtype, first.size)


def _larger(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return a if b is None else b
    return np.maximum(a, b)
