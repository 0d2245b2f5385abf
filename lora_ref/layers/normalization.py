"""LayerNorm and RMSNorm over the last axis.

Math:
    LayerNorm:  c = x − mean(x)    σ = √(mean(c²) + ε)    h = c / σ    y = h ∘ g + b
        dh = dy ∘ g
        dx = (dh − mean(dh) − h mean(dh ∘ h)) / σ        dg = Σ dyᵢ ∘ hᵢ        db = Σ dyᵢ
    RMSNorm:    ρ = √(mean(x²) + ε)    h = x / ρ    y = h ∘ g
        dx = (dh − h mean(dh ∘ h)) / ρ                   dg = Σ dyᵢ ∘ hᵢ
Shapes:
    x (..., n)   g (n,)   b (n,)   y (..., n)
Units:
    ε has the unit of x². The variance is mean(c²), with n and not n − 1 in the denominator.
Limits:
    A constant row gives h = 0 through ε alone. The sum of squares overflows where n mean(x²), or
    n mean(c²), exceeds the largest number: in float16 above |x| = 9.2 throughout a row of 768, and
    h is then 0. Implementations compute in float32 there.
Source:
    Ba et al. 2016, arXiv:1607.06450, section 3; Zhang and Sennrich 2019, arXiv:1910.07467,
    equation (4), which has no ε. PyTorch 2.13, torch.nn.functional.layer_norm and rms_norm, with
    ε = 1e-5 and the dtype's machine epsilon unless given; BERT uses 1e-12, Llama 1e-6 or 1e-5.
    Gemma stores w with g = 1 + w: convert before the call, or the whole layer is off by one
    (unsloth#219).
"""

from ..arrays import Array, Backward, namespace, row_sum
from ..shapes import shapes


@shapes(x="... n", g="n", b="n")
def layer_norm(x: Array, g: Array, b: Array, *, eps: float = 1e-5) -> tuple[Array, Backward]:
    """y = h ∘ g + b, and backward: dy -> (dx, dg, db)."""
    c = x - _mean(x)
    spread = namespace(x).sqrt(_mean(c * c) + eps)  # (..., 1)
    h = c / spread

    def backward(dy):
        dh = dy * g
        dx = (dh - _mean(dh) - h * _mean(dh * h)) / spread
        return dx, row_sum(dy * h), row_sum(dy)

    return h * g + b, backward


@shapes(x="... n", g="n")
def rms_norm(x: Array, g: Array, *, eps: float = 1e-6) -> tuple[Array, Backward]:
    """y = h ∘ g, and backward: dy -> (dx, dg)."""
    size = namespace(x).sqrt(_mean(x * x) + eps)  # (..., 1)
    h = x / size

    def backward(dy):
        dh = dy * g
        dx = (dh - h * _mean(dh * h)) / size
        return dx, row_sum(dy * h)

    return h * g, backward


def _mean(t: Array) -> Array:
    return namespace(t).sum(t, axis=-1, keepdims=True) / t.shape[-1]
