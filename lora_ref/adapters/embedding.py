"""LoRA for an embedding: a table of rows learns through a correction of rank r.

Math:
    E' = E + s (B A)ᵀ
    y  = E'[ids] = E[ids] + s A[:, ids]ᵀ Bᵀ

    dA = s Bᵀ dE'ᵀ        dB = s dE'ᵀ Aᵀ
    By the algorithm, with U = A[:, ids]ᵀ and dU = s dy B:
    dA[:, i] = Σ dU over the places where ids = i        dB = s Σ dyᵀ U
Shapes:
    ids (...) integers in [0, v)   E (v, d)   A (r, v)   B (d, r)   y (..., d)
Init:
    A = 0 and B ~ N(0, 1), the other way round than in a linear layer: E' = E.
Errors:
    ShapeError if A, B and E do not fit; TypeError if ids are no integers; IndexError if an id is
    outside [0, v).
Limits:
    ids have no gradient: backward gives None for them.
    A model that multiplies its embeddings by a number (Gemma's √d) does so outside: y·c, for the
    base and the adapter alike. PEFT's embed_scale is this c. It is never a part of E'.
    A padding index is not modelled: PyTorch gives row `padding_idx` of E and column `padding_idx`
    of A no gradient; zero them in dθ.
Source:
    loralib 0.1.2, Embedding; PEFT 0.21.2, tuners/lora/layer.py, Embedding, whose factors are
    lora_embedding_A and lora_embedding_B.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, namespace, on_device_of, outer_sum
from ..layers.embedding import embedding
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import scaling


@shapes(A="r v", B="d r")
@dataclass(frozen=True, eq=False)
class EmbeddingLoRA(Adapter):
    """E' = E + s (B A)ᵀ."""

    A: Array
    B: Array
    scale: float

    @classmethod
    def init(cls, E: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """A = 0 and B ~ N(0, 1), at scale α/r."""
        scale = scaling(alpha, rank)
        A = namespace(E).zeros((rank, E.shape[0]), dtype=E.dtype, **on_device_of(E))
        return cls(A, as_array(rng.normal(size=(E.shape[1], rank)), E), scale)

    @shapes(W="v d")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """E' = E + s (B A)ᵀ, for the table E = W."""
        A, B, s = self.A, self.B, self.scale

        def backward(dE):
            return with_leaves(self, A=s * (B.T @ dE.T), B=s * (dE.T @ A.T))

        return W + s * (B @ A).T, backward

    @shapes(x="int(v) ...", W="v d")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = E[ids] + s A[:, ids]ᵀ Bᵀ, for ids = x and the table E = W."""
        update, update_backward = self.update(x)
        return embedding(x, W)[0] + update, lambda dy: (None, update_backward(dy))

    def update(self, ids: Array) -> tuple[Array, Backward]:
        """s A[:, ids]ᵀ Bᵀ, what `apply` adds, and backward: dy -> dθ."""
        B, s = self.B, self.scale
        U, U_backward = embedding(ids, self.A.T)  # (..., r)

        def backward(dy):
            return with_leaves(self, A=U_backward(s * (dy @ B)).T, B=s * outer_sum(dy, U))

        return s * (U @ B.T), backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = E[ids]."""
        y, embedding_backward = embedding(x, W)
        return y, lambda dy: (None, embedding_backward(dy))
