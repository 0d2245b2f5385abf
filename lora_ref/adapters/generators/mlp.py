"""A generator with one hidden layer.

Math:
    z = [c; E[layer]]        h = f(V z + v)        A = P h + p        B = Q h + q

    dt = f'(V z + v) ∘ dh        dV = Σ dt zᵀ        dz = Vᵀ dt        dh from `pieces.Heads`
Shapes:
    c (..., k)   E (L, e)   V (h, k + e)   P (r, n, h)   Q (m, r, h)   A (..., r, n)   B (..., m, r)
Init:
    `init`: V ~ U(±1/√(k + e)), v = 0, E ~ N(0, 1), heads as `pieces.Heads`: ΔW = 0 throughout.
Errors:
    ShapeError if c and E do not fill V's last axis; IndexError if the layer is not a row of E.
Source:
    The simplest network that is not affine, for what the texts that this project starts from call
    HyperLoRA: B(c), A(c) = H(c). For bottleneck adapters: Mahabadi et al. 2021, arXiv:2106.04489.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ...arrays import Array, Backward, as_array, namespace, on_device_of
from ...layers.activations import gelu
from ...shapes import shapes
from ...trees import with_leaves
from .base import Generator, check_width
from .pieces import Activation, Affine, Heads, joined, rows_of


@shapes(E="L e")
@dataclass(frozen=True, eq=False)
class MLPGenerator(Generator):
    """A = P h + p and B = Q h + q with h = f(V [c; e] + v)."""

    E: Array
    hidden: Affine
    heads: Heads
    activation: Activation = gelu

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
        width: int,
    ) -> Self:
        """A generator for `layers` weights of W's shape, with `width` hidden features."""
        xp, k = namespace(W), condition + embedding
        V = as_array(rng.uniform(-(k**-0.5), k**-0.5, size=(width, k)), W)
        hidden = Affine(V, xp.zeros((width,), dtype=W.dtype, **on_device_of(W)))
        E = as_array(rng.standard_normal((layers, embedding)), W)
        return cls(E, hidden, Heads.init(W, rank, width, rng))

    @shapes(c="... k")
    def generate(self, c: Array, layer: int) -> tuple[tuple[Array, Array], Backward]:
        """(A, B), and backward: (dA, dB) -> (dθ, dc)."""
        e, layer_backward = rows_of("MLPGenerator", "layer", self.E, layer)
        check_width("MLPGenerator", c, self.hidden.V.shape[1], e.shape[0])
        z, joined_backward = joined(c, e)
        t, hidden_backward = self.hidden(z)
        h, activation_backward = self.activation(t)
        factors, heads_backward = self.heads.write(h)

        def backward(dA, dB):
            dh, dheads = heads_backward(dA, dB)
            dz, dhidden = hidden_backward(activation_backward(dh))
            dc, de = joined_backward(dz)
            return with_leaves(self, E=layer_backward(de), hidden=dhidden, heads=dheads), dc

        return factors, backward
