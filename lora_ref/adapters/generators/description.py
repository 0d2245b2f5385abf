"""A hypernetwork for task descriptions: from a vector for each rank component, by two networks.

Every rank component of every layer asks the encoded description for what concerns it; the answers
are this generator's condition. A network turns them into factors.

Math:
    G = V₂ f(V₁ cᵢ) / √k  for i = 0 … r − 1, rows of (r, n)          f = gelu_tanh, no biases
    H = U₂ f(U₁ cᵢ) / √k  for i = r … 2r − 1, rows of (r, m)
    A = (G read as (n, r))ᵀ        B = Hᵀ        both of c[layer]
Shapes:
    c (..., L, 2 r, k)   V₁, U₁ (h, k)   V₂ (n, h)   U₂ (m, h)   A (..., r, n)   B (..., m, r)
Units:
    s = 1/r: the layer has α/r with α = 1, which nothing there changes. The √k is of the width of
    c, not of the rank.
Errors:
    ShapeError if c does not hold an even number of components, or does not fill the networks;
    IndexError if c has no such layer.
Limits:
    G is *read* as (n, r), not transposed: for r > 1 an answer to component i is spread over all
    rows of A, and A's row i holds every r-th number of all answers. B has no such mixing. From a
    random start it is another parametrisation of the same factors.
    The published layer also has a multiplicative part, W ∘ (I_a I_b)(α / r'), before it adds s B A;
    its attention leaves that part out ("not using ia3 right now"), and so does this.
Source:
    Ivison et al. 2022, "HINT", arXiv:2212.10315; allenai/hyper-task-descriptions at fd86a43,
    hyper_task_descriptions/modeling/hyper_network.py (Hypernet, generate_parameter), layers.py
    (MlpBlock), lora.py (LoraDenseGeneral and batch_lora_ia3_linear, which apply the factors by
    example). The activation "gelu" of flax is the tanh approximation.
"""

from dataclasses import dataclass

from ...arrays import Array, Backward, namespace
from ...layers.activations import gelu_tanh
from ...shapes import ShapeError, shapes
from ...trees import with_leaves, zeros_like
from .base import Generator
from .pieces import Network


@dataclass(frozen=True, eq=False)
class DescriptionGenerator(Generator):
    """Networks that turn a vector for each component into rows of A and columns of B."""

    down: Network
    up: Network

    @shapes(c="... L R k")
    def generate(self, c: Array, layer: int) -> tuple[tuple[Array, Array], Backward]:
        """(A, B), and backward: (dA, dB) -> (dθ, dc)."""
        rank = _rank(c, layer)
        xp, own = namespace(c), c[..., layer, :, :]
        width = c.shape[-1] ** 0.5
        G, A_backward = self.down(own[..., :rank, :], gelu_tanh)  # (..., r, n)
        H, B_backward = self.up(own[..., rank:, :], gelu_tanh)  # (..., r, m)
        A = xp.reshape(G / width, (*G.shape[:-2], G.shape[-1], rank)).mT

        def backward(dA, dB):
            dc_A, ddown = A_backward(xp.reshape(dA.mT, G.shape) / width)
            dc_B, dup = B_backward(dB.mT / width)
            dc_own = xp.expand_dims(xp.concat([dc_A, dc_B], axis=-2), axis=-3)
            before, after = c[..., :layer, :, :], c[..., layer + 1 :, :, :]
            dc = xp.concat([zeros_like(before), dc_own, zeros_like(after)], axis=-3)
            return with_leaves(self, down=ddown, up=dup), dc

        return (A, H.mT / width), backward


def _rank(c: Array, layer: int) -> int:
    layers, components = c.shape[-3:-1]
    if not 0 <= layer < layers:
        raise IndexError(
            f"DescriptionGenerator: layer must be in [0, {layers}), the layers of c, got {layer}"
        )
    if components % 2 or components < 2:
        raise ShapeError(
            f"DescriptionGenerator: c must be (..., L, 2 r, k), components of A and as many of B, "
            f"got {tuple(c.shape)}"
        )
    return components // 2
