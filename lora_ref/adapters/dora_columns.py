"""DoRA by column: each column of the weight, one for each input, is a length and a direction.

The same words as DoRA's, "column-wise norm", read for the weight as PyTorch stores it. It is
another map: lengths and g = m / c belong to the inputs, so x is scaled before the layer and not y
behind it.

Math:
    V = W + s B A        c = ‖V‖ by column        g = m / c
    W' = V ∘ g, that is W'[:, j] = mⱼ V[:, j] / ‖V[:, j]‖
    y  = x W'ᵀ = x̃ Wᵀ + s (x̃ Aᵀ) Bᵀ,   x̃ = g ∘ x

    dmⱼ = ⟨dW'[:, j], V[:, j]⟩ / cⱼ
    dV[:, j] = gⱼ (dW'[:, j] − dmⱼ V[:, j] / cⱼ)        the full gradient, detach_norm = False
    dV[:, j] = gⱼ dW'[:, j]                            c held constant, detach_norm = True
    dA = s Bᵀ dV        dB = s dV Aᵀ
    By the algorithm dx̃ = dy W + s (dy B) A and dm = Σ x ∘ dx̃ / c, dx = g ∘ dx̃.
Shapes:
    x (..., n)   W, V (m, n)   A (r, n)   B (m, r)   m, c, g: one number for each of the n inputs
Init:
    `init` draws A and B as LoRA does, so B = 0, and `around` takes any LoRA; m = ‖V‖ by column
    makes g = 1 and W' = V. With B = 0 that is W, to the last bit.
Errors:
    ShapeError if m, A, B, W or x do not fit; ValueError if the rank is below 1.
Limits:
    A column of V that is zero, an input that nothing reads, gives NaN in that column and so in all
    of y. LyCORIS adds the dtype's ε to c.
    On a square weight m fits by row and by column alike: only its maker knows which it is.
Source:
    LyCORIS 3.3, modules/locon.py, apply_weight_decompose with wd_on_out=False: its only reading of
    the paper until 3.1.1 and its default until 3.2 (Change.md; LyCORIS#216). Its file has
    dora_scale (1, n), by row it is (m, 1). Its gradient is the full one.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, either, namespace, norm, outer_sum, row_sum
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import LoRA


@shapes(A="r n", B="m r", m="n")
@dataclass(frozen=True, eq=False)
class ColumnDoRA(Adapter):
    """W' = m V / ‖V‖ by column, V = W + s B A."""

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
        """Kaiming-uniform A, B = 0 and m = ‖W‖ by column, at scale α/r."""
        return cls.around(LoRA.init(W, rank, alpha, rng), W, detach_norm=detach_norm)

    @classmethod
    def around(cls, lora: LoRA, W: Array, *, detach_norm: bool = False) -> Self:
        """The directions of `lora` on W at their present lengths, so that W' = V."""
        c = norm(lora.merge(W), axis=0)
        m = namespace(W).reshape(c, (W.shape[1],))
        return cls(lora.A, lora.B, m, lora.scale, detach_norm)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = m V / ‖V‖, by column."""
        xp, A, B, m, s = namespace(W), self.A, self.B, self.m, self.scale
        V, c = self._direction(W)
        g = m / c  # (n,)
        W_merged = either(xp, lambda: V * g, lambda: m * (V / c))

        def backward(dW):
            dm = either(
                xp, lambda: xp.sum(dW * V, axis=0) / c, lambda: xp.sum(dW * (V / c), axis=0)
            )
            dV = dW * g if self.detach_norm else (dW - V * (dm / c)) * g
            return with_leaves(self, A=s * (B.T @ dV), B=s * (dV @ A.T), m=dm)

        return W_merged, backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x̃ Wᵀ + s (x̃ Aᵀ) Bᵀ, for x̃ = m / ‖V‖ ∘ x."""
        A, B, s = self.A, self.B, self.scale
        V, c = self._direction(W)
        g = self.m / c
        scaled = x * g
        u = scaled @ A.T  # (..., r)
        y = scaled @ W.T + s * (u @ B.T)

        def backward(dy):
            du = s * (dy @ B)  # (..., r)
            dscaled = dy @ W + du @ A
            dm = row_sum(x * dscaled) / c
            dA, dB = outer_sum(du, scaled), s * outer_sum(dy, u)  # with c held constant
            if not self.detach_norm:
                dV = V * (-dm * g / c)  # by ∂cⱼ/∂V[:, j] = V[:, j] / cⱼ
                dA, dB = dA + s * (B.T @ dV), dB + s * (dV @ A.T)
            return dscaled * g, with_leaves(self, A=dA, B=dB, m=dm)

        return y, backward

    def _direction(self, W: Array) -> tuple[Array, Array]:
        """V (m, n), and the norms c (n,) of its columns."""
        V = W + self.scale * (self.B @ self.A)
        return V, namespace(V).reshape(norm(V, axis=0), self.m.shape)
