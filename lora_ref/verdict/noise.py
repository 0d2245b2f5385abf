"""How noisy is each element of an output, and what an error is worth in that noise.

Math:
    z = r / σ        r = actual − reference
    σ² = max(ρ² variance, h²/3, κ² h'²/3 where h' > 2 h)
    h is half an ulp of the output's grid at the reference, h' at the larger of it and the actual
    number; ρ >= 1 is how much larger the actual output is (ratio of medians), and κ in [1, 64] the
    median of σ √3 / h: what is wrong and large has the roundings of what is large.
Limits:
    An element is left out where the reference, its variance or the actual number is not finite;
    `lost` counts those where only the last is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .grids import Grid

Arrays = Mapping[str, np.ndarray]
LARGEST_RATIO = 64.0
LARGEST_Z = 1e60  # its square is still a number


@dataclass(frozen=True, eq=False)
class Noise:
    """Of one output: the reference, 1/σ (zero where nothing is known), and the error in σ."""

    grid: Grid
    reference: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    lost: int = 0

    def in_sigma(self, t: np.ndarray) -> np.ndarray:
        """t / σ, zero where σ is not known."""
        with np.errstate(invalid="ignore", over="ignore"):
            found = t * self.weight
            if np.vdot(found, found) < LARGEST_Z:  # neither infinite nor NaN, which is nearly all
                return found
        with np.errstate(invalid="ignore", over="ignore"):
            return np.clip(np.where(self.weight > 0, t * self.weight, 0.0), -LARGEST_Z, LARGEST_Z)

    @cached_property
    def known(self) -> int:
        """The number of elements that count."""
        return int(np.count_nonzero(self.weight))

    @cached_property
    def ulp(self) -> np.ndarray:
        """The spacing of the grid at the reference."""
        return self.grid.ulp(self.reference)

    @cached_property
    def rounded(self) -> np.ndarray:
        """The reference on the grid."""
        return self.grid.round(self.reference * 1.0)


Noises = Mapping[str, Noise]


def noise_of(
    reference: np.ndarray, variance: np.ndarray, grid: Grid, actual: np.ndarray | None = None
) -> Noise:
    """The noise of one output; without an actual one, that of a correct one."""
    if actual is None:
        return Noise(grid, reference, _weight(reference, variance, grid, reference), reference * 0)
    weight, finite = _weight(reference, variance, grid, actual), np.isfinite(actual)
    lost = 0 if finite.all() else int(np.count_nonzero((weight > 0) & ~finite))
    if lost:
        weight = np.where(finite, weight, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        z = np.where(weight > 0, (actual - reference) * weight, 0.0)
    return Noise(grid, reference, weight, np.where(np.isfinite(z), z, np.inf), lost)


def _weight(v: np.ndarray, variance: np.ndarray, grid: Grid, actual: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        half = grid.ulp(v) / 2
        size = np.where(np.isfinite(actual), np.maximum(abs(v), abs(actual)), abs(v))
        larger = grid.ulp(size) / 2
        known = np.isfinite(v) & np.isfinite(variance)
        s2 = np.where(known, variance, 0.0) * _growth(v, actual) ** 2
        varies, swollen = known & (s2 > 0), larger > 2 * half
        s2 = np.maximum(s2, half**2 / 3)
        if swollen.any():
            ratio = np.median(np.sqrt(3 * s2[varies]) / half[varies]) if varies.any() else 1.0
            ratio = min(max(float(ratio), 1.0), LARGEST_RATIO)
            s2 = np.where(swollen, np.maximum(s2, (ratio * larger) ** 2 / 3), s2)
        return np.where(known, 1 / np.maximum(np.sqrt(s2), 1e-140), 0.0)


def _growth(v: np.ndarray, actual: np.ndarray) -> float:
    """ρ: the median size of the actual output over that of the reference, at least 1."""
    both = np.isfinite(v) & np.isfinite(actual)
    if not both.any():
        return 1.0
    size, wanted = (float(np.median(abs(t[both]))) for t in (actual, v))
    return max(1.0, size / wanted) if wanted > 0 else 1.0
