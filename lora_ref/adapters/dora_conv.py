"""DoRA for a convolution: one magnitude for each output channel, the direction is its whole kernel.

Math:
    V = W + ΔW of the ConvLoRA inside        c[o] = ‖V[o]‖, over channels and offsets
    g = m / c
    W'[o] = g[o] V[o]
    y = g ∘ (conv(x, W) + s conv(conv(x, A), B)), g along the channels of y

    dm[o] = ⟨dW'[o], V[o]⟩ / c[o]
    dV[o] = g[o] (dW'[o] − dm[o] V[o] / c[o])        the full gradient, detach_norm = False
    dV[o] = g[o] dW'[o]                              c held constant, detach_norm = True
    dA and dB as ConvLoRA, given dV
Shapes:
    x (..., n, *space)   W, V (m, n/g, *kernel)   A (r, n/g, *kernel)   B (m, r/g, 1, ...)
    m, c, g: one number for each of the m outputs (PEFT stores m as (1, m, 1, ...))
Init:
    `init` draws A and B as ConvLoRA does, so B = 0, and `around` takes any ConvLoRA; m = ‖V‖ makes
    g = 1 and W' = V. With B = 0 that is W, to the last bit.
Errors:
    ShapeError if m does not have one entry for each output; those of the ConvLoRA inside.
Limits:
    A kernel of V that is zero gives NaN in its channel, as a row of zeros in DoRA.
    With groups it is this map that is meant. PEFT's norm is then that of a scrambled kernel, see
    Source, and its adapter has none of this library.
Source:
    PEFT 0.21.2, tuners/lora/dora.py, _DoraConvNdLayer, which always detaches the norm; its LoRA
    inside differs from ConvLoRA in dilation and padding mode. For a grouped convolution its product
    of B (m/g, r) and A (r, n·|kernel|) has as many numbers as W and is reshaped into its shape.
    The paper, arXiv:2402.09353, has linear layers alone.
"""

from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from ..arrays import Array, Backward, either, namespace, norm
from ..layers.convolution import Geometry, convolution
from ..shapes import ShapeError, shapes
from ..trees import tree_map, with_leaves
from .base import Adapter
from .conv import ConvLoRA


@shapes(m="m")
@dataclass(frozen=True, eq=False)
class ConvDoRA(Adapter):
    """W' = m V / ‖V‖ by output channel, V the kernel that `lora` makes of W."""

    lora: ConvLoRA
    m: Array
    detach_norm: bool = False

    def __post_init__(self) -> None:
        """m must have one entry for each output of B."""
        super().__post_init__()
        outputs = self.lora.B.shape[0]
        if self.m.shape[0] != outputs:
            raise ShapeError(
                f"ConvDoRA: ConvDoRA.m must be (m,) with m = {outputs} from lora.B, "
                f"got {tuple(self.m.shape)}"
            )

    @classmethod
    def init(
        cls,
        W: Array,
        rank: int,
        alpha: float,
        geometry: Geometry,
        rng: np.random.Generator,
        *,
        detach_norm: bool = False,
    ) -> Self:
        """Kaiming-uniform A, B = 0 and m = ‖W‖ by output channel, at scale α/r."""
        lora = ConvLoRA.init(W, rank, alpha, geometry, rng)
        return cls.around(lora, W, detach_norm=detach_norm)

    @classmethod
    def around(cls, lora: ConvLoRA, W: Array, *, detach_norm: bool = False) -> Self:
        """The directions of `lora` on W at their present lengths, so that W' = V."""
        c = _norms(lora.merge(W))
        return cls(lora, namespace(W).reshape(c, (W.shape[0],)), detach_norm)

    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = m V / ‖V‖, by output channel."""
        xp = namespace(W, self.m)
        V, V_backward = self.lora.weight(W)
        c = _norms(V)
        m = xp.reshape(self.m, c.shape)
        g, axes = m / c, tuple(range(1, V.ndim))
        W_merged = either(xp, lambda: g * V, lambda: m * (V / c))

        def backward(dW):
            dm = either(
                xp,
                lambda: xp.sum(dW * V, axis=axes, keepdims=True) / c,
                lambda: xp.sum(dW * (V / c), axis=axes, keepdims=True),
            )
            dV = g * dW if self.detach_norm else g * (dW - V * (dm / c))
            return with_leaves(self, lora=V_backward(dV), m=xp.reshape(dm, self.m.shape))

        return W_merged, backward

    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = m / ‖V‖ ∘ (conv(x, W) + s conv(conv(x, A), B))."""
        xp = namespace(x, self.m)
        V, V_backward = self.lora.weight(W)
        c = _norms(V)
        base, base_backward = convolution(x, W, geometry=self.lora.geometry)
        update, update_backward = self.lora.update(x)
        along = (self.m.shape[0], *(1 for _ in W.shape[2:]))  # the channels of y
        lengths = xp.reshape(c, along)
        g = xp.reshape(self.m, along) / lengths
        h = base + update
        y = either(xp, lambda: g * h, lambda: base + ((g - 1) * base + g * update))

        def backward(dy):
            dh = g * dy
            dx, dlora = update_backward(dh)
            dbase = either(xp, lambda: dh, lambda: dy + (g - 1) * dy)
            dm = either(
                xp,
                lambda: _channel_sum(dy * h, along) / lengths,
                lambda: (
                    (_channel_sum(dy * base, along) + _channel_sum(dy * update, along)) / lengths
                ),
            )
            if not self.detach_norm:
                dc = xp.reshape(-dm * g, c.shape)  # ∂c[o]/∂V[o] = V[o] / c[o]
                dlora = tree_map(lambda a, b: a + b, dlora, V_backward(V * (dc / c)))
            dx = base_backward(dbase)[0] + dx
            return dx, with_leaves(self, lora=dlora, m=xp.reshape(dm, self.m.shape))

        return y, backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The convolution of this geometry."""
        return self.lora.layer(x, W)


def _norms(V: Array) -> Array:
    """The norms (m, 1, ...) of the kernels V[o]."""
    xp = namespace(V)
    flat = xp.reshape(V, (V.shape[0], prod(V.shape[1:])))
    return xp.reshape(norm(flat, axis=1), (V.shape[0], *(1 for _ in V.shape[1:])))


def _channel_sum(t: Array, along: tuple[int, ...]) -> Array:
    """Σ over leading axes and space: (..., m, *space) gives `along`, (m, 1, ...)."""
    xp, first = namespace(t), t.ndim - len(along)
    axes = tuple(i for i in range(t.ndim) if i != first)
    return xp.reshape(xp.sum(t, axis=axes), along)
