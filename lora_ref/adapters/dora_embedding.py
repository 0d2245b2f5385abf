"""DoRA for an embedding: a magnitude for each feature, whose direction is a column of the table.

Math:
    V = E + s (B A)ᵀ        c = ‖V‖ by column, over the vocabulary        g = m / c
    E' = V ∘ g, that is E'[:, j] = mⱼ V[:, j] / ‖V[:, j]‖
    y  = g ∘ (E[ids] + s A[:, ids]ᵀ Bᵀ)

    dmⱼ = ⟨dE'[:, j], V[:, j]⟩ / cⱼ
    dV[:, j] = gⱼ (dE'[:, j] − dmⱼ V[:, j] / cⱼ)        the full gradient, detach_norm = False
    dV[:, j] = gⱼ dE'[:, j]                            c held constant, detach_norm = True
    dA and dB as EmbeddingLoRA, given dV
Shapes:
    ids (...) integers in [0, v)   E, V (v, d)   A (r, v)   B (d, r)   y (..., d)
    m, c, g: one number for each of the d features
Init:
    `init` draws A and B as EmbeddingLoRA does, so A = 0, and `around` takes any EmbeddingLoRA;
    m = ‖V‖ makes g = 1 and E' = V. With A = 0 that is E, to the last bit.
Errors:
    ShapeError if m does not have one entry for each feature; those of the EmbeddingLoRA inside.
Limits:
    It is DoRA of Eᵀ, whose outputs are the features, not of E as the linear layer that a tied
    output would be: there g belongs to the inputs, as in ColumnDoRA, so a tied pair has no common
    DoRA by row.
    With the full gradient dA is dense, since every id of the vocabulary moves the norm; with the
    norm held constant it has the columns of the batch's ids alone.
    ids have no gradient, and padding is as in EmbeddingLoRA. A model that multiplies its embeddings
    by a number does so outside, and m knows nothing of it.
Source:
    PEFT 0.21.2, tuners/lora/dora.py, DoraEmbeddingLayer, which always detaches the norm and
    computes y as g ∘ E[ids] + g ∘ s A[:, ids]ᵀ Bᵀ. The paper, arXiv:2402.09353, has linear layers
    alone.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, either, namespace, norm, row_sum
from ..layers.embedding import embedding
from ..shapes import ShapeError, shapes
from ..trees import tree_map, with_leaves
from .base import Adapter
from .embedding import EmbeddingLoRA


@shapes(m="d")
@dataclass(frozen=True, eq=False)
class EmbeddingDoRA(Adapter):
    """E' = m V / ‖V‖ by column, V the table that `lora` makes of E."""

    lora: EmbeddingLoRA
    m: Array
    detach_norm: bool = False

    def __post_init__(self) -> None:
        """m must have one entry for each feature of B."""
        super().__post_init__()
        features = self.lora.B.shape[0]
        if self.m.shape[0] != features:
            raise ShapeError(
                f"EmbeddingDoRA: EmbeddingDoRA.m must be (d,) with d = {features} from lora.B, "
                f"got {tuple(self.m.shape)}"
            )

    @classmethod
    def init(
        cls,
        E: Array,
        rank: int,
        alpha: float,
        rng: np.random.Generator,
        *,
        detach_norm: bool = False,
    ) -> Self:
        """A = 0, B ~ N(0, 1) and m = ‖E‖ by column, at scale α/r."""
        lora = EmbeddingLoRA.init(E, rank, alpha, rng)
        return cls.around(lora, E, detach_norm=detach_norm)

    @classmethod
    def around(cls, lora: EmbeddingLoRA, E: Array, *, detach_norm: bool = False) -> Self:
        """The directions of `lora` on E at their present lengths, so that E' = V."""
        c = norm(lora.merge(E), axis=0)
        return cls(lora, namespace(E).reshape(c, (E.shape[1],)), detach_norm)

    @shapes(W="v d")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """E' = m V / ‖V‖ by column, for the table E = W."""
        xp, m = namespace(W), self.m
        V, V_backward = self.lora.weight(W)
        c = xp.reshape(norm(V, axis=0), m.shape)
        g = m / c  # (d,)
        E_merged = either(xp, lambda: V * g, lambda: m * (V / c))

        def backward(dE):
            dm = either(
                xp, lambda: xp.sum(dE * V, axis=0) / c, lambda: xp.sum(dE * (V / c), axis=0)
            )
            dV = dE * g if self.detach_norm else (dE - V * (dm / c)) * g
            return with_leaves(self, lora=V_backward(dV), m=dm)

        return E_merged, backward

    @shapes(x="int(v) ...", W="v d")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = m / ‖V‖ ∘ (E[ids] + s A[:, ids]ᵀ Bᵀ), for ids = x and the table E = W."""
        xp = namespace(W)
        V, V_backward = self.lora.weight(W)
        c = xp.reshape(norm(V, axis=0), self.m.shape)
        g = self.m / c
        base, (update, update_backward) = embedding(x, W)[0], self.lora.update(x)
        h = base + update
        y = either(xp, lambda: g * h, lambda: g * base + g * update)

        def backward(dy):
            dlora = update_backward(g * dy)
            dm = either(
                xp,
                lambda: row_sum(dy * h) / c,
                lambda: (row_sum(dy * base) + row_sum(dy * update)) / c,
            )
            if not self.detach_norm:  # ∂cⱼ/∂V[:, j] = V[:, j] / cⱼ
                dlora = tree_map(lambda a, b: a + b, dlora, V_backward(V * (-dm * g / c)))
            return None, with_leaves(self, lora=dlora, m=dm)

        return y, backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = E[ids]."""
        return self.lora.layer(x, W)
