"""The part of an error that no known mistake has explained yet, and whether it is rounding.

Math:
    z in units of σ. It is rounding if, N elements known,
        mean z² <= 2.25 (1 + 6 √(2/N))        max |z| <= 3 √(2 ln(2N / 1e-9))
    A gross mistake has roundings that the right kernel has not: without it, what is left is near
    if  ‖actual − mutated‖ <= 2 max(u, ‖σ‖/‖reference‖) ‖mutated‖  and  <= ‖mutated − reference‖/16
Source: Higham and Mary 2019, SIAM J. Sci. Comput. 41, A2815: roundings as independent numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .noise import Arrays, Noise, Noises
from .signature import Signature

LARGEST_MISFIT = 2.25
NEAR = 2.0  # times the usual share of rounding, in the norm
GROSS = 16.0  # times what is left is what a mistake must change to be known by the norm


@dataclass(frozen=True, eq=False)
class Residual:
    """Errors z by output. What is not finite but should be is inf."""

    z: Arrays
    noises: Noises

    @cached_property
    def finite(self) -> Arrays:
        """z, and 0 for what is not finite."""
        bad = {n for n, s in self._squares.items() if not np.isfinite(s)}
        return {n: np.where(np.isfinite(t), t, 0.0) if n in bad else t for n, t in self.z.items()}

    @cached_property
    def is_rounding(self) -> dict[str, bool]:
        """Whether an output's error is nothing but rounding."""
        return {n: _is_rounding(t, self.noises[n].known) for n, t in self.z.items()}

    def misfit(self, names: Iterable[str]) -> float:
        """f: the root mean square z of these outputs, at least 1."""
        chosen = list(names)
        count = sum(max(self.z[n].size, 1) for n in chosen)
        total = sum(self._squares[n] for n in chosen)
        return max(1.0, (total / max(count, 1)) ** 0.5)

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
        return all(
            _is_rounding(left, self.noises[n].known)
            or (closely and _is_near(left, s.D[n], self.noises[n]))
            for n, left in _without({n: self.z[n] for n in s.D}, s).items()
        )

    @cached_property
    def _squares(self) -> dict[str, float]:
        with np.errstate(over="ignore", invalid="ignore"):
            return {n: float(np.vdot(t, t)) for n, t in self.z.items()}


def _is_near(left: np.ndarray, D: np.ndarray, noise: Noise) -> bool:
    """Whether what is left is as small against the mutated output as roundings of it would be."""
    if not np.isfinite(left).all():
        return False
    known = noise.weight > 0
    sigma, right = 1 / noise.weight[known], noise.reference[known]
    left, D = left[known] * sigma, D[known] * sigma
    rest, size, changed, right_size, usual = (
        float(np.linalg.norm(t)) for t in (left, right + D, D, right, sigma)
    )
    share = max(noise.grid.roundoff, usual / right_size if right_size else 0.0)
    return rest <= NEAR * share * size and rest <= changed / GROSS


def _is_rounding(z: np.ndarray, known: int) -> bool:
    """Whether an error in units of σ looks like rounding, of so many elements."""
    count = max(known, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        mean, most = float(np.vdot(z, z)) / count, float(abs(z).max(initial=0.0))
    limit = 3 * np.sqrt(2 * np.log(2 * count / 1e-9))
    return mean <= LARGEST_MISFIT * (1 + 6 * np.sqrt(2 / count)) and most <= limit


def _without(z: Arrays, s: Signature) -> dict[str, np.ndarray]:
    return {n: t - s.D[n] if n in s.D else t for n, t in z.items()}
