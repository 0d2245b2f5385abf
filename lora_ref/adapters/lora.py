"""LoRA: low-rank adaptation.

A frozen weight W learns through a correction of rank r, the product of two thin factors B and A.

Math:
    W' = W + s B A
    y  = x W'ᵀ = x Wᵀ + s (x Aᵀ) Bᵀ

    dA = s Bᵀ dW'        dB = s dW' Aᵀ
Shapes:
    x (..., n)   W (m, n)   A (r, n)   B (m, r)   y (..., m)
Units:
    s has no unit: `scaling` is α/r, `stabilised_scaling` is α/√r; PEFT's default α is 8.
Init:
    B = 0, so W' = W and training starts at the base model.
    `init` draws A ~ U(-1/√n, 1/√n), which is Kaiming's uniform with a = √5;
    `init_gaussian` draws A ~ N(0, 1/r²), that is with a standard deviation of 1/r.
Errors:
    ShapeError if A, B, W or x do not fit; ValueError if the rank is below 1.
Limits:
    `unmerge(merge(W))` is W only up to rounding: a bf16 weight changes in a large part of its
    elements.
Source:
    Hu et al. 2021, arXiv:2106.09685, section 4.1, equation (3); α/√r: Kalajdzievski 2023,
    arXiv:2312.03732. The paper draws A from a Gaussian; loralib 0.1.2 (Linear.reset_parameters)
    and PEFT 0.21.2 (LoraLayer.reset_lora_parameters) draw it uniform, as `init` does;
    `init_gaussian` is PEFT's init_lora_weights="gaussian".
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, namespace, on_device_of, outer_sum
from ..shapes import shapes
from ..trees import with_leaves
from ..values import checked_count
from .base import Adapter


def scaling(alpha: float, rank: int) -> float:
    """s = α/r, the scale of the LoRA paper."""
    return float(alpha) / checked_count("scaling", "rank", rank, 1)


def stabilised_scaling(alpha: float, rank: int) -> float:
    """s = α/√r, the scale of rank-stabilised LoRA (rsLoRA)."""
    return float(alpha) / checked_count("stabilised_scaling", "rank", rank, 1) ** 0.5


@shapes(A="r n", B="m r")
@dataclass(frozen=True, eq=False)
class LoRA(Adapter):
    """W' = W + s B A."""

    A: Array
    B: Array
    scale: float

    @classmethod
    def init(cls, W: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """Kaiming-uniform A and B = 0, at scale α/r."""
        bound = W.shape[1] ** -0.5
        A = rng.uniform(-bound, bound, size=(checked_count("LoRA", "rank", rank, 1), W.shape[1]))
        return cls(as_array(A, W), _zeros(W, rank), scaling(alpha, rank))

    @classmethod
    def init_gaussian(cls, W: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """A ~ N(0, 1/r²) and B = 0, at scale α/r."""
        A = rng.normal(0, 1 / checked_count("LoRA", "rank", rank, 1), size=(rank, W.shape[1]))
        return cls(as_array(A, W), _zeros(W, rank), scaling(alpha, rank))

    def delta(self) -> Array:
        """ΔW = s B A."""
        return self.scale * (self.B @ self.A)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s B A."""
        A, B, s = self.A, self.B, self.scale

        def backward(dW):
            return with_leaves(self, A=s * (B.T @ dW), B=s * (dW @ A.T))

        return W + self.delta(), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + s (x Aᵀ) Bᵀ."""
        A, B, s = self.A, self.B, self.scale
        u = x @ A.T  # (..., r)
        y = x @ W.T + s * (u @ B.T)

        def backward(dy):
            du = s * (dy @ B)  # (..., r)
            dx = dy @ W + du @ A
            return dx, with_leaves(self, A=outer_sum(du, x), B=s * outer_sum(dy, u))

        return y, backward

    @shapes(W="m n")
    def unmerge(self, W: Array) -> Array:
        """W = W' − s B A, given W'."""
        return W - self.delta()


def swap(W: Array, old: LoRA, new: LoRA) -> Array:
    """The weight merged with `new`, given the weight W merged with `old`."""
    return new.merge(old.unmerge(W))


def _zeros(W: Array, rank: int) -> Array:
    return namespace(W).zeros((W.shape[0], rank), dtype=W.dtype, **on_device_of(W))
