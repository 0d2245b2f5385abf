"""Bat: MiSS's block, multiplied by the weight it is added to.

For each r rows of the weight one block moves every r × r block of W in these rows: the one form of
MiSS whose update depends on W.

Math:
    W'ₐᵦ = Wₐᵦ + Wₐᵦ Mₐ + Mₐ,        Wₐᵦ the r × r blocks of W: a of its rows, β of its columns
    yₐ   = Σᵦ (xᵦ + xᵦ Mₐᵀ) Wₐᵦᵀ + S Mₐᵀ,        S = Σᵦ xᵦ

    dMₐ = Σᵦ (Wₐᵦ + I)ᵀ dW'ₐᵦ
Shapes:
    x (..., n)   W (m, n)   M (m/r, r, r)   S (..., r)   y (..., m); r divides m and n
Units:
    There is no scale and no α.
Init:
    M = 0, so W' = W.
Errors:
    ShapeError if M, W or x do not fit; ValueError if the rank does not divide both sides of W.
Limits:
    Its inverse needs (I + Mₐ)⁻¹; PEFT's unmerge takes it in float32.
Source:
    Kang and Yin 2024, arXiv:2409.15371, of which it is a variant; PEFT 0.21.2,
    tuners/miss/layer.py, MissLinear.get_delta_weight, init_weights="bat", whose miss_block is M. It
    forms W' in every forward, the second form that each `either` lists.
"""

from dataclasses import dataclass
from typing import Self

from ..arrays import Array, Backward, either, namespace, on_device_of, outer_sum
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter


@shapes(M="g r r")
@dataclass(frozen=True, eq=False)
class Bat(Adapter):
    """W'ₐᵦ = Wₐᵦ + Wₐᵦ Mₐ + Mₐ."""

    M: Array

    @classmethod
    def init(cls, W: Array, rank: int) -> Self:
        """M = 0."""
        m, n = W.shape
        if rank < 1 or m % rank or n % rank:
            raise ValueError(f"Bat: rank must divide m = {m} and n = {n} from W, got {rank}")
        shape = (m // rank, rank, rank)
        return cls(namespace(W).zeros(shape, dtype=W.dtype, **on_device_of(W)))

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + W M + M, by blocks."""
        self._check("weight", W)
        blocks, M = self._blocks(W), self.M[:, None, :, :]

        def backward(dW):
            return with_leaves(self, M=self._block_sums(blocks, dW))

        return W + self._whole(blocks @ M + M, W), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """yₐ = Σᵦ (xᵦ + xᵦ Mₐᵀ) Wₐᵦᵀ + S Mₐᵀ."""
        self._check("apply", W)
        xp, (g, r, _) = namespace(x), self.M.shape
        X = xp.reshape(x, (*x.shape[:-1], x.shape[-1] // r, r))
        parts = [_rows(X, self.M[a, :, :], W[a * r : a * r + r, :]) for a in range(g)]
        y = either(
            xp, lambda: xp.concat([y for y, _ in parts], axis=-1), lambda: x @ self.merge(W).T
        )

        def backward(dy):
            found = [back(dy[..., a * r : a * r + r]) for a, (_, back) in enumerate(parts)]
            dx = either(
                xp,
                lambda: xp.reshape(xp.sum(xp.stack([dX for dX, _ in found]), axis=0), x.shape),
                lambda: dy @ self.merge(W),
            )
            dM = either(
                xp,
                lambda: xp.stack([dM for _, dM in found]),
                lambda: self._block_sums(self._blocks(W), outer_sum(dy, x)),
            )
            return dx, with_leaves(self, M=dM)

        return y, backward

    def _block_sums(self, blocks: Array, dW: Array) -> Array:
        """dMₐ = Σᵦ (Wₐᵦ + I)ᵀ dW'ₐᵦ."""
        xp, d = namespace(dW), self._blocks(dW)
        return xp.sum(blocks.mT @ d + d, axis=1)

    def _blocks(self, W: Array) -> Array:
        """Wₐᵦ: (m, n) as (m/r, n/r, r, r)."""
        xp, (g, r, _) = namespace(W), self.M.shape
        return xp.permute_dims(xp.reshape(W, (g, r, W.shape[1] // r, r)), (0, 2, 1, 3))

    def _whole(self, blocks: Array, like: Array) -> Array:
        """The inverse of `_blocks`."""
        xp = namespace(blocks)
        return xp.reshape(xp.permute_dims(blocks, (0, 2, 1, 3)), like.shape)

    def _check(self, method: str, W: Array) -> None:
        (g, r, _), (m, n) = self.M.shape, W.shape
        if m != g * r or n % r:
            raise ShapeError(
                f"Bat.{method}: W must be (g r, n) with g r = {g * r} from Bat.M and r = {r} a "
                f"divisor of n, got {tuple(W.shape)}"
            )


def _rows(X: Array, M: Array, W: Array) -> tuple[Array, Backward]:
    """One block of outputs: X (..., n/r, r), M (r, r), W (r, n); backward: dy -> (dX, dM)."""
    xp = namespace(X)
    S = xp.sum(X, axis=-2)  # (..., r)
    turned = X + X @ M.T
    y = xp.reshape(turned, (*X.shape[:-2], W.shape[1])) @ W.T + S @ M.T

    def backward(dy):
        dturned = xp.reshape(dy @ W, X.shape)
        dS = dy @ M
        dX = dturned + dturned @ M + dS[..., None, :]
        return dX, outer_sum(dturned, X) + outer_sum(dy, S)

    return y, backward
