"""The part of an error that no known mistake has explained yet, and whether it is rounding.

Math:
    z in units of σ. It is rounding if, N elements known,
        mean z² <= 2.25 (1 + 6 √(2/N))        max |z| <= 3 √(2 ln(2N / 1e-9))
    A gross mistake has roundings that the right kernel has not: without it, what is left is near
    if  ‖actual − mutated‖ <= ‖mutated − reference‖/4096,  or <= ‖mutated − reference‖/1024 and the
        mean z² is <= 16,  or
        ‖actual − mutated‖ <= 2 max(u, ‖σ‖/‖reference‖) ‖mutated‖  and  <= ‖mutated − reference‖/16.
    An output that a mistake makes 8 times smaller has smaller roundings, too: without it, what is
    left must be below ‖mutated‖/2 as well.
Limits:
    The variance of long sums of one sign in float32 is underestimated: their mean z² reaches 7,
    and 30 in gradients over 200 tokens. Outputs that a mistake does not change are right up to a
    mean z² of 16.
Source: Higham and Mary 2019, SIAM J. Sci. Comput. 41, A2815: roundings as independent numbers.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .noise import Arrays, Noise, Noises
from .signature import Signature

LARGEST_MISFIT = 2.25
LARGEST_OF_SUMS = 16.0  # long float32 sums of one sign have errors that share a direction
NEAR = 2.0  # times the usual share of rounding, in the norm
SMALL = 8.0  # times smaller than it should be, an output must be told from one of zeros
GROSS = 16.0  # times what is left is what a mistake must change to be known by the norm
WHOLE = 1024.0  # times what is left: all of the change is explained
PRECISELY = 4096.0  # times what is left: no other bug is that near, however large z is


@dataclass(frozen=True, eq=False)
class Residual:
    """Errors z by output; what float64 does not hold is inf."""

    z: Arrays
    noises: Noises

    @cached_property
    def finite(self) -> Arrays:
        """z, and 0 for what is not finite."""
        bad = {n for n, s in self._squares.items() if not np.isfinite(s)}
        return {n: np.where(np.isfinite(t), t, 0.0) if n in bad else t for n, t in self.z.items()}

    @cached_property
    def is_rounding(self) -> dict[str, bool]:
        """Whether an output's error may be nothing but rounding; not if most of it is lost."""
        return {
            n: noise.lost <= noise.known and _is_rounding(self.z[n], noise.known, LARGEST_OF_SUMS)
            for n, noise in self.noises.items()
        }

    def misfit(self, names: Collection[str]) -> float:
        """f: the root mean square z of these outputs, at least 1."""
        count = sum(self.noises[n].known for n in names)
        return max(1.0, self.norm(names) / max(count, 1) ** 0.5)

    def norm(self, names: Collection[str]) -> float:
        """‖z‖ over these outputs."""
        return sum(self._squares[n] for n in names) ** 0.5

    def without(self, s: Signature) -> "Residual":
        """What is left without a mistake, all of it."""
        return Residual(_without(self.z, s), self.noises)

    def fits(self, s: Signature, closely: bool) -> bool:
        """Whether nothing but rounding is left in the outputs that a mistake changes, without it.

        It is in the forward alone, or in the gradients alone, only if the other outputs are right.
        `closely`: what is left may also be near.
        """
        if s.where and not all(self.is_rounding[n] for n in self.z if n not in s.D):
            return False
        for n, left in _without({n: self.z[n] for n in s.D}, s).items():
            noise = self.noises[n]
            if _is_rounding(left, noise.known):
                if _is_too_little(left, s.D[n], noise):
                    return False
            elif not (closely and _is_near(left, s.D[n], noise)):
                return False
        return True

    @cached_property
    def _squares(self) -> dict[str, float]:
        with np.errstate(over="ignore", invalid="ignore"):
            return {n: float(np.vdot(t, t)) for n, t in self.z.items()}


def _is_near(left: np.ndarray, D: np.ndarray, noise: Noise) -> bool:
    """Whether what is left is as small against the mutated output as roundings of it would be."""
    if not np.isfinite(left).all():
        return False
    rest, mutated, changed, right, usual = _norms(left, D, noise)
    if rest <= changed / PRECISELY:
        return True
    if rest <= changed / WHOLE and _is_rounding(left, noise.known, LARGEST_OF_SUMS):
        return True
    share = max(noise.grid.roundoff, usual / right if right else 0.0)
    return rest <= NEAR * share * mutated and rest <= changed / GROSS


def _is_too_little(left: np.ndarray, D: np.ndarray, noise: Noise) -> bool:
    """Whether the mutated output is small, and what is left is not small against that."""
    rest, mutated, _, right, _ = _norms(left, D, noise)
    return SMALL * mutated < right and rest > mutated / 2


def _norms(left: np.ndarray, D: np.ndarray, noise: Noise) -> tuple[float, ...]:
    """Those of what is left, the mutated output, its change, the reference and σ, not in σ."""
    known = noise.weight > 0
    sigma, right = 1 / noise.weight[known], noise.reference[known]
    left, D = left[known] * sigma, D[known] * sigma
    return tuple(float(np.linalg.norm(t)) for t in (left, right + D, D, right, sigma))


def _is_rounding(z: np.ndarray, known: int, largest: float = LARGEST_MISFIT) -> bool:
    """Whether an error in units of σ looks like rounding, of so many elements."""
    count = max(known, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        mean, most = float(np.vdot(z, z)) / count, float(abs(z).max(initial=0.0))
    limit = 3 * np.sqrt(2 * np.log(2 * count / 1e-9))
    return mean <= largest * (1 + 6 * np.sqrt(2 / count)) and most <= limit


def _without(z: Arrays, s: Signature) -> dict[str, np.ndarray]:
    return {n: t - s.D[n] if n in s.D else t for n, t in z.items()}
