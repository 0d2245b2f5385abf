"""The grid of numbers that a storage dtype can hold, and rounding to it from float64, once.

Math:
    near |v| = f · 2^e, 1 <= f < 2, a grid of precision p has the spacing
        ulp(v) = 2^(max(e, emin) − p + 1)
    and round(v) is the multiple of ulp(v) nearest to v, ties to the even multiple.
Units:
    p counts the leading bit: bfloat16 8, tf32 and float16 11, float32 24, float8 e4m3 4, e5m2 3.
    The unit roundoff is u = 2^−p, the largest relative error of one rounding.
Limits:
    Beyond the largest number the result is inf, or the largest number on a grid without inf
    (float8 e4m3fn), as PyTorch 2.13 and PEFT 0.21.2 saturate it; NaN stays NaN.
    float64 itself is kept as it is.
Source:
    IEEE 754-2019, section 4.3.1 (roundTiesToEven). NumPy rounds float64 to float16 and float32
    once, but ml_dtypes 0.6.0 goes to bfloat16 and float8 through float32, which rounds twice:
    of 77,863 values just above a bfloat16 tie it takes 38,983 to the wrong side.
"""

from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Grid:
    """The finite values of a floating-point dtype: precision, least exponent, largest value."""

    name: str
    precision: int
    emin: int
    largest: float
    has_inf: bool

    @property
    def roundoff(self) -> float:
        """u = 2^−p, which is half an ulp of 1."""
        return 2.0**-self.precision

    @property
    def smallest(self) -> float:
        """The least positive number, 2^(emin − p + 1)."""
        return 2.0 ** (self.emin - self.precision + 1)

    @property
    def overflows_soon(self) -> bool:
        """Whether ordinary numbers may overflow: float16's and float8's largest are small."""
        return self.largest < 2.0**100

    def holds(self, v: np.ndarray) -> np.ndarray:
        """Whether each element is a number of the grid; inf and NaN are."""
        with np.errstate(invalid="ignore", over="ignore"):
            return (self.round(v) == v) | ~np.isfinite(v)

    def ulp(self, v: np.ndarray) -> np.ndarray:
        """The spacing of the grid at |v|, elementwise; at zero that of the smallest numbers."""
        _, e = np.frexp(np.where(np.isfinite(v), v, 1.0))
        e = np.where(v == 0, self.emin + 1, e)
        return np.ldexp(1.0, np.maximum(e - 1, self.emin) - self.precision + 1)

    def round(self, v: np.ndarray) -> np.ndarray:
        """The nearest value of the grid, ties to even, as float64."""
        v = np.asarray(v, dtype=np.float64)
        if self.precision == 53:
            return v
        if self.precision == 24:
            with np.errstate(over="ignore"):
                return v.astype(np.float32).astype(np.float64)
        drop = 53 - self.precision  # low bits of the float64 to round away
        bits = v.view(np.int64)
        half = (np.int64(1) << (drop - 1)) - 1 + ((bits >> drop) & 1)
        rounded = np.asarray((bits + half) & ~((np.int64(1) << drop) - 1)).view(np.float64)
        size = np.abs(v)
        special = ~(size >= 2.0**self.emin) | (np.abs(rounded) > self.largest)
        if special.any():
            rounded[special] = self._round_special(v[special])
        return rounded

    def truncate(self, v: np.ndarray) -> np.ndarray:
        """The nearest value of the grid that is not larger in size, as float64."""
        v = np.asarray(v, dtype=np.float64)
        if self.precision == 53:
            return v
        quantum = self.ulp(v)
        chopped = np.where(np.isfinite(v), np.trunc(v / quantum) * quantum, v)
        beyond = np.isfinite(v) & (np.abs(v) > self.largest)
        return np.where(beyond, np.copysign(self.largest, v), chopped)

    def _round_special(self, v: np.ndarray) -> np.ndarray:
        """`round` where the bits alone do not tell: subnormal, too large, inf or NaN."""
        quantum = self.ulp(v)
        with np.errstate(over="ignore"):
            rounded = np.where(np.isfinite(v), np.rint(v / quantum) * quantum, v)
        limit = np.inf if self.has_inf else self.largest
        return np.where(np.abs(rounded) > self.largest, np.copysign(limit, v), rounded)


@cache
def grid_of(dtype: np.dtype) -> Grid:
    """The grid of a floating dtype of NumPy or ml_dtypes.

    >>> grid_of(np.dtype("float16")).precision
    11
    """
    info = ml_dtypes.finfo(dtype)
    has_inf = dtype.name in ("float16", "float32", "float64", "bfloat16", "float8_e5m2")
    return Grid(dtype.name, info.nmant + 1, int(info.minexp), float(info.max), has_inf)


BFLOAT16 = grid_of(np.dtype(ml_dtypes.bfloat16))
FLOAT16 = grid_of(np.dtype(np.float16))
FLOAT32 = grid_of(np.dtype(np.float32))
FLOAT64 = grid_of(np.dtype(np.float64))
FLOAT8_E4M3 = grid_of(np.dtype(ml_dtypes.float8_e4m3fn))
FLOAT8_E5M2 = grid_of(np.dtype(ml_dtypes.float8_e5m2))
# The operands of NVIDIA's tensor cores: float32's exponents with float16's precision.
TF32 = Grid("tf32", 11, -126, (2 - 2.0**-10) * 2.0**127, True)


def is_floating(dtype: np.dtype) -> bool:
    """Whether the dtype holds floats, ml_dtypes' included."""
    return np.issubdtype(dtype, np.floating) or dtype.name.startswith(("bfloat", "float8"))
