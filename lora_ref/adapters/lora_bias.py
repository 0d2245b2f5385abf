"""LoRA whose B carries a bias: the layer's bias learns as well, at LoRA's scale.

Math:
    W' = W + s B A        b' = b + s β
    y  = x W'ᵀ + b' = x Wᵀ + b + s ((x Aᵀ) Bᵀ + β)

    dA, dB as LoRA        dβ = s db'
Shapes:
    β (m,), the rest as the adapter inside: LoRA for a linear layer, ConvLoRA for a convolution
Init:
    β = 0 besides B = 0, so W' = W and b' = b.
Errors:
    ShapeError if β does not have one entry for each output.
Limits:
    A layer without a bias has nothing to merge β into: b must be given, zeros if need be.
Source:
    PEFT 0.21.2, LoraConfig.lora_bias (tuners/lora/layer.py, Linear.merge: the base layer's bias
    plus lora_B.bias times the scaling). As `apply` is a layer's output without its bias, β enters
    through `bias`, in `adapted_linear`.
"""

from dataclasses import dataclass
from typing import Self

from ..arrays import Array, Backward, namespace, on_device_of
from ..shapes import ShapeError, shapes
from ..trees import with_leaves, zeros_like
from .base import Adapter
from .conv import ConvLoRA
from .lora import LoRA


@shapes(beta="m")
@dataclass(frozen=True, eq=False)
class BiasedLoRA(Adapter):
    """W' = W + s B A and b' = b + s β."""

    lora: LoRA | ConvLoRA
    beta: Array

    def __post_init__(self) -> None:
        """β must have one entry for each output of B."""
        super().__post_init__()
        outputs = self.lora.B.shape[0]
        if self.beta.shape[0] != outputs:
            raise ShapeError(
                f"BiasedLoRA: BiasedLoRA.beta must be (m,) with m = {outputs} from lora.B, "
                f"got {tuple(self.beta.shape)}"
            )

    @classmethod
    def around(cls, lora: LoRA | ConvLoRA) -> Self:
        """`lora` with β = 0."""
        B = lora.B
        return cls(lora, namespace(B).zeros((B.shape[0],), dtype=B.dtype, **on_device_of(B)))

    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' as `lora` has it; β is no part of it."""
        W_merged, lora_backward = self.lora.weight(W)

        def backward(dW):
            return with_leaves(self, lora=lora_backward(dW), beta=zeros_like(self.beta))

        return W_merged, backward

    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y without its bias, as `lora` has it."""
        y, lora_backward = self.lora.apply(x, W)

        def backward(dy):
            dx, dlora = lora_backward(dy)
            return dx, with_leaves(self, lora=dlora, beta=zeros_like(self.beta))

        return y, backward

    @shapes(b="m")
    def bias(self, b: Array) -> tuple[Array, Backward]:
        """b' = b + s β."""
        s = self.lora.scale

        def backward(db):
            return with_leaves(zeros_like(self), beta=s * db)

        return b + s * self.beta, backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The layer that `lora` corrects."""
        return self.lora.layer(x, W)
