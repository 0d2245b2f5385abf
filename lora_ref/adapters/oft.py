"""OFT: the inputs are rotated, block by block, before the weight acts on them.

An orthogonal map keeps all angles and lengths of what it turns, and the weight is multiplied, not
added to. The rotation comes from a skew-symmetric matrix, by a map that is a field of the adapter.

Math:
    Q = U − Uᵀ,       U strictly upper triangular with q row by row;   one Q for each block
    R = (I + Q) (I − Q)⁻¹                      `cayley`: orthogonal, det R = 1
    R = (I + Q) (I + Q + … + Q^(k−1))          `Neumann(k)`: of degree k, orthogonal up to O(Q^k)
    W' = W diag(R₁, R₂, …)ᵀ,        y = (x diag(R₁, R₂, …)) Wᵀ

    dR = Σ xᵀ dz by block, z = x R;        dq[i, j] = dQ[i, j] − dQ[j, i]
    cayley: dQ = 2 Kᵀ dR Kᵀ with K = (I − Q)⁻¹, as I + R = 2 K
    Neumann: R = I + Q T₁, T_p = 2 I + Q T_(p+1), T_k = I; dQ = Σ (Q^(p−1))ᵀ dR T_pᵀ over p = 1 … k
Shapes:
    x (..., n)   W (m, n)   y (..., m)   q (g, w (w − 1) / 2): g blocks of width w, g w = n
    With g = 1 the one block turns every group of w inputs.
Init:
    q = 0, so R = I and W' = W.
Errors:
    ShapeError if q, W or x do not fit, or a row of q is the triangle of no matrix; ValueError for a
    width that does not divide n, or a series of a degree below 1.
Limits:
    No rotation by π is reached, nor any reflection. Neumann's R is no rotation: ‖Rᵀ R − I‖ grows
    as ‖Q‖^k for even k and ‖Q‖^2k for odd k, and the series diverges from ‖Q‖ = 1 on, the last
    term being what is left.
    With several adapters the order counts: rotations do not commute.
    Under a reading the inverse is an elimination without pivots, which is stable here, as the
    symmetric part of I − Q is I.
Source:
    Qiu et al. 2023, arXiv:2306.07280, section 4: z = (R W₀)ᵀ x with W₀ inputs first, and
    R = (I + Q)(I − Q)⁻¹; Qiu et al. 2025 (OFTv2), arXiv:2506.19847, rotates the inputs and has the
    series. PEFT 0.21.2, tuners/oft/layer.py, OFTRotationModule: oft_R.weight is q. Its series with
    5 terms is Neumann(4); its exact branch is (I − Q)(I + Q)⁻¹, so `cayley` at −q.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ..arrays import Array, Backward, inverse, namespace, on_device_of
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter

Rotation = Callable[[Array], tuple[Array, Backward]]


@shapes(Q="g w w")
def cayley(Q: Array) -> tuple[Array, Backward]:
    """R = (I + Q) (I − Q)⁻¹ of skew-symmetric Q."""
    one = _identity(Q)
    K = inverse(one - Q)
    R = (one + Q) @ K

    def backward(dR):
        return 2.0 * (K.mT @ dR @ K.mT)

    return R, backward


@dataclass(frozen=True)
class Neumann:
    """R = (I + Q) (I + Q + … + Q^(degree − 1)), the Cayley map with its inverse as a series cut."""

    degree: int

    def __post_init__(self) -> None:
        """The degree must be at least 1."""
        if self.degree < 1:
            raise ValueError(f"Neumann: degree must be at least 1, got {self.degree}")

    @shapes(Q="g w w")
    def __call__(self, Q: Array) -> tuple[Array, Backward]:
        """R = I + 2 Q + … + 2 Q^(k−1) + Q^k."""
        one, tails = _identity(Q), [_identity(Q)]  # by Horner's rule, from the highest power on
        for _ in range(self.degree - 1):
            tails.append(2.0 * one + Q @ tails[-1])
        R = one + Q @ tails[-1]

        def backward(dR):
            d, dQ = dR, dR @ tails[-1].mT
            for tail in reversed(tails[:-1]):
                d = Q.mT @ d
                dQ = dQ + d @ tail.mT
            return dQ

        return R, backward


@shapes(q="g t")
@dataclass(frozen=True, eq=False)
class OFT(Adapter):
    """W' = W diag(R₁, R₂, …)ᵀ, R the `rotation` of Q; q has Q's entries above the diagonal."""

    q: Array
    rotation: Rotation = cayley

    def __post_init__(self) -> None:
        """A row of q must be the triangle of a matrix."""
        super().__post_init__()
        if self.q.shape[1] == 0 or self.width * (self.width - 1) // 2 != self.q.shape[1]:
            raise ShapeError(
                "OFT: OFT.q must be (g, t) with t = w (w − 1) / 2 for a width w of at least 2, got "
                f"{tuple(self.q.shape)}"
            )

    @classmethod
    def init(cls, W: Array, width: int, rotation: Rotation = cayley) -> Self:
        """q = 0, blocks of `width` inputs."""
        if width < 2 or W.shape[1] % width:
            raise ValueError(
                f"OFT: width must be at least 2 and divide n = {W.shape[1]} from W, got {width}"
            )
        shape = (W.shape[1] // width, width * (width - 1) // 2)
        return cls(namespace(W).zeros(shape, dtype=W.dtype, **on_device_of(W)), rotation)

    @property
    def width(self) -> int:
        """The inputs of one block."""
        return (1 + math.isqrt(1 + 8 * self.q.shape[1])) // 2

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W diag(R)ᵀ."""
        R, R_backward = self._rotations("weight", W)
        blocks = self._cut(W)

        def backward(dW):
            return R_backward(self._cut(dW).mT @ blocks)

        return self._joined(blocks @ R.mT, W), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = (x diag(R)) Wᵀ."""
        R, R_backward = self._rotations("apply", W)
        blocks = self._cut(x)

        def backward(dy):
            dz = self._cut(dy @ W)
            return self._joined(dz @ R.mT, x), R_backward(blocks.mT @ dz)

        return self._joined(blocks @ R, x) @ W.T, backward

    def _rotations(self, method: str, W: Array) -> tuple[Array, Backward]:
        """R (g, w, w), and backward: dR -> dθ."""
        (g, _), w, n = self.q.shape, self.width, W.shape[1]
        if n % w or g not in (1, n // w):
            raise ShapeError(
                f"OFT.{method}: OFT.q must have n / w rows, or one, with n = {n} from W and "
                f"w = {w} from its columns, got {tuple(self.q.shape)}"
            )
        Q, skew_backward = _skew(self.q, w)
        R, rotation_backward = self.rotation(Q)

        def backward(dR):
            return with_leaves(self, q=skew_backward(rotation_backward(dR)))

        return R, backward

    def _cut(self, t: Array) -> Array:
        """The groups of inputs that each block turns: (..., n) as (g, rows, w)."""
        xp, g, w = namespace(t), self.q.shape[0], self.width
        count = math.prod(t.shape) // (g * w)
        return xp.permute_dims(xp.reshape(t, (count, g, w)), (1, 0, 2))

    def _joined(self, blocks: Array, like: Array) -> Array:
        """The inverse of `_cut`."""
        xp = namespace(blocks)
        return xp.reshape(xp.permute_dims(blocks, (1, 0, 2)), like.shape)


def _identity(Q: Array) -> Array:
    return namespace(Q).eye(Q.shape[-1], dtype=Q.dtype, **on_device_of(Q))


def _skew(q: Array, w: int) -> tuple[Array, Backward]:
    """Q = U − Uᵀ (g, w, w), U having q above its diagonal, row by row."""
    xp, (g, count), place = namespace(q), q.shape, on_device_of(q)
    upper = [i * w + j for i in range(w) for j in range(i + 1, w)]
    entry = [upper.index(k) if k in upper else count for k in range(w * w)]
    padded = xp.concat([q, xp.zeros((g, 1), dtype=q.dtype, **place)], axis=1)
    U = xp.take(padded, xp.asarray(entry, dtype=xp.int64, **place), axis=1)
    U = xp.reshape(U, (g, w, w))

    def backward(dQ):
        flat = xp.reshape(dQ - dQ.mT, (g, w * w))
        return xp.take(flat, xp.asarray(upper, dtype=xp.int64, **place), axis=1)

    return U - U.mT, backward
