"""Tier 2: do errors that are all within their bounds look like random roundings?

Math:
    z = (actual − v) / σ. N independent Gaussian errors stay within √(2 ln(2N/δ)) but with
    probability δ; errors are suspected beyond TRUST times that, or where the root mean square of
    z exceeds LARGEST_RMS. Elements of a row, or of a column, may share one rounding. Of d rows or
    columns, whichever are fewer, rms z stays below √(χ²_d/d), the quantile for δ, even so; that is
    more than LARGEST_RMS for d < 6.
Limits:
    The variance model takes roundings to be independent. It is calibrated (rms z from 0.97 to
    1.03) where storing dominates, and too large where code is fused; errors that share a rounding,
    as those of a row share that of x Aᵀ, may have a root mean square of up to √3 or so.
    Elements whose variance is zero, or lost to underflow, do not count.
Source:
    Higham and Mary 2019, SIAM J. Sci. Comput. 41, A2815: roundings as independent random numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammainccinv

CHANCE = 1e-9
TRUST = 2.0
LARGEST_RMS = 3.0


@dataclass(frozen=True)
class Statistics:
    """The largest |z| and its limit, and the root mean square, over `count` elements.

    `independent` is the number of rows or of columns, whichever are fewer.
    """

    count: int
    max_z: float
    rms_z: float
    independent: int

    @property
    def limit(self) -> float:
        return TRUST * (2 * np.log(2 * max(self.count, 1) / CHANCE)) ** 0.5

    @property
    def limit_rms(self) -> float:
        d = max(self.independent, 1)
        return max(LARGEST_RMS, float(2 * gammainccinv(d / 2, CHANCE) / d) ** 0.5)

    def larger(self, other: "Statistics") -> "Statistics":
        """The larger of both, figure by figure."""
        return Statistics(
            max(self.count, other.count),
            max(self.max_z, other.max_z),
            max(self.rms_z, other.rms_z),
            max(self.independent, other.independent),
        )

    def suspicion(self, honest: "Statistics | None" = None) -> str:
        """Why the errors are not what roundings leave; empty if they are.

        `honest` is what implementations that are right score.
        """
        limit, rms = self.limit, self.limit_rms
        if honest is not None:
            limit, rms = max(limit, TRUST * honest.max_z), max(rms, TRUST * honest.rms_z)
        if self.max_z > limit:
            return f"an error of {self.max_z:.3g} standard deviations, the limit is {limit:.3g}"
        if self.rms_z > rms:
            return f"errors of {self.rms_z:.3g} standard deviations, where rounding leaves 1"
        return ""


def statistics(error: np.ndarray, variance: np.ndarray) -> Statistics:
    """Of the elements whose error and variance are numbers, and positive."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        square = error * error / variance
    known = np.isfinite(square) & (variance > 0) & np.isfinite(variance)
    count = int(np.count_nonzero(known))
    if count == 0:
        return Statistics(0, 0.0, 0.0, independent(error.shape))
    square = square[known]
    most, mean = float(square.max()) ** 0.5, float(square.mean()) ** 0.5
    return Statistics(count, most, mean, independent(error.shape))


def independent(shape: tuple[int, ...]) -> int:
    """How many roundings a tensor has at least, that its elements need not share."""
    size = math.prod(shape)
    if len(shape) < 2 or size == 0:
        return size
    return min(shape[-1], size // shape[-1])
