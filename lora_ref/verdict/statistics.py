"""Tier 2: do errors that are all within their bounds look like random roundings?

Math:
    z = (actual − v) / σ. N independent Gaussian errors stay within √(2 ln(2N/δ)) but with
    probability δ; errors are suspected beyond TRUST times that, or where the root mean square of
    z exceeds LARGEST_RMS.
Limits:
    The variance model takes roundings to be independent. It is calibrated (rms z from 0.97 to
    1.03) where storing dominates, and too large where code is fused; errors that share a rounding,
    as those of a row share that of x Aᵀ, may have a root mean square of up to √3 or so.
    Elements whose variance is zero, or lost to underflow, do not count.
Source:
    Higham and Mary 2019, SIAM J. Sci. Comput. 41, A2815: roundings as independent random numbers.
"""

from dataclasses import dataclass

import numpy as np

CHANCE = 1e-9
TRUST = 2.0
LARGEST_RMS = 3.0


@dataclass(frozen=True)
class Statistics:
    """The largest |z| and its limit, and the root mean square, over `count` elements."""

    count: int
    max_z: float
    rms_z: float

    @property
    def limit(self) -> float:
        return TRUST * (2 * np.log(2 * max(self.count, 1) / CHANCE)) ** 0.5

    def larger(self, other: "Statistics") -> "Statistics":
        """The larger of both, figure by figure."""
        return Statistics(
            max(self.count, other.count),
            max(self.max_z, other.max_z),
            max(self.rms_z, other.rms_z),
        )

    def suspicion(self, honest: "Statistics | None" = None) -> str:
        """Why the errors are not what roundings leave; empty if they are.

        `honest` is what implementations that are right score.
        """
        limit, rms = self.limit, LARGEST_RMS
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
    known = np.isfinite(square) & (variance > 0)
    count = int(np.count_nonzero(known))
    if count == 0:
        return Statistics(0, 0.0, 0.0)
    square = square[known]
    return Statistics(count, float(square.max()) ** 0.5, float(square.mean()) ** 0.5)
