"""LoHa: the element by element product of two low-rank updates.

Two products of rank r, multiplied element by element, reach the rank r² with the parameters of 2 r.

Math:
    P₁ = B₁ A₁        P₂ = B₂ A₂
    W' = W + s P₁ ∘ P₂
    y  = x W'ᵀ = x Wᵀ + s x (P₁ ∘ P₂)ᵀ

    dP₁ = s dW' ∘ P₂        dA₁ = B₁ᵀ dP₁        dB₁ = dP₁ A₁ᵀ        and with 1 and 2 exchanged
    `as_lora`: P₁ ∘ P₂ = B A at rank r², row i r + j of A being A₁[i] ∘ A₂[j], and column i r + j of
    B being B₁[:, i] ∘ B₂[:, j]
Shapes:
    x (..., n)   W, P₁, P₂ (m, n)   A₁, A₂ (r, n)   B₁, B₂ (m, r)   y (..., m)
Units:
    s = α/r, as LoRA's, though the rank of the update is up to r².
Init:
    A₂ = 0, so W' = W; the other three are uniform within 1/√(columns), Kaiming's with a = √5.
Errors:
    ShapeError if the factors, W or x do not fit; ValueError if the rank is below 1.
Limits:
    A convolution's kernel is adapted as the matrix (m, n k₁ k₂); factors with a core (Tucker's
    form, PEFT's use_effective_conv2d) are another map. Dropout of whole rows is not part of it.
Source:
    Hyeon-Woo et al. 2022 (FedPara), arXiv:2108.06098, section 2.2, proposition 1, where the factors
    are Y₁ᵀ, X₁, Y₂ᵀ, X₂; Yeh et al. 2024 (LyCORIS), arXiv:2309.14859, section 3, names it LoHa.
    PEFT 0.21.2, tuners/loha/layer.py, Linear and HadaWeight, whose hada_w1_a, hada_w1_b, hada_w2_a,
    hada_w2_b are B₁, A₁, B₂, A₂. It forms P₁ ∘ P₂ in every forward, as `apply` does. LyCORIS draws
    the factors from Gaussians.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, namespace, on_device_of, outer_sum
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import LoRA, scaling


@shapes(A1="r n", B1="m r", A2="r n", B2="m r")
@dataclass(frozen=True, eq=False)
class LoHa(Adapter):
    """W' = W + s (B₁ A₁) ∘ (B₂ A₂)."""

    A1: Array
    B1: Array
    A2: Array
    B2: Array
    scale: float

    @classmethod
    def init(cls, W: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """Kaiming-uniform factors and A₂ = 0, at scale α/r."""
        scale, (m, n) = scaling(alpha, rank), W.shape
        A1, B1, B2 = (
            as_array(rng.uniform(-(columns**-0.5), columns**-0.5, size=(rows, columns)), W)
            for rows, columns in ((rank, n), (m, rank), (m, rank))
        )
        A2 = namespace(W).zeros((rank, n), dtype=W.dtype, **on_device_of(W))
        return cls(A1, B1, A2, B2, scale)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s P₁ ∘ P₂."""
        P1, P2 = self._products()

        def backward(dW):
            return self._through(self.scale * dW, P1, P2)

        return W + self.scale * (P1 * P2), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + x ΔWᵀ, ΔW = s P₁ ∘ P₂."""
        P1, P2 = self._products()
        delta = self.scale * (P1 * P2)
        y = x @ W.T + x @ delta.T

        def backward(dy):
            return dy @ W + dy @ delta, self._through(self.scale * outer_sum(dy, x), P1, P2)

        return y, backward

    def as_lora(self) -> LoRA:
        """The same update as a LoRA of rank r²."""
        xp, (r, n), m = namespace(self.A1), self.A1.shape, self.B1.shape[0]
        A = xp.reshape(self.A1[:, None, :] * self.A2[None, :, :], (r * r, n))
        B = xp.reshape(self.B1[:, :, None] * self.B2[:, None, :], (m, r * r))
        return LoRA(A, B, self.scale)

    def _products(self) -> tuple[Array, Array]:
        return self.B1 @ self.A1, self.B2 @ self.A2

    def _through(self, d: Array, P1: Array, P2: Array) -> Self:
        """dθ, given the cotangent d of P₁ ∘ P₂."""
        dP1, dP2 = d * P2, d * P1
        return with_leaves(
            self,
            A1=self.B1.T @ dP1,
            B1=dP1 @ self.A1.T,
            A2=self.B2.T @ dP2,
            B2=dP2 @ self.A2.T,
        )
