"""An embedding-conditioned generator: one embedding for each rank component, one network for all.

Row i of A and column i of B are written from the condition and an embedding of (layer, i). So the
network's size does not depend on the rank, and a component is told from another by what it learned
about itself.

Math:
    Aᵢ  = V₂ f(V₁ [c; E_A[layer, i]] + v₁) + v₂          row i of A
    B·ᵢ = U₂ f(U₁ [c; E_B[layer, i]] + u₁) + u₂          column i of B

    dc = Σᵢ of both, dE[layer, i] by i
Shapes:
    c (..., k)   E_A, E_B (L, r, e)   V₁, U₁ (h, k + e)   V₂ (n, h)   U₂ (m, h)
    A (..., r, n)   B (..., m, r)
Errors:
    ShapeError if c and the embeddings do not fill the networks' input; IndexError if the layer is
    not in the tables.
Limits:
    Two components with the same embedding are the same forever: do not start them equal.
Source:
    A component's own embedding: allenai/hyper-task-descriptions,
    modeling/hyper_network.py, layer_embedding_method="component". There the condition joins by
    attention (`description`), here by concatenation. One rank at a time with one head:
    SakanaAI/text-to-lora, hyper_modulator.py, autoreg_gen.
"""

from dataclasses import dataclass

from ...arrays import Array, Backward, namespace
from ...layers.activations import gelu
from ...shapes import shapes
from ...trees import with_leaves
from .base import Generator, check_width
from .pieces import Activation, Network, rows_of


@shapes(E_A="L r e", E_B="L r e")
@dataclass(frozen=True, eq=False)
class ComponentGenerator(Generator):
    """Rows of A and columns of B, each from its own embedding."""

    E_A: Array
    E_B: Array
    down: Network
    up: Network
    activation: Activation = gelu

    @shapes(c="... k")
    def generate(self, c: Array, layer: int) -> tuple[tuple[Array, Array], Backward]:
        """(A, B), and backward: (dA, dB) -> (dθ, dc)."""
        A, A_backward = self._written(c, self.E_A, self.down, layer)
        columns, B_backward = self._written(c, self.E_B, self.up, layer)

        def backward(dA, dB):
            dc_A, dE_A, ddown = A_backward(dA)
            dc_B, dE_B, dup = B_backward(dB.mT)
            dself = with_leaves(self, E_A=dE_A, E_B=dE_B, down=ddown, up=dup)
            return dself, dc_A + dc_B

        return (A, columns.mT), backward

    def _written(self, c: Array, E: Array, network: Network, layer: int) -> tuple[Array, Backward]:
        """A vector for each component, (..., r, ·), and backward to (dc, dE, dnetwork)."""
        e, layer_backward = rows_of("ComponentGenerator", "layer", E, layer)  # (r, e)
        check_width("ComponentGenerator", c, network.first.V.shape[1], e.shape[1])
        z, pairs_backward = _pairs(c, e)
        y, network_backward = network(z, self.activation)

        def backward(dy):
            dz, dnetwork = network_backward(dy)
            dc, de = pairs_backward(dz)
            return dc, layer_backward(de), dnetwork

        return y, backward


def _pairs(c: Array, e: Array) -> tuple[Array, Backward]:
    """Every c (..., k) beside every row of e (r, e), (..., r, k + e); backward to (dc, de)."""
    xp, width, lead = namespace(c, e), c.shape[-1], c.shape[:-1]
    wide = xp.broadcast_to(xp.expand_dims(c, axis=-2), (*lead, e.shape[0], width))
    z = xp.concat([wide, xp.broadcast_to(e, (*lead, *e.shape))], axis=-1)

    def backward(dz):
        de = dz[..., width:]
        examples = tuple(range(len(lead)))
        de = xp.sum(de, axis=examples) if examples else de
        return xp.sum(dz[..., :width], axis=-2), de

    return z, backward
