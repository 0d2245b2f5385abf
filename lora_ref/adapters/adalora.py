"""AdaLoRA: an update in the form of a singular value decomposition, of a linear layer.

ΔW = P Λ Q, with a diagonal Λ. A triplet (column of P, λ, row of Q) is taken out of the update by
λ = 0 alone and can come back, since its P and Q stay trained. `lora_ref.rank.allocation` decides
which triplets of which layers stay.

Math:
    W' = W + s P Λ Q                    Λ = diag(λ)
    y  = x W'ᵀ = x Wᵀ + s (λ ∘ (x Qᵀ)) Pᵀ

    dP = s dW' Qᵀ Λ        dλᵢ = s ⟨Pᵢ, dW' Qᵢᵀ⟩        dQ = s Λ Pᵀ dW'
Shapes:
    x (..., n)   W (m, n)   P (m, r)   λ (r,), the field `lam`   Q (r, n)
Units:
    s has no unit. Equation (3) has none; `init` takes LoRA's α/r, and `init_peft` α/(r + 10⁻⁵),
    the `peft_scaling` of the authors' code and of PEFT, which a file of PEFT's needs. r is the rank
    at the start: triplets that are masked or removed later do not change s.
Init:
    λ = 0, so W' = W and training starts at the base model; P, Q ~ N(0, 0.02²). dP and dQ are zero
    there, so the first step moves λ alone, and what the penalty of orthogonality moves.
Errors:
    ShapeError if P, λ, Q, W or x do not fit; ValueError if the rank is below 1.
Limits:
    P and Q are orthogonal only as far as the penalty made them so: until then λ are no singular
    values of ΔW, and their signs are free.
Source:
    Zhang et al. 2023, arXiv:2303.10512, section 3.1, equation (3). PEFT 0.21.2,
    tuners/adalora/layer.py, SVDLinear: lora_A (r, n) is Q, lora_E (r, 1) is λ, lora_B (m, r) is P,
    and λ is multiplied onto Q before the products, x (ΛQ)ᵀ Pᵀ.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, either, namespace, on_device_of, outer_sum, row_sum
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import LoRA, scaling

_DEVIATION = 0.02  # of the first P and Q, in the authors' code and in PEFT


def peft_scaling(alpha: float, rank: int) -> float:
    """s = α/(r + 10⁻⁵), where an α that is not positive stands for r; r is the rank at the start.

    >>> round(peft_scaling(32, 12), 9), round(peft_scaling(0, 12), 9)
    (2.666664444, 0.999999167)
    """
    return (float(alpha) if alpha > 0 else float(rank)) / (rank + 1e-5)


@shapes(P="m r", lam="r", Q="r n")
@dataclass(frozen=True, eq=False)
class AdaLoRA(Adapter):
    """W' = W + s P Λ Q."""

    P: Array
    lam: Array
    Q: Array
    scale: float

    @classmethod
    def init(cls, W: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """Gaussian P and Q, λ = 0, at scale α/r."""
        scale, (m, n) = scaling(alpha, rank), W.shape
        P, Q = (rng.normal(0, _DEVIATION, size=size) for size in ((m, rank), (rank, n)))
        lam = namespace(W).zeros((rank,), dtype=W.dtype, **on_device_of(W))
        return cls(as_array(P, W), lam, as_array(Q, W), scale)

    @classmethod
    def init_peft(cls, W: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """`init` at the scale of PEFT and the authors' code, `peft_scaling(alpha, rank)`."""
        return replace(cls.init(W, rank, alpha, rng), scale=peft_scaling(alpha, rank))

    def lora(self) -> LoRA:
        """The same update as a LoRA, with λ folded into A."""
        return LoRA(self.lam[:, None] * self.Q, self.P, self.scale)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s P Λ Q."""
        xp, (P, lam, Q, s) = namespace(W), (self.P, self.lam, self.Q, self.scale)

        def backward(dW):
            dD = s * (P.T @ dW)  # (r, n), the cotangent of Λ Q
            dlam = xp.sum(dD * Q, axis=1)
            return with_leaves(self, P=s * (dW @ Q.T) * lam, lam=dlam, Q=lam[:, None] * dD)

        return W + s * (P @ (lam[:, None] * Q)), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + s (λ ∘ (x Qᵀ)) Pᵀ."""
        xp, (P, lam, Q, s) = namespace(x), (self.P, self.lam, self.Q, self.scale)
        u, D = x @ Q.T, lam[:, None] * Q  # (..., r) and (r, n)
        t = either(xp, lambda: lam * u, lambda: x @ D.T)
        y = x @ W.T + s * (t @ P.T)

        def backward(dy):
            dt = s * (dy @ P)  # (..., r)
            du = lam * dt
            dx = either(xp, lambda: dy @ W + du @ Q, lambda: dy @ W + dt @ D)
            dlam = either(
                xp,
                lambda: row_sum(dt * u),
                lambda: xp.sum(outer_sum(dt, x) * Q, axis=1),
            )
            dQ = either(xp, lambda: outer_sum(du, x), lambda: lam[:, None] * outer_sum(dt, x))
            return dx, with_leaves(self, P=s * outer_sum(dy, t), lam=dlam, Q=dQ)

        return y, backward
