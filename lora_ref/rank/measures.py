"""What a spectrum says about rank: five numbers that agree only where the question is easy.

Math, of singular values σ₁ ≥ σ₂ ≥ … ≥ 0:
    numerical   how many σᵢ > tolerance · σ₁
    effective   exp(−Σ pᵢ log pᵢ), pᵢ = σᵢ / Σσ
    stable      Σσ² / σ₁²
    energy      the least r with Σ_{i≤r} σ² ≥ share · Σσ²
    retained    Σ_{i≤r} σ² / Σσ²

    1 ≤ stable ≤ effective ≤ numerical, up to what is below the tolerance
Shapes:
    σ (k,), descending
Units:
    Ranks are counts, effective and stable with fractions; shares are in [0, 1] of ‖ΔW‖².
    The tolerance is NumPy's unless given: max(m, n) times the machine epsilon of σ's dtype.
Errors:
    ValueError for σ with NaN or infinity, a share outside [0, 1], a rank that is no integer of at
    least 0, a tolerance that is not finite; ShapeError if σ is not (k,).
Limits:
    Of a zero update every rank is 0, and every rank keeps all of it.
    A rank is only as good as the numbers. An update taken as a difference of 16-bit weights has
    the noise of their rounding in every direction: give a tolerance of that size.
    Energy says what ‖ΔW‖ loses, not what the task loses.
Source:
    NumPy 2, linalg.matrix_rank, for the tolerance. Roy & Vetterli 2007, The effective rank,
    EUSIPCO, definition 1. Rudelson & Vershynin 2007, arXiv:math/0503442, section 1.1 (stable
    rank, there numerical rank).
"""

import math
from dataclasses import dataclass

from ..arrays import Array, namespace
from ..shapes import shapes
from ..values import checked_count, checked_finite, checked_number


@dataclass(frozen=True)
class Measures:
    """The ranks of one update."""

    numerical: int
    effective: float
    stable: float
    energy90: int
    energy99: int


@shapes(sigma="k")
def measures(sigma: Array, shape: tuple[int, int]) -> Measures:
    """All of them for an update of this shape."""
    checked_finite("measures", "sigma", sigma)
    tolerance = default_tolerance(sigma, shape)
    energies = energy_rank(sigma, 0.9), energy_rank(sigma, 0.99)
    return Measures(
        numerical_rank(sigma, tolerance), effective_rank(sigma), stable_rank(sigma), *energies
    )


def default_tolerance(sigma: Array, shape: tuple[int, int]) -> float:
    """max(m, n) ε, with ε of σ's dtype."""
    return max(shape) * float(namespace(sigma).finfo(sigma.dtype).eps)


@shapes(sigma="k")
def numerical_rank(sigma: Array, tolerance: float) -> int:
    """How many σ are above `tolerance` times the largest."""
    limit = checked_number("numerical_rank", "tolerance", tolerance)
    return int(namespace(sigma).count_nonzero(_relative("numerical_rank", sigma) > limit))


@shapes(sigma="k")
def effective_rank(sigma: Array) -> float:
    """e to the entropy of σ / Σσ: k equal ones give k."""
    xp, size = namespace(sigma), _relative("effective_rank", sigma)
    total = float(xp.sum(size))
    if total == 0:
        return 0.0
    p = size / total
    logs = xp.log(xp.where(p > 0, p, xp.ones_like(p)))
    return math.exp(-float(xp.sum(p * logs)))


@shapes(sigma="k")
def stable_rank(sigma: Array) -> float:
    """‖ΔW‖² / σ₁²."""
    size = _relative("stable_rank", sigma)
    return float(namespace(sigma).sum(size * size))


@shapes(sigma="k")
def energy_rank(sigma: Array, share: float) -> int:
    """The least rank that keeps `share` of ‖ΔW‖²."""
    if not 0 <= share <= 1:
        raise ValueError(f"energy_rank: share must be in [0, 1], got {share}")
    kept = _kept("energy_rank", sigma)
    if kept.shape[0] == 0 or share == 0:
        return 0
    return int(namespace(sigma).count_nonzero(kept < share * float(kept[-1]))) + int(kept[-1] > 0)


@shapes(sigma="k")
def retained(sigma: Array, rank: int) -> float:
    """The share of ‖ΔW‖² that the first `rank` directions hold."""
    checked_count("retained", "rank", rank, 0)
    kept = _kept("retained", sigma)
    if kept.shape[0] == 0 or float(kept[-1]) == 0:
        return 1.0
    if rank == 0:
        return 0.0
    return float(kept[min(rank, kept.shape[0]) - 1]) / float(kept[-1])


def _kept(owner: str, sigma: Array) -> Array:
    """Σ_{i≤r} σ² for every r, in units of σ₁²."""
    size = _relative(owner, sigma)
    return namespace(sigma).cumulative_sum(size * size)


def _relative(owner: str, sigma: Array) -> Array:
    """σ / σ₁, whose squares leave no dtype's range; zeros for a zero update."""
    checked_finite(owner, "sigma", sigma)
    if sigma.shape[0] == 0 or float(sigma[0]) == 0:
        return sigma
    return sigma / float(sigma[0])
