"""DoubleLoRA: two low-rank corrections of one weight, at one scale.

One text calls it DoRA, "Double Low-Rank Adaptation". It has nothing of `DoRA`, which takes a weight
apart into lengths and directions.

Math:
    W' = W + s (B₁ A₁ + B₂ A₂)
    y  = x Wᵀ + s ((x A₁ᵀ) B₁ᵀ + (x A₂ᵀ) B₂ᵀ)

    dAᵢ = s Bᵢᵀ dW'        dBᵢ = s dW' Aᵢᵀ
    as one LoRA: A = [A₁; A₂], B = [B₁ B₂], of rank r₁ + r₂ at the same s
Shapes:
    x (..., n)   W (m, n)   A₁ (r₁, n)   B₁ (m, r₁)   A₂ (r₂, n)   B₂ (m, r₂)   y (..., m)
Units:
    s = α/r with the rank r of one pair; the one LoRA of rank 2r has it at twice the α.
Init:
    A₁ and A₂ as LoRA's A, drawn one after the other; B₁ = B₂ = 0, so W' = W.
Errors:
    ShapeError if a factor, W or x does not fit; ValueError if the rank is below 1.
Limits:
    It reaches what LoRA of rank r₁ + r₂ reaches, with as many parameters and, entry by entry, the
    same gradients: what it has over LoRA at the same count is the scale, and nothing else.
Source:
    The survey among the source texts (docs/source_texts.md), "DoRA (Double Low Rank Adaption)": a
    second set of low-rank matrices beside LoRA's, with B₁, A₁, B₂, A₂. As we have it, it names
    neither scale nor initialisation; both are LoRA's here. PEFT has no such method: its file and
    its layers hold `as_lora`.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, either, namespace, outer_sum
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import LoRA


@shapes(A1="r1 n", B1="m r1", A2="r2 n", B2="m r2")
@dataclass(frozen=True, eq=False)
class DoubleLoRA(Adapter):
    """W' = W + s (B₁ A₁ + B₂ A₂)."""

    A1: Array
    B1: Array
    A2: Array
    B2: Array
    scale: float

    @classmethod
    def init(cls, W: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """Two pairs of `rank`, each with a Kaiming-uniform A and B = 0, at scale α/r."""
        one, two = (LoRA.init(W, rank, alpha, rng) for _ in range(2))
        return cls(one.A, one.B, two.A, two.B, one.scale)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s (B₁ A₁ + B₂ A₂)."""
        A1, B1, A2, B2, s = self.A1, self.B1, self.A2, self.B2, self.scale

        def backward(dW):
            one = {"A1": s * (B1.T @ dW), "B1": s * (dW @ A1.T)}
            return with_leaves(self, **one, A2=s * (B2.T @ dW), B2=s * (dW @ A2.T))

        return W + s * (B1 @ A1 + B2 @ A2), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + s (u₁ B₁ᵀ + u₂ B₂ᵀ), uᵢ = x Aᵢᵀ."""
        xp, s = namespace(x), self.scale
        u1, u2 = x @ self.A1.T, x @ self.A2.T  # (..., rᵢ)
        v1, v2 = u1 @ self.B1.T, u2 @ self.B2.T
        base = x @ W.T
        y = either(xp, lambda: base + s * (v1 + v2), lambda: base + s * v1 + s * v2)

        def backward(dy):
            du1, du2 = s * (dy @ self.B1), s * (dy @ self.B2)
            dx = dy @ W + du1 @ self.A1 + du2 @ self.A2
            one = {"A1": outer_sum(du1, x), "B1": s * outer_sum(dy, u1)}
            two = {"A2": outer_sum(du2, x), "B2": s * outer_sum(dy, u2)}
            return dx, with_leaves(self, **one, **two)

        return y, backward

    def as_lora(self) -> LoRA:
        """The one LoRA of rank r₁ + r₂ that is the same map."""
        xp = namespace(self.A1)
        A = xp.concat([self.A1, self.A2], axis=0)
        return LoRA(A, xp.concat([self.B1, self.B2], axis=1), self.scale)
