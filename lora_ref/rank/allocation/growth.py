"""Ranks that shrink by a threshold and grow again: one layer's triplets, by singular values.

AdaLoRA only ever lowers its budget. Here a layer's update is decomposed anew, triplets of small
importance are removed for good, and fresh directions are added, every so many steps or when the
loss stops falling. A fresh direction has λ = 0, so growing changes no output.

Math:
    ΔW = s P Λ Q = s U Σ Vᵀ             by QR of P and Qᵀ and an SVD of r × r numbers
    importance_i = σᵢ² / (σᵢ² + ρ)      σ = |s| Σ those of ΔW, ρ > 0 the regulariser
    fresh columns of P and rows of Q: Gaussian, made orthonormal to those that are there
Shapes:
    P (m, r), λ (r,), Q (r, n) before; rank r' after; r' ≤ min(m, n)
Units:
    The importance is in [0, 1): 1/2 at σ = √ρ, which is what ρ means. Σ of all is the effective
    number of degrees of freedom of ridge regression. ρ is in units of σ².
Errors:
    ValueError for a ρ that is not finite and above 0, a threshold outside [0, 1), more triplets
    than min(m, n), a count, limit, patience or interval that is no integer or too small, a gain
    that is not finite; for P, λ, Q or σ with NaN or infinity. TypeError if they are neither
    float32 nor float64.
Limits:
    Decomposing gives new P and Q: an optimiser's moments for the old ones mean nothing afterwards.
    λ = 0 and P, Q ≠ 0 give the fresh λ a gradient at once, and their P and Q one a step later.
Source:
    The regulariser, thresholds, periodic and plateau-driven growth are those of a survey of LoRA's
    variants that prints no formula for its importance; ours is Tikhonov's filter factor, Hastie,
    Tibshirani & Friedman, The Elements of Statistical Learning, section 3.4.1, equation (3.47).
    Zhang et al. 2023 (AdaLoRA) have none of this.
"""

from dataclasses import dataclass, replace

import numpy as np

from ...adapters.adalora import AdaLoRA
from ...arrays import Array, as_array, namespace, on_device_of
from ...shapes import shapes
from ...values import checked_count, checked_finite, checked_number
from ..spectrum import checked_range, svd_of
from .mask import kept


def decomposed(adapter: AdaLoRA) -> AdaLoRA:
    """The same update with orthonormal P and Q, and λ ≥ 0 falling; rank min(m, n) at the most."""
    for name in ("P", "lam", "Q"):
        checked_finite("decomposed", f"adapter.{name}", getattr(adapter, name))
    P, lam, Q = svd_of("decomposed", replace(adapter.lora(), scale=1.0))
    return AdaLoRA(P, lam, Q, adapter.scale)


@shapes(sigma="k")
def ridge_importance(sigma: Array, regulariser: float) -> Array:
    """σ² / (σ² + ρ) of each singular value.

    >>> ridge_importance(np.array([3.0, 1.0, 0.0]), 1.0)
    array([0.9, 0.5, 0. ])
    """
    if checked_number("ridge_importance", "regulariser", regulariser) <= 0:
        raise ValueError(f"ridge_importance: regulariser must be above 0, got {regulariser}")
    xp = namespace(sigma)
    size = xp.abs(checked_finite("ridge_importance", "sigma", sigma))
    root = xp.full_like(
        size, checked_range("ridge_importance", "√regulariser", regulariser**0.5, size)
    )
    # The ratio of the smaller to the larger: the squares of σ and √ρ may leave the dtype's range.
    ratio = xp.where(size > root, root, size) / xp.where(size > root, size, root)
    return xp.where(size > root, xp.ones_like(ratio), ratio * ratio) / (1 + ratio * ratio)


def pruned(adapter: AdaLoRA, threshold: float, regulariser: float) -> AdaLoRA:
    """Decomposed, without the triplets whose importance is below the threshold."""
    if not 0 <= threshold < 1:
        raise ValueError(f"pruned: threshold must be in [0, 1), got {threshold}")
    whole = decomposed(adapter)
    return kept(whole, ridge_importance(whole.scale * whole.lam, regulariser) >= threshold)


