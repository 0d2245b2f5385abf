"""MiSS: one small block, added to the weight as often as it fits.

The inputs are cut into groups of r, and the groups are summed before one matrix acts on the sum.

Math:
    W'[o, i] = W[o, i] + D[i mod r, o mod p]
    y[o]     = x Wᵀ + Σ_k S[k] D[k, o mod p],        S[k] = Σ of x[i] over i mod r = k

    dD[k, l] = Σ dW'[o, i] over i mod r = k, o mod p = l
Shapes:
    x (..., n)   W (m, n)   D (r, p), p divides m   S (..., r)   y (..., m)
    p = m is MiSS itself; a smaller p is the form that PEFT calls mini.
Units:
    There is no scale and no α.
Init:
    D = 0, so W' = W.
Errors:
    ShapeError if D, W or x do not fit; ValueError if a size of the block is below 1.
Limits:
    Where r does not divide n the last group is short, as if x went on with zeros.
    ΔW[o, i] depends on i mod r and o mod p: it has at most r columns and p rows that differ, so
    its rank is at most min(r, p).
    PEFT's third form, init_weights="bat", is another map: `Bat`.
Source:
    Kang and Yin 2024, arXiv:2409.15371, where W' = W + expand(D) and y = x Wᵀ + S D; PEFT 0.21.2,
    tuners/miss/layer.py, MissLinear: miss_block is D. Its merge adds D to the blocks of W, its
    forward sums x, padded with zeros; `weight` and `apply` are these two.
"""

from dataclasses import dataclass
from typing import Self

from ..arrays import Array, Backward, namespace, on_device_of, outer_sum
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter


@shapes(D="r p")
@dataclass(frozen=True, eq=False)
class MiSS(Adapter):
    """W'[o, i] = W[o, i] + D[i mod r, o mod p]."""

    D: Array

    @classmethod
    def init(cls, W: Array, rank: int, outputs: int | None = None) -> Self:
        """D = 0 with `rank` rows and a column for each output, or `outputs` columns."""
        p = W.shape[0] if outputs is None else outputs
        if min(rank, p) < 1:
            raise ValueError(f"MiSS: rank and outputs must be at least 1, got {rank} and {p}")
        return cls(namespace(W).zeros((rank, p), dtype=W.dtype, **on_device_of(W)))

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + D, tile by tile."""
        xp, (m, n), (r, p) = namespace(W), W.shape, self.D.shape
        self._check_outputs("weight", m)
        groups = -(-n // r)
        tiles = xp.concat([self.D.T] * (m // p), axis=0)  # (m, r)
        expanded = xp.concat([tiles] * groups, axis=1)[:, :n]

        def backward(dW):
            cut = [slice(g * r, min(g * r + r, n)) for g in range(groups)]
            parts = [dW[o * p : (o + 1) * p, columns] for o in range(m // p) for columns in cut]
            return with_leaves(self, D=_total([_widened(part, r) for part in parts]).T)

        return W + expanded, backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + S D, S the sum of x over its groups."""
        xp, (m, n), (r, p) = namespace(x), W.shape, self.D.shape
        self._check_outputs("apply", m)
        groups = -(-n // r)
        grouped = xp.reshape(_widened(x, groups * r), (*x.shape[:-1], groups, r))
        S = xp.sum(grouped, axis=-2)  # (..., r)
        y = x @ W.T + xp.concat([S @ self.D] * (m // p), axis=-1)

        def backward(dy):
            dz = xp.sum(xp.reshape(dy, (*dy.shape[:-1], m // p, p)), axis=-2)  # (..., p)
            dS = xp.concat([dz @ self.D.T] * groups, axis=-1)[..., :n]
            return dy @ W + dS, with_leaves(self, D=outer_sum(S, dz))

        return y, backward

    def _check_outputs(self, method: str, m: int) -> None:
        if m % self.D.shape[1]:
            raise ShapeError(
                f"MiSS.{method}: MiSS.D must be (r, p) with p a divisor of m = {m} from W, got "
                f"{tuple(self.D.shape)}"
            )


def _widened(t: Array, width: int) -> Array:
    """`t` with zeros behind its last axis, which then has `width` entries."""
    missing = width - t.shape[-1]
    if missing == 0:
        return t
    xp = namespace(t)
    zeros = xp.zeros((*t.shape[:-1], missing), dtype=t.dtype, **on_device_of(t))
    return xp.concat([t, zeros], axis=-1)


def _total(parts: list[Array]) -> Array:
    """The sum of arrays of one shape."""
    xp = namespace(parts[0])
    return xp.sum(xp.stack(parts), axis=0)
