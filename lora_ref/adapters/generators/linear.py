"""A linear generator: A and B are affine in the condition and the layer's embedding.

Math:
    z = [c; E[layer]]        A = P z + p        B = Q z + q

    dc, dE[layer] from dz = Σᵢⱼ dAᵢⱼ Pᵢⱼ + Σᵢⱼ dBᵢⱼ Qᵢⱼ; dP, dp, dQ, dq as `pieces.Heads` says
Shapes:
    c (..., k)   E (L, e)   P (r, n, k + e)   Q (m, r, k + e)   A (..., r, n)   B (..., m, r)
Init:
    `init`: ΔW = 0 for every condition and layer, as `pieces.Heads`; E ~ N(0, 1).
Errors:
    ShapeError if c and E do not fill P's last axis; IndexError if the layer is not a row of E.
Limits:
    Affine in c for A and for B, so quadratic for ΔW = s B A: the update for the mean of two
    conditions is not the mean of their updates. (r n + m r)(k + e + 1) numbers, for layers of one
    shape.
Source:
    Ha et al. 2017, "HyperNetworks", arXiv:1609.09106, section 3.1: a layer's weight from the
    layer's embedding. A condition joins it in the systems that `derivations/hyperlora` compares.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ...arrays import Array, Backward, as_array
from ...shapes import shapes
from ...trees import with_leaves
from .base import Generator, check_width
from .pieces import Heads, joined, rows_of


@shapes(E="L e")
@dataclass(frozen=True, eq=False)
class LinearGenerator(Generator):
    """A = P [c; e] + p and B = Q [c; e] + q."""

    E: Array
    heads: Heads

    @classmethod
    def init(
        cls,
        W: Array,
        rank: int,
        rng: np.random.Generator,
        *,
        condition: int,
        layers: int,
        embedding: int,
    ) -> Self:
        """A generator for `layers` weights of W's shape, from `condition` numbers."""
        E = as_array(rng.standard_normal((layers, embedding)), W)
        return cls(E, Heads.init(W, rank, condition + embedding, rng))

    @shapes(c="... k")
    def generate(self, c: Array, layer: int) -> tuple[tuple[Array, Array], Backward]:
        """(A, B), and backward: (dA, dB) -> (dθ, dc)."""
        e, layer_backward = rows_of("LinearGenerator", "layer", self.E, layer)
        check_width("LinearGenerator", c, self.heads.P.shape[2], e.shape[0])
        z, joined_backward = joined(c, e)
        factors, heads_backward = self.heads.write(z)

        def backward(dA, dB):
            dz, dheads = heads_backward(dA, dB)
            dc, de = joined_backward(dz)
            return with_leaves(self, E=layer_backward(de), heads=dheads), dc

        return factors, backward
