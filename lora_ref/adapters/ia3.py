"""IA3: a gain for each output of a layer, or for each input.

Nothing is added to the weight; activations are rescaled, so that the update is multiplicative. On
keys and values the outputs are, in a feed-forward block the inputs of its last layer.

Math:
    of the outputs, IA3            W'ᵢⱼ = lᵢ Wᵢⱼ        b' = l ∘ b        y = l ∘ (x Wᵀ)
                                   dlᵢ = Σⱼ dW'ᵢⱼ Wᵢⱼ + db'ᵢ bᵢ
    of the inputs, InputIA3        W'ᵢⱼ = Wᵢⱼ lⱼ        b' = b            y = (x ∘ l) Wᵀ
                                   dlⱼ = Σᵢ dW'ᵢⱼ Wᵢⱼ
Shapes:
    x (..., n)   W (m, n)   b (m,)   y (..., m)   l (m,) of the outputs, (n,) of the inputs
Init:
    l = 1, so W' = W and b' = b, to the last bit.
Errors:
    ShapeError if l, W, b or x do not fit.
Limits:
    A gain of zero cannot be undone. Where l is not zero, PEFT's unmerge divides by l + 1e-8, which
    is not the inverse of its merge.
Source:
    Liu et al. 2022, arXiv:2205.05638, section 3.3: l_k and l_v on keys and values, and l_ff on the
    hidden layer of the feed-forward block, all gains of activations; PEFT 0.21.2,
    tuners/ia3/layer.py, Linear, puts them on the layer before or, for feedforward_modules, behind.
    There ia3_l is l as (m, 1) or (1, n), and the bias is rescaled as well.
"""

from dataclasses import dataclass
from typing import Self

from ..arrays import Array, Backward, namespace, on_device_of, row_sum
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter


@shapes(l="m")
@dataclass(frozen=True, eq=False)
class IA3(Adapter):
    """W' = diag(l) W and b' = l ∘ b."""

    l: Array  # noqa: E741 (the paper's letter)

    @classmethod
    def init(cls, W: Array) -> Self:
        """l = 1."""
        return cls(_ones(W.shape[0], W))

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = diag(l) W."""

        def backward(dW):
            return with_leaves(self, l=namespace(W).sum(dW * W, axis=1))

        return self.l[:, None] * W, backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = l ∘ (x Wᵀ)."""
        h = x @ W.T

        def backward(dy):
            return (self.l * dy) @ W, with_leaves(self, l=row_sum(dy * h))

        return self.l * h, backward

    @shapes(b="m")
    def bias(self, b: Array) -> tuple[Array, Backward]:
        """b' = l ∘ b."""
        return self.l * b, lambda db: with_leaves(self, l=db * b)


@shapes(l="n")
@dataclass(frozen=True, eq=False)
class InputIA3(Adapter):
    """W' = W diag(l); the bias stays."""

    l: Array  # noqa: E741 (the paper's letter)

    @classmethod
    def init(cls, W: Array) -> Self:
        """l = 1."""
        return cls(_ones(W.shape[1], W))

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W diag(l)."""

        def backward(dW):
            return with_leaves(self, l=namespace(W).sum(dW * W, axis=0))

        return W * self.l, backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = (x ∘ l) Wᵀ."""

        def backward(dy):
            dh = dy @ W  # (..., n)
            return self.l * dh, with_leaves(self, l=row_sum(dh * x))

        return (x * self.l) @ W.T, backward


def _ones(size: int, W: Array) -> Array:
    return namespace(W).ones((size,), dtype=W.dtype, **on_device_of(W))