def grown(adapter: AdaLoRA, count: int, rng: np.random.Generator) -> AdaLoRA:
    """With `count` more triplets of λ = 0, whose directions are orthonormal to those there."""
    rank, m, n = adapter.lam.shape[0], adapter.P.shape[0], adapter.Q.shape[1]
    checked_count("grown", "count", count, 0)
    if count > min(m, n) - rank:
        raise ValueError(
            f"grown: count must be from 0 to min(m, n) − r = {min(m, n) - rank}, got {count}"
        )
    xp = namespace(adapter.P)
    P = xp.concat([adapter.P, _fresh(adapter.P, count, rng)], axis=1)
    Q = xp.concat([adapter.Q, _fresh(adapter.Q.T, count, rng).T], axis=0)
    nothing = xp.zeros((count,), dtype=adapter.lam.dtype, **on_device_of(adapter.lam))
    return AdaLoRA(P, xp.concat([adapter.lam, nothing]), Q, adapter.scale)


def _fresh(P: Array, count: int, rng: np.random.Generator) -> Array:
    """Orthonormal columns, orthogonal to P's."""
    xp = namespace(P)
    drawn = as_array(rng.standard_normal((P.shape[0], count)), P)
    return xp.linalg.qr(xp.concat([P, drawn], axis=1))[0][:, P.shape[1] :]


@dataclass(frozen=True)
class Plateau:
    """The best loss so far, and for how many observations nothing was better by `gain`."""

    patience: int
    gain: float = 0.0
    best: float = float("inf")
    waited: int = 0

    def __post_init__(self) -> None:
        """A patience of at least one observation, a gain that is a number."""
        checked_count("Plateau", "patience", self.patience, 1)
        checked_number("Plateau", "gain", self.gain)

    @property
    def is_reached(self) -> bool:
        """Whether the loss has not fallen for `patience` observations in a row."""
        return self.waited >= self.patience

    def observe(self, loss: float) -> "Plateau":
        """After one more loss; a plateau that was reached starts to wait again.

        >>> p = Plateau(patience=2)
        >>> for loss in (1.0, 0.5, 0.6, 0.5):
        ...     p = p.observe(loss)
        >>> p.is_reached, p.observe(0.7).is_reached
        (True, False)
        """
        if loss < self.best - self.gain:
            return replace(self, best=float(loss), waited=0)
        return replace(self, waited=1 if self.is_reached else self.waited + 1)


@dataclass(frozen=True)
class GrowthRule:
    """When and by how much ranks move: prune every `prune_every` steps, grow every `grow_every`.

    With a plateau, a layer also grows by `count` when it is reached. `limit` is the largest rank.
    """

    threshold: float
    regulariser: float
    prune_every: int
    grow_every: int
    count: int = 1
    limit: int = 64

    def __post_init__(self) -> None:
        """Intervals of at least one step, counts that are counts."""
        for name, least in (("prune_every", 1), ("grow_every", 1), ("count", 0), ("limit", 0)):
            checked_count("GrowthRule", name, getattr(self, name), least)

    def step(
        self,
        adapters: dict[str, AdaLoRA],
        step: int,
        rng: np.random.Generator,
        plateau: Plateau | None = None,
    ) -> dict[str, AdaLoRA]:
        """The adapters after what is due at this step: pruning first, then growth."""
        is_reached = plateau is not None and plateau.is_reached
        moved = dict(adapters)
        if step % self.prune_every == 0:
            moved = {k: pruned(a, self.threshold, self.regulariser) for k, a in moved.items()}
        if step % self.grow_every == 0 or is_reached:
            moved = {name: grown(a, self._room(a), rng) for name, a in moved.items()}
        return moved

    def _room(self, adapter: AdaLoRA) -> int:
        sizes = (adapter.P.shape[0], adapter.Q.shape[1], self.limit)
        return max(0, min(self.count, min(sizes) - adapter.lam.shape[0]))
