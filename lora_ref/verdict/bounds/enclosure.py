"""A value, how far an honest result may be from it, and the variance of a typical one.

Math:
    size  |v|        upper  |v| + e        square  |v|²
    half ulp of a ≥ 0 on a grid of unit roundoff u:  h(a) = u 2^⌊log₂ a⌋, h(0) = 0
Units:
    Variances are held in units of 2^−48, so that those of float32 roundings do not underflow.
Limits:
    Errors and variances may be kept in float32: every operation on them adds terms that are not
    negative, so that nothing cancels, and the result is inflated by what their own rounding may
    have lost. e = inf says that nothing is known of an element.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..grids import Grid

VARIANCE_UNIT = 2.0**-48
_EXPONENT: dict[Any, Any] = {
    np.dtype(np.float32): np.int32(0x7F800000),
    np.dtype(np.float64): np.int64(0x7FF << 52),
}
_INTEGER = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}
_FLOOR = 2.0**-100  # instead of a subnormal, which makes a product of matrices fifty times slower


class Enclosure:
    """v = factor · base, float64; e and s of the companions' dtype, None where they are zero.

    v and its size are computed when they are asked for: of an operand only the size is.
    """

    __slots__ = ("_parent", "_size", "_square", "_upper", "_v", "base", "dtype", "e", "factor", "s")

    def __init__(
        self,
        v: np.ndarray,
        e: np.ndarray | None,
        s: np.ndarray | None,
        dtype: np.dtype,
        size: np.ndarray | None = None,
        factor: float = 1.0,
    ):
        self.base, self.factor = v, factor
        self.e, self.s, self.dtype = e, s, dtype
        self._size: Any = size
        self._upper: Any = None
        self._square: Any = None
        self._v: np.ndarray | None = v if factor == 1 else None
        self._parent: tuple[Enclosure, Callable[[np.ndarray], np.ndarray]] | None = None

    @property
    def v(self) -> np.ndarray:
        if self._v is None:
            self._v = -self.base if self.factor == -1 else self.factor * self.base
        return self._v

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def size(self) -> np.ndarray:
        if self._size is None:
            if self._parent is not None:
                parent, f = self._parent
                self._size = f(parent.size)
            else:
                self._size = size_of(self.base, self.dtype, self.factor)
        return self._size

    @property
    def upper(self) -> np.ndarray:
        if self.e is None:
            return self.size
        if self._upper is None:
            self._upper = self.size + self.e
        return self._upper

    @property
    def square(self) -> np.ndarray:
        if self._square is None:
            self._square = self.size * self.size
        return self._square

    def view(self, f: Callable[[np.ndarray], np.ndarray]) -> "Enclosure":
        """f moves elements and computes nothing."""
        e, s = (None if t is None else f(t) for t in (self.e, self.s))
        seen = Enclosure(f(self.base), e, s, self.dtype, None, self.factor)
        seen._parent = (self, f)
        return seen

    def times(self, c: float) -> "Enclosure":
        """c times all of it, without any rounding."""
        if c == 1:
            return self
        size, e, s = self._size, self.e, self.s
        if abs(c) != 1:
            size = None
            e = None if e is None else e * self.dtype.type(abs(c))
            s = None if s is None else s * self.dtype.type(c * c)
        scaled = Enclosure(self.base, e, s, self.dtype, size, c * self.factor)
        if c == -1:
            scaled._parent = (self, lambda t: t)
        return scaled


def size_of(v: np.ndarray, dtype: np.dtype, factor: float = 1.0) -> np.ndarray:
    """|factor · v|, as a fresh array of a companion's dtype."""
    size = np.array(v, dtype=dtype, order="C")
    return magnitude(size, factor)


def magnitude(size: np.ndarray, factor: float) -> np.ndarray:
    """|factor · size|, in its place."""
    np.abs(size, out=size)
    if abs(factor) != 1:
        size *= size.dtype.type(abs(factor))
    return size


def half_ulp(a: np.ndarray, grid: Grid, out: np.ndarray | None = None) -> np.ndarray:
    """h(a), elementwise, of a's dtype; not below the half of the least number.

    Twice that on float64, where v itself is off by as much.
    """
    h = _power_of_two(a, grid.roundoff * (2 if grid.precision == 53 else 1), out)
    if a.dtype == np.float32 and grid.emin < -100:
        h += np.float32(_FLOOR)  # also at 0: this costs one pass, and to leave 0 out costs three
        return h
    np.maximum(h, a.dtype.type(grid.smallest / 2), out=h)
    h[a == 0] = _FLOOR if a.dtype == np.float32 else 0  # what is 0 here may have underflowed
    return h


def half_ulp_squared(a: np.ndarray, grid: Grid, out: np.ndarray | None = None) -> np.ndarray:
    """h(a)²/3 in units of 2^−48: the variance of one rounding at a."""
    unit = 2.0**24 / 3**0.5
    h = _power_of_two(a, grid.roundoff * unit, out)
    if grid.emin > -100 or a.dtype == np.float64:  # small data have companions in float64
        np.maximum(h, a.dtype.type(grid.smallest / 2 * unit), out=h)
    h *= h
    return h


def _power_of_two(a: np.ndarray, factor: float, out: np.ndarray | None) -> np.ndarray:
    """factor · 2^⌊log₂ a⌋, from the exponent's bits; 0 where a is 0 or subnormal."""
    dtype = a.dtype
    h = np.empty_like(a) if out is None else out
    np.bitwise_and(a.view(_INTEGER[dtype]), _EXPONENT[dtype], out=h.view(_INTEGER[dtype]))
    h *= dtype.type(factor)
    return h


def is_power_of_two(c: float) -> bool:
    """Whether a product by c is exact, overflow and underflow aside."""
    return c == 0 or abs(np.frexp(c)[0]) == 0.5
