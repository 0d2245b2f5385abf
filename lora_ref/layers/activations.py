"""Activations: ReLU, GELU (exact and tanh), SiLU; elementwise, and defined at ±∞ by their limits.

Math:
    relu(x) = max(x, 0)                            relu' = 1 for x > 0, 0 for x ≤ 0
    gelu(x) = x Φ(x),  Φ = ½ (1 + erf(x/√2))       gelu' = Φ + x φ(x),  φ = exp(−x²/2) / √(2π)
    gelu_tanh(x) = x t,  t = ½ (1 + tanh u),       its derivative is t + 2 x t (1 − t) u',
        u = √(2/π) (x + 0.044715 x³)               u' = √(2/π) (1 + 3 · 0.044715 x²)
    silu(x) = x σ(x),  σ = 1 / (1 + exp(−x))       silu' = σ + x σ (1 − σ)
    dx = dy ∘ f'(x)
Shapes:
    x (...)   y (...)
Limits:
    Φ, t and σ are constant to the last bit far from 0; there x is clipped inside them, so that
    nothing overflows, f(−∞) = 0, f(∞) = ∞, and the derivatives are 0 and 1. NaN stays NaN.
    Φ and t cancel for x < 0: gelu(−5) has a relative error of 4e-11 in float64, 4e-2 in
    float32; the error relative to |x| stays at one rounding.
Source:
    GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2. PyTorch 2.13's
    torch.nn.functional.relu (relu'(0) = 0), gelu, gelu(approximate="tanh") and silu, all but relu
    NaN at −∞; gelu_new and gelu_pytorch_tanh of transformers are gelu_tanh.
"""

import math

from ..arrays import Array, Backward, erf, namespace
from ..shapes import shapes

_FAR_GELU = 40.0  # Φ and t are 0 or 1 from 9 on; 40³ still fits in float16
_FAR_SILU = 1000.0  # exp(−1000) is 0 in float64, exp(−745) is not
_CUBIC = 0.044715


@shapes(x="...")
def relu(x: Array) -> tuple[Array, Backward]:
    """max(x, 0), and backward: dy -> dx."""
    xp = namespace(x)
    return xp.where(x <= 0, 0.0, x), lambda dy: xp.where(x <= 0, 0.0, dy)


@shapes(x="...")
def gelu(x: Array) -> tuple[Array, Backward]:
    """x Φ(x), and backward: dy -> dx."""
    xp = namespace(x)
    c = xp.clip(x, -_FAR_GELU, _FAR_GELU)
    cdf = 0.5 * (1 + erf(c * 0.5**0.5))

    def backward(dy):
        pdf = (2 * math.pi) ** -0.5 * xp.exp(-0.5 * c * c)
        return dy * (cdf + c * pdf)

    return xp.clip(x, -_FAR_GELU, None) * cdf, backward


@shapes(x="...")
def gelu_tanh(x: Array) -> tuple[Array, Backward]:
    """GELU with its tanh approximation, and backward: dy -> dx."""
    xp = namespace(x)
    c = xp.clip(x, -_FAR_GELU, _FAR_GELU)
    slope = (2 / math.pi) ** 0.5
    t = 0.5 * (1 + xp.tanh(slope * c * (1 + _CUBIC * c * c)))

    def backward(dy):
        du = slope * (1 + 3 * _CUBIC * c * c)
        return dy * (t + 2 * c * t * (1 - t) * du)

    return xp.clip(x, -_FAR_GELU, None) * t, backward


@shapes(x="...")
def silu(x: Array) -> tuple[Array, Backward]:
    """x σ(x), also called swish, and backward: dy -> dx."""
    xp = namespace(x)
    c = xp.clip(x, -_FAR_SILU, _FAR_SILU)
    e = xp.exp(-xp.abs(c))
    sigmoid = xp.where(c >= 0, 1.0, e) / (1 + e)

    def backward(dy):
        return dy * (sigmoid + c * e / (1 + e) ** 2)  # σ (1 − σ) = e / (1 + e)² without cancelling

    return xp.clip(x, -_FAR_SILU, None) * sigmoid, backward
