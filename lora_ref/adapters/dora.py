"""DoRA: weight-decomposed low-rank adaptation, of a linear layer.

Each row of the weight is split into its length and its direction. LoRA moves the direction, and
the length, a magnitude for each output, is trained by itself. PEFT trains with ‖V‖ held constant:
that is detach_norm=True, which `init` and `around` must be asked for, and the default is the full
gradient. The weights are the same.

Math:
    V = W + s B A        c = ‖V‖ by row        g = m / c
    W' = g ∘ V, that is W'ᵢ = mᵢ Vᵢ / ‖Vᵢ‖
    y  = x W'ᵀ = g ∘ (x Wᵀ + s (x Aᵀ) Bᵀ)

    dmᵢ = ⟨dW'ᵢ, Vᵢ⟩ / cᵢ
    dVᵢ = gᵢ (dW'ᵢ − dmᵢ Vᵢ / cᵢ)        the full gradient, detach_norm = False
    dVᵢ = gᵢ dW'ᵢ                        c held constant, detach_norm = True
    dA = s Bᵀ dV        dB = s dV Aᵀ
Shapes:
    x (..., n)   W, V (m, n)   A (r, n)   B (m, r)   m, c, g: one number for each of the m outputs
Init:
    `init` draws A and B as LoRA does, so B = 0, and `around` takes any LoRA; m = ‖V‖ makes g = 1
    and W' = V. With B = 0 that is W, to the last bit.
Errors:
    ShapeError if m, A, B, W or x do not fit; ValueError if the rank is below 1.
Limits:
    A row of V that is zero has no direction: g is m / 0 and the row of W' is NaN, other rows are
    not touched. A row of zeros in W is such a row at the start, with m = 0. PEFT adds no ε either
    and gives NaN too, in the forward and in the merge.
    Where s B A nearly cancels a row of W, V carries the rounding errors of W and s B A, enlarged by
    ‖Wᵢ‖ / ‖Vᵢ‖, and g carries them on into y. It is the map that is so sensitive there.
Source:
    Liu et al. 2024, arXiv:2402.09353, section 4.1, equation (5), and section 4.3, which detaches
    the norm. PEFT 0.21.2, tuners/lora/dora.py, DoraLinearLayer, always detaches it; the authors'
    NVlabs/DoRA does with dora_simple=True. Both take the norm over the inputs, one for each output;
    LyCORIS took it over the outputs until 3.2 (LyCORIS#216), which is another map: `ColumnDoRA`.
    Both compute y as x Wᵀ + (g − 1) ∘ x Wᵀ + g ∘ s (x Aᵀ) Bᵀ.
"""

from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np

from ..arrays import Array, Backward, either, namespace, norm, outer_sum, row_sum
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import LoRA


@shapes(A="r n", B="m r", m="m")
@dataclass(frozen=True, eq=False)
class DoRA(Adapter):
    """W' = m V / ‖V‖ by row, V = W + s B A.

    The default is the full gradient. `detach_norm=True` is the gradient that PEFT trains with, and
    what PEFT's files are read with and written from.
    """

    A: Array
    B: Array
    m: Array
    scale: float
    detach_norm: bool = False

    @classmethod
    def init(
        cls,
        W: Array,
        rank: int,
        alpha: float,
        rng: np.random.Generator,
        *,
        detach_norm: bool = False,
    ) -> Self:
        """Kaiming-uniform A, B = 0 and m = ‖W‖ by row, at scale α/r."""
        return cls.around(LoRA.init(W, rank, alpha, rng), W, detach_norm=detach_norm)

    @classmethod
    def around(cls, lora: LoRA, W: Array, *, detach_norm: bool = False) -> Self:
        """The directions of `lora` on W at their present lengths, so that W' = V."""
        c = norm(lora.merge(W), axis=1)
        m = namespace(W).reshape(c, (W.shape[0],))
        return cls(lora.A, lora.B, m, lora.scale, detach_norm)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = m V / ‖V‖, by row."""
        xp, A, B, s = namespace(W), self.A, self.B, self.scale
        V, c = self._direction(W)
        m = xp.reshape(self.m, c.shape)  # (m, 1)
        g = m / c
        W_merged = either(xp, lambda: g * V, lambda: m * (V / c))

        def backward(dW):
            dm = either(
                xp,
                lambda: xp.sum(dW * V, axis=1, keepdims=True) / c,
                lambda: xp.sum(dW * (V / c), axis=1, keepdims=True),
            )
            dV = g * dW if self.detach_norm else g * (dW - V * (dm / c))
            return with_leaves(
                self, A=s * (B.T @ dV), B=s * (dV @ A.T), m=xp.reshape(dm, self.m.shape)
            )

        return W_merged, backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = m / ‖V‖ ∘ (x Wᵀ + s (x Aᵀ) Bᵀ)."""
        xp, A, B, s = namespace(x), self.A, self.B, self.scale
        V, c = self._direction(W)
        lengths = xp.reshape(c, self.m.shape)  # (m,)
        g = self.m / lengths
        u = x @ A.T  # (..., r)
        base, update = x @ W.T, s * (u @ B.T)
        h = base + update
        y = either(xp, lambda: g * h, lambda: base + ((g - 1) * base + g * update))

        def backward(dy):
            dh = g * dy
            du = s * (dh @ B)  # (..., r)
            rest, dthrough = cache(lambda: (g - 1) * dy), du @ A
            dbase = either(xp, lambda: dh, lambda: dy + rest())
            dx = either(
                xp,
                lambda: dbase @ W + dthrough,
                lambda: dy @ W + rest() @ W + dthrough,
            )
            dm = either(
                xp,
                lambda: row_sum(dy * h) / lengths,
                lambda: (row_sum(dy * base) + row_sum(dy * update)) / lengths,
            )
            dA, dB = outer_sum(du, x), s * outer_sum(dh, u)  # with c held constant
            dA, dB = self._with_norm(V, c, -dm * g, dA, dB)
            return dx, with_leaves(self, A=dA, B=dB, m=dm)

        return y, backward

    def _direction(self, W: Array) -> tuple[Array, Array]:
        """V (m, n), and the norms c (m, 1) of its rows."""
        V = W + self.scale * (self.B @ self.A)
        return V, norm(V, axis=1)

    def _with_norm(
        self, V: Array, c: Array, dc: Array, dA: Array, dB: Array
    ) -> tuple[Array, Array]:
        """dA and dB with what dc adds to them, by ∂cᵢ/∂Vᵢ = Vᵢ / cᵢ, unless c is detached."""
        if self.detach_norm:
            return dA, dB
        dV = V * (namespace(V).reshape(dc, c.shape) / c)
        return dA + self.scale * (self.B.T @ dV), dB + self.scale * (dV @ self.A.T)
