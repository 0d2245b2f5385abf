"""What generators are made of: affine maps, the heads that write A and B, tables of layers.

Math:
    Affine    y = V x + v                           without v: y = V x
    Norm      y = h ∘ g + b, h the normalised x     `layers.normalization.layer_norm`
    Network   y = V₂ f(V₁ x + v₁) + v₂
    Heads     A = P h + p,  B = Q h + q, that is Aᵢⱼ = Σ_k Pᵢⱼₖ hₖ + pᵢⱼ

    dPᵢⱼₖ = Σ dAᵢⱼ hₖ and dp = Σ dA over the examples        dh = Σᵢⱼ dAᵢⱼ Pᵢⱼ + Σᵢⱼ dBᵢⱼ Qᵢⱼ
Shapes:
    x (..., k)   V (m, k)   v (m,)   h (..., h)   P (r, n, h)   p (r, n)   Q (m, r, h)   q (m, r)
Init:
    `Heads.init`: P = 0, Q = 0, q = 0 and p uniform, so that every condition starts at the A and B
    that LoRA starts with. dQ and dq are not zero there; dP is until B is not.
Errors:
    ShapeError if parts do not fit; IndexError if a layer or a row is not in its table.
Source:
    A start in the bias of the last layer: Beck et al. 2023, "Hypernetworks in Meta-Reinforcement
    Learning" (Bias-HyperInit), which SakanaAI/text-to-lora follows (hyper_modulator.py,
    match_lora_init).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...arrays import Array, Backward, as_array, namespace, on_device_of, row_sum
from ...layers.embedding import embedding
from ...layers.linear import affine, linear
from ...layers.normalization import layer_norm
from ...shapes import shapes
from ...trees import with_leaves
from ...values import checked_count
from .base import Parameters

Activation = Callable[[Array], tuple[Array, Backward]]


@shapes(V="m k", v="m")
@dataclass(frozen=True, eq=False)
class Affine(Parameters):
    """y = V x + v, or V x."""

    V: Array
    v: Array | None = None

    def __call__(self, x: Array) -> tuple[Array, Backward]:
        """y, and backward: dy -> (dx, dself)."""
        xp = namespace(x, self.V)
        X = x if x.ndim > 1 else xp.reshape(x, (1, x.shape[0]))  # a vector as a batch of one
        Y, layer_backward = linear(X, self.V) if self.v is None else affine(X, self.V, self.v)

        def backward(dy):
            dX, *own = layer_backward(xp.reshape(dy, Y.shape))
            gradients = dict(zip("Vv", own, strict=False))
            return xp.reshape(dX, x.shape), with_leaves(self, **gradients)

        return xp.reshape(Y, (*x.shape[:-1], Y.shape[-1])), backward


@shapes(g="n", b="n")
@dataclass(frozen=True, eq=False)
class Norm(Parameters):
    """LayerNorm, with ε = 1e-5 as PyTorch's."""

    g: Array
    b: Array

    def __call__(self, x: Array) -> tuple[Array, Backward]:
        """y, and backward: dy -> (dx, dself)."""
        y, norm_backward = layer_norm(x, self.g, self.b)

        def backward(dy):
            dx, dg, db = norm_backward(dy)
            return dx, with_leaves(self, g=dg, b=db)

        return y, backward


@dataclass(frozen=True, eq=False)
class Network(Parameters):
    """Two affine maps and an activation between them."""

    first: Affine
    second: Affine

    def __call__(self, x: Array, activation: Activation) -> tuple[Array, Backward]:
        """y, and backward: dy -> (dx, dself)."""
        t, first_backward = self.first(x)
        a, activation_backward = activation(t)
        y, second_backward = self.second(a)

        def backward(dy):
            da, dsecond = second_backward(dy)
            dx, dfirst = first_backward(activation_backward(da))
            return dx, with_leaves(self, first=dfirst, second=dsecond)

        return y, backward


@shapes(P="r n h", p="r n", Q="m r h", q="m r")
@dataclass(frozen=True, eq=False)
class Heads(Parameters):
    """The affine maps that write A and B."""

    P: Array
    p: Array
    Q: Array
    q: Array

    @classmethod
    def init(cls, W: Array, rank: int, width: int, rng: np.random.Generator) -> Self:
        """Heads for the weight W on `width` features, which start as LoRA does."""
        checked_count("Heads", "rank", rank, 1)
        xp, (m, n) = namespace(W), W.shape
        made: dict[str, Any] = {"dtype": W.dtype, **on_device_of(W)}
        p = as_array(rng.uniform(-(n**-0.5), n**-0.5, size=(rank, n)), W)
        P, Q = xp.zeros((rank, n, width), **made), xp.zeros((m, rank, width), **made)
        return cls(P, p, Q, xp.zeros((m, rank), **made))

    def write(self, h: Array) -> tuple[tuple[Array, Array], Backward]:
        """(A, B) from the features h, and backward: (dA, dB) -> (dh, dself)."""
        A, A_backward = _head(h, self.P, self.p)
        B, B_backward = _head(h, self.Q, self.q)

        def backward(dA, dB):
            (dh_A, dP, dp), (dh_B, dQ, dq) = A_backward(dA), B_backward(dB)
            return dh_A + dh_B, with_leaves(self, P=dP, p=dp, Q=dQ, q=dq)

        return (A, B), backward


def rows_of(owner: str, name: str, E: Array, ids: int | Sequence[int]) -> tuple[Array, Backward]:
    """E[ids], one row or a row for each integer, and backward to dE.

    The entries of E may have any axes after the first.
    """
    xp, size = namespace(E), E.shape[0]
    for i in (ids,) if isinstance(ids, int) else ids:
        if not 0 <= i < size:
            raise IndexError(
                f"{owner}: {name} must be in [0, {size}), the rows of its table, got {i}"
            )
    index = xp.asarray(ids, dtype=xp.int64, **on_device_of(E))
    flat = E if E.ndim == 2 else xp.reshape(E, (size, _size(E.shape[1:])))
    y, embedding_backward = embedding(index, flat)

    def backward(dy):
        dE = embedding_backward(xp.reshape(dy, (*index.shape, flat.shape[1])))
        return xp.reshape(dE, E.shape)

    return xp.reshape(y, (*index.shape, *E.shape[1:])), backward


def joined(c: Array, e: Array) -> tuple[Array, Backward]:
    """z = [c; e], the same e beside every c, and backward: dz -> (dc, de)."""
    xp, width = namespace(c, e), c.shape[-1]
    z = xp.concat([c, xp.broadcast_to(e, (*c.shape[:-1], e.shape[-1]))], axis=-1)

    def backward(dz):
        return dz[..., :width], row_sum(dz[..., width:])

    return z, backward


def _head(h: Array, P: Array, p: Array) -> tuple[Array, Backward]:
    """P h + p with the first two axes of P for a matrix, and backward: dM -> (dh, dP, dp)."""
    xp, size = namespace(h, P), p.shape[0] * p.shape[1]
    flat = Affine(xp.reshape(P, (size, P.shape[2])), xp.reshape(p, (size,)))
    t, flat_backward = flat(h)

    def backward(dM):
        dh, dflat = flat_backward(xp.reshape(dM, t.shape))
        return dh, xp.reshape(dflat.V, P.shape), xp.reshape(dflat.v, p.shape)

    return xp.reshape(t, (*h.shape[:-1], *p.shape)), backward


def _size(shape: Sequence[int]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size
