"""HyperLoRA for portraits: every layer has a basis of factors, and the condition mixes it.

Math:
    A = Σᵢ cᵢ D[i]ᵀ        B = Σᵢ c'ᵢ U[i]ᵀ        c = c[2 l],  c' = c[2 l + 1]

    dDᵢ = Σ cᵢ dAᵀ        dUᵢ = Σ c'ᵢ dBᵀ        dcᵢ = ⟨D[i]ᵀ, dA⟩        dc'ᵢ = ⟨U[i]ᵀ, dB⟩
Shapes:
    c (..., 2 L, k), two tokens for each of L layers   D (k, n, r)   U (k, r, m)
    A (..., r, n)   B (..., m, r)
Units:
    s = ½: the exported LoRA states α = r / 2.
Init:
    `zeros`: D = U = 0, as the modules are constructed. See Limits.
Errors:
    ShapeError if c has no tokens for a layer or they do not fit D and U; IndexError if there is no
    such layer.
Limits:
    D = U = 0 is a stationary point: A and B are both 0, and each factor's gradient is a product
    with the other. Training has to start elsewhere; the published code only loads weights.
    The base-LoRA for what is not identity is a second generator of rank r / 2: `LoRASum`.
Source:
    Li et al. 2025, arXiv:2503.16944; bytedance/ComfyUI-HyperLoRA at feb11be, hyperlora/modules.py
    (HyperLoRALayer.linear_mix and forward, HyperLoRAModule), and hyperlora/nodes.py
    (HyperLoRAGenerateIDLoRANode.execute, which writes α). The tokens come from a perceiver, and
    the end of it is `conditions.ReferenceTokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ...arrays import Array, Backward, namespace, on_device_of
from ...shapes import ShapeError, shapes
from ...trees import with_leaves, zeros_like
from .base import Generator, Parameters
from .pieces import Affine

SCALE = 0.5  # α / r with the α = r / 2 that is exported


@shapes(D="k n r", U="k r m")
@dataclass(frozen=True, eq=False)
class Basis(Parameters):
    """k pairs of factors for one layer."""

    D: Array
    U: Array


@dataclass(frozen=True, eq=False)
class BasisGenerator(Generator):
    """A = Σ cᵢ D[i]ᵀ and B = Σ c'ᵢ U[i]ᵀ, with bases of each layer's own."""

    layers: tuple[Basis, ...]

    @classmethod
    def zeros(cls, Ws: Sequence[Array], rank: int, *, condition: int) -> Self:
        """Bases of zeros for the weights of several layers."""

        def made(W: Array, *shape: int) -> Array:
            return namespace(W).zeros(shape, dtype=W.dtype, **on_device_of(W))

        k = condition
        pairs = [(made(W, k, W.shape[1], rank), made(W, k, rank, W.shape[0])) for W in Ws]
        return cls(tuple(Basis(D, U) for D, U in pairs))

    @shapes(c="... T k")
    def generate(self, c: Array, layer: int) -> tuple[tuple[Array, Array], Backward]:
        """(A, B), and backward: (dA, dB) -> (dθ, dc)."""
        basis = self._at(c, layer)
        xp, first = namespace(c), 2 * layer
        A, A_backward = _mixed(c[..., first, :], basis.D)
        B, B_backward = _mixed(c[..., first + 1, :], basis.U)

        def backward(dA, dB):
            (down, dD), (up, dU) = A_backward(dA), B_backward(dB)
            before, after = c[..., :first, :], c[..., first + 2 :, :]
            parts = [zeros_like(before), _token(down), _token(up), zeros_like(after)]
            own: list[Any] = [zeros_like(other) for other in self.layers]
            own[layer] = with_leaves(basis, D=dD, U=dU)
            return with_leaves(self, layers=tuple(own)), xp.concat(parts, axis=-2)

        return (A, B), backward

    def _at(self, c: Array, layer: int) -> Basis:
        count = len(self.layers)
        if not 0 <= layer < count:
            raise IndexError(f"BasisGenerator: layer must be in [0, {count}), got {layer}")
        basis = self.layers[layer]
        if tuple(c.shape[-2:]) != (2 * count, basis.D.shape[0]):
            raise ShapeError(
                f"BasisGenerator: c must be (..., 2 L, k) with L = {count} from layers, "
                f"k = {basis.D.shape[0]} from layers[{layer}].D, got {tuple(c.shape)}"
            )
        return basis


def _mixed(c: Array, D: Array) -> tuple[Array, Backward]:
    """(Σᵢ cᵢ Dᵢ)ᵀ, and backward: dA -> (dc, dD)."""
    xp, (k, n, r) = namespace(c, D), D.shape
    t, mix_backward = Affine(xp.reshape(D, (k, n * r)).T)(c)

    def backward(dA):
        dc, dmix = mix_backward(xp.reshape(dA.mT, t.shape))
        return dc, xp.reshape(dmix.V.T, D.shape)

    return xp.reshape(t, (*c.shape[:-1], n, r)).mT, backward


def _token(c: Array) -> Array:
    return namespace(c).expand_dims(c, axis=-2)
