"""BitFit: the biases of a model learn, and no weight does.

Math:
    W' = W        b' = b + δ
    y  = x Wᵀ + b + δ

    dδ = db' = Σ dyᵢ
Shapes:
    x (..., n)   W (m, n)   b, δ (m,)   y (..., m)
Init:
    δ = 0, so b' = b.
Errors:
    ShapeError if b does not have one entry for each of δ, or x and W do not fit.
Limits:
    A layer without a bias has nothing to learn: b must be given, zeros if need be.
    δ enters through `bias`, in `adapted_linear`; `apply` is the layer without it.
Source:
    Ben Zaken, Ravfogel, Goldberg 2021, arXiv:2106.10199. PEFT 0.21.2 has it as LoraConfig.bias =
    "all", beside LoRA's factors; its file stores b', where this is the change δ.
"""

from dataclasses import dataclass
from typing import Self

from ..arrays import Array, Backward, namespace
from ..layers.linear import linear
from ..shapes import shapes
from ..trees import with_leaves, zeros_like
from .base import Adapter


@shapes(delta="m")
@dataclass(frozen=True, eq=False)
class BitFit(Adapter):
    """W' = W and b' = b + δ."""

    delta: Array

    @classmethod
    def init(cls, b: Array) -> Self:
        """δ = 0 for the bias b."""
        return cls(namespace(b).zeros_like(b))

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W, which stays as it is."""
        return W, lambda dW: zeros_like(self)

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """x Wᵀ: the output without its bias."""
        y, linear_backward = linear(x, W)

        def backward(dy):
            return linear_backward(dy)[0], zeros_like(self)

        return y, backward

    @shapes(b="m")
    def bias(self, b: Array) -> tuple[Array, Backward]:
        """b' = b + δ."""
        return b + self.delta, lambda db: with_leaves(self, delta=db)
