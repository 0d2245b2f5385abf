"""Dropout before an adapter: the base reads x, the update reads x̃ = μ ∘ x.

Math:
    y  = x Wᵀ + x̃ ΔWᵀ,   ΔW = W' − W                               the definition, any adapter
    dx = dy W + μ ∘ (dy ΔW)        dθ from dW' = Σ dyᵀ x̃

    LoRA     y = x Wᵀ + s (x̃ Aᵀ) Bᵀ
    DoRA     y = x Wᵀ + (g − 1) ∘ x̃ Wᵀ + g ∘ s (x̃ Aᵀ) Bᵀ          `dropped_apply`, PEFT's
             y = g ∘ (x Wᵀ + s (x̃ Aᵀ) Bᵀ)                          `dropped_direction`, another map
    For DoRA ΔW has a part (g − 1) ∘ W, which the first form drops and the second does not.
Shapes:
    x, x̃ as the adapter's layer has it   μ: that of x, or one that broadcasts to it   W as ever
Units:
    μ is 0 or 1/(1 − p), inverted dropout: its mean is 1, and nothing is rescaled in inference.
Errors:
    ShapeError if μ does not broadcast to x; ValueError if p is not in [0, 1).
Limits:
    μ is an argument: the same one has to be given to what is compared. `dropout_mask` draws one.
    Inference, and merging, is μ = 1: then both forms of DoRA are `DoRA.apply`.
    An embedding's input is integers and has no dropout, in PEFT neither.
Source:
    LoRA: loralib 0.1.2, Linear; PEFT 0.21.2, tuners/lora/layer.py, Linear.forward. DoRA: PEFT
    0.21.2, tuners/lora/variants.py, DoraLinearVariant.forward and _DoraConvNdVariant.forward.
    `dropped_direction`: torchtune, modules/peft/dora.py, DoRALinear.forward; mlx-lm, tuner/dora.py,
    DoRALinear. LyCORIS ignores dropout where it decomposes the weight (modules/locon.py).
"""

import numpy as np

from ..adapters.base import Adapter
from ..adapters.dora import DoRA
from ..adapters.lora import LoRA
from ..arrays import Array, Backward, as_array, namespace, norm, outer_sum, row_sum
from ..shapes import ShapeError, shapes
from ..trees import with_leaves, zeros_like


def dropout_mask(x: Array, p: float, rng: np.random.Generator) -> Array:
    """A μ for x: each entry 0 with probability p, else 1/(1 − p)."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout_mask: p must be in [0, 1), got {p}")
    return as_array((rng.random(x.shape) >= p) / (1 - p), x)


def dropped(adapter: Adapter, x: Array, W: Array, mask: Array) -> tuple[Array, Backward]:
    """y by definition: the base layer of x, and that of x̃ with W' − W; backward: dy -> (dx, dθ)."""
    _check("dropped", x, mask)
    W_merged, weight_backward = adapter.weight(W)
    base, base_backward = adapter.layer(x, W)
    update, update_backward = adapter.layer(mask * x, W_merged - W)

    def backward(dy):
        dx_dropped, dW_merged = update_backward(dy)
        return base_backward(dy)[0] + mask * dx_dropped, weight_backward(dW_merged)

    return base + update, backward


def dropped_lora(lora: LoRA, x: Array, W: Array, mask: Array) -> tuple[Array, Backward]:
    """y = x Wᵀ + s (x̃ Aᵀ) Bᵀ, and backward: dy -> (dx, dθ)."""
    _check("dropped_lora", x, mask)
    A, B, s = lora.A, lora.B, lora.scale
    dropped_x = mask * x
    u = dropped_x @ A.T  # (..., r)

    def backward(dy):
        du = s * (dy @ B)
        dx = dy @ W + mask * (du @ A)
        return dx, with_leaves(lora, A=outer_sum(du, dropped_x), B=s * outer_sum(dy, u))

    return x @ W.T + s * (u @ B.T), backward


def dropped_apply(adapter: Adapter, x: Array, W: Array, mask: Array) -> tuple[Array, Backward]:
    """y = (x − x̃) Wᵀ plus the adapter's own y of x̃, which for DoRA is PEFT's form."""
    _check("dropped_apply", x, mask)
    kept, kept_backward = adapter.apply(mask * x, W)
    lost, lost_backward = adapter.layer((1 - mask) * x, W)

    def backward(dy):
        dx_kept, dadapter = kept_backward(dy)
        return (1 - mask) * lost_backward(dy)[0] + mask * dx_kept, dadapter

    return lost + kept, backward


@shapes(x="... n", W="m n")
def dropped_direction(dora: DoRA, x: Array, W: Array, mask: Array) -> tuple[Array, Backward]:
    """y = g ∘ (x Wᵀ + s (x̃ Aᵀ) Bᵀ): the magnitude scales the base of x, not that of x̃."""
    _check("dropped_direction", x, mask)
    lora = LoRA(dora.A, dora.B, dora.scale)
    h, h_backward = dropped_lora(lora, x, W, mask)
    g, g_backward = _gain(dora, W)

    def backward(dy):
        dx, dlora = h_backward(g * dy)
        dadapter = g_backward(row_sum(dy * h))
        A, B = dlora.A + dadapter.A, dlora.B + dadapter.B
        return dx, with_leaves(dora, A=A, B=B, m=dadapter.m)

    return g * h, backward


def _gain(dora: DoRA, W: Array) -> tuple[Array, Backward]:
    """g = m / c (m,), and backward: dg -> dθ, by ∂cᵢ/∂Vᵢ = Vᵢ / cᵢ unless c is detached."""
    lora = LoRA(dora.A, dora.B, dora.scale)
    V, V_backward = lora.weight(W)
    c = namespace(V).reshape(norm(V, axis=1), dora.m.shape)
    g = dora.m / c

    def backward(dg):
        dc = (-dg * g / c)[:, None]
        dlora = zeros_like(lora) if dora.detach_norm else V_backward(V * dc / c[:, None])
        return with_leaves(dora, A=dlora.A, B=dlora.B, m=dg / c)

    return g, backward


def _check(owner: str, x: Array, mask: Array) -> None:
    tail = tuple(x.shape)[x.ndim - mask.ndim :] if mask.ndim <= x.ndim else None
    fits = tail is not None and all(a in (1, b) for a, b in zip(mask.shape, tail, strict=True))
    if not fits:
        raise ShapeError(
            f"{owner}: mask must broadcast to x, {tuple(x.shape)}, got {tuple(mask.shape)}"
        )
