"""An adapter over a weight that is stored transposed, inputs first.

The adapter inside is the usual one, for the weight (m, n). Its factors keep their layout: only
what is added to the stored weight is transposed.

Math:
    stored V = Wᵀ, layer y = x V
    V' = (W')ᵀ,    for LoRA V' = V + s (B A)ᵀ
    y  = x W'ᵀ, by the algorithm of the adapter inside

    dθ = the inside's, given dW' = (dV')ᵀ
Shapes:
    V (..., n, m)   x (..., n)   y (..., m)   A (r, n)   B (m, r)
Errors:
    Those of the adapter inside, which sees Vᵀ: the sizes in its messages are W's.
Limits:
    On a square weight a forgotten transpose gives no error, only wrong numbers.
Source:
    loralib 0.1.2, Linear(fan_in_fan_out=True); PEFT 0.21.2, LoraConfig.fan_in_fan_out, for
    transformers' Conv1D, which is GPT-2's linear layer. On stacked weights (E, n, m) it is PEFT's
    ParamWrapper for modules with is_transposed = True, such as gpt-oss's experts.
"""

from dataclasses import dataclass

from ..arrays import Array, Backward
from ..trees import with_leaves
from .base import Adapter


@dataclass(frozen=True, eq=False)
class FanInFanOut(Adapter):
    """The adapter `inner`, for a weight stored inputs first."""

    inner: Adapter

    def weight(self, W: Array) -> tuple[Array, Backward]:
        """The transposed weight, adapted, and transposed back."""
        W_merged, inner_backward = self.inner.weight(W.mT)

        def backward(dW):
            return with_leaves(self, inner=inner_backward(dW.mT))

        return W_merged.mT, backward

    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The inner algorithm on the transposed weight."""
        y, inner_backward = self.inner.apply(x, W.mT)

        def backward(dy):
            dx, dinner = inner_backward(dy)
            return dx, with_leaves(self, inner=dinner)

        return y, backward

    def bias(self, b: Array) -> tuple[Array, Backward]:
        """The inner adapter's: a bias has no orientation."""
        b_adapted, inner_backward = self.inner.bias(b)
        return b_adapted, lambda db: with_leaves(self, inner=inner_backward(db))

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x W, for a linear layer."""
        y, layer_backward = self.inner.layer(x, W.mT)

        def backward(dy):
            dx, dW_transposed = layer_backward(dy)
            return dx, dW_transposed.mT

        return y, backward
