"""LoKr: the Kronecker product of two small matrices.

Math:
    W' = W + s C ⊗ D, that is W'[i m₂ + k, j n₂ + l] = W[i m₂ + k, j n₂ + l] + s C[i, j] D[k, l]
    Y  = s C X Dᵀ, y = x Wᵀ + Y,        a row of x read as a matrix X (n₁, n₂), one of y as (m₁, m₂)

    dC[i, j] = s Σ dW'[i m₂ + k, j n₂ + l] D[k, l] over k, l        dD[k, l] with C[i, j] over i, j
    dX = s Cᵀ dY D        dC = s Σ dY (X Dᵀ)ᵀ        dD = s Σ dYᵀ (C X), sums over the rows
    C or D may be a product B A: then dA = Bᵀ dC and dB = dC Aᵀ.
Shapes:
    x (..., n₁ n₂)   W (m₁ m₂, n₁ n₂)   C (m₁, n₁)   D (m₂, n₂)   y (..., m₁ m₂)
    of a product, B (rows, r) and A (r, columns)
Units:
    s = α/r; PEFT divides by r even where C and D are whole and nothing has rank r. LyCORIS takes
    s = 1 there.
Init:
    C = 0 (B = 0 of a product), so W' = W; D is Kaiming-uniform, U(-1/√columns, 1/√columns).
Errors:
    ShapeError if C, D, W or x do not fit; ValueError if the rank is below 1.
Limits:
    Which m₁ and n₁ are taken is the caller's choice; `factorization` is LyCORIS's and PEFT's.
    A convolution's D has the kernel's axes; it is another class.
Source:
    Yeh et al. 2024 (LyCORIS), arXiv:2309.14859, section 3 and appendix; PEFT 0.21.2,
    tuners/lokr/layer.py: Linear, make_kron and factorization; its lokr_w1 and lokr_w2 are C and D,
    lokr_w1_a and lokr_w1_b the B and A of C. It forms ΔW in every forward, the second of the forms
    that each `either` lists. With init_weights="lycoris" it starts at D = 0 in place of C.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, either, namespace, on_device_of, outer_sum
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import scaling


@shapes(A="r n", B="m r")
@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix B A: what may stand for C or D."""

    A: Array
    B: Array

    def __post_init__(self) -> None:
        """The two must have one rank."""
        if self.A.shape[0] != self.B.shape[1]:
            raise ShapeError(
                f"LowRank: LowRank.B must be (m, r) with r = {self.A.shape[0]} from LowRank.A, got "
                f"{tuple(self.B.shape)}"
            )


Factor = Array | LowRank


@dataclass(frozen=True, eq=False)
class LoKr(Adapter):
    """W' = W + s C ⊗ D, where C and D are matrices or products `LowRank`."""

    C: Factor
    D: Factor
    scale: float

    def __post_init__(self) -> None:
        """C and D must be matrices."""
        super().__post_init__()
        for name, factor in (("C", self.C), ("D", self.D)):
            if not isinstance(factor, LowRank) and len(factor.shape) != 2:
                raise ShapeError(
                    f"LoKr: LoKr.{name} must be a matrix or LowRank, got {tuple(factor.shape)}"
                )

    @classmethod
    def init(
        cls, W: Array, rank: int, alpha: float, rng: np.random.Generator, near: int | None = None
    ) -> Self:
        """C = 0, and D whole where `rank` is at least half its larger side, else of that rank."""
        (m1, m2), (n1, n2) = (factorization(size, near) for size in W.shape)
        scale = scaling(alpha, rank)
        C = namespace(W).zeros((m1, n1), dtype=W.dtype, **on_device_of(W))
        if 2 * rank >= max(m2, n2):
            return cls(C, _uniform(m2, n2, rng, W), scale)
        return cls(C, LowRank(_uniform(rank, n2, rng, W), _uniform(m2, rank, rng, W)), scale)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s C ⊗ D."""
        s, (C, C_backward), (D, D_backward) = self.scale, _matrix(self.C), _matrix(self.D)
        self._check("weight", C, D, W)

        def backward(dW):
            dC, dD = _block_sums(s * dW, C, D)
            return with_leaves(self, C=C_backward(dC), D=D_backward(dD))

        return W + s * _kron(C, D), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + s vec(C X Dᵀ)."""
        s, (C, C_backward), (D, D_backward) = self.scale, _matrix(self.C), _matrix(self.D)
        self._check("apply", C, D, W)
        xp = namespace(x)
        X = xp.reshape(x, (*x.shape[:-1], C.shape[1], D.shape[1]))
        XD = X @ D.T  # (..., n₁, m₂)
        update = either(
            xp,
            lambda: xp.reshape((XD.mT @ C.T).mT, (*x.shape[:-1], W.shape[0])),
            lambda: x @ _kron(C, D).T,
        )

        def backward(dy):
            dY = xp.reshape(dy, (*dy.shape[:-1], C.shape[0], D.shape[0]))
            CX = (X.mT @ C.T).mT  # (..., m₁, n₂)
            through = either(
                xp,
                lambda: xp.reshape(((dY @ D).mT @ C).mT, x.shape),
                lambda: dy @ _kron(C, D),
            )
            dense = cache(lambda: _block_sums(outer_sum(dy, x), C, D))
            dC = s * either(xp, lambda: outer_sum(dY.mT, XD.mT), lambda: dense()[0])
            dD = s * either(xp, lambda: outer_sum(dY, CX), lambda: dense()[1])
            return dy @ W + s * through, with_leaves(self, C=C_backward(dC), D=D_backward(dD))

        return x @ W.T + s * update, backward

    def _check(self, method: str, C: Array, D: Array, W: Array) -> None:
        expected = (C.shape[0] * D.shape[0], C.shape[1] * D.shape[1])
        if tuple(W.shape) != expected:
            raise ShapeError(
                f"LoKr.{method}: W must be (m₁ m₂, n₁ n₂) = {expected} from LoKr.C and LoKr.D, got "
                f"{tuple(W.shape)}"
            )


def factorization(size: int, near: int | None = None) -> tuple[int, int]:
    """The largest divisor of `size` up to its root, and up to `near`, with its partner.

    A `near` that divides `size` is taken as it is, though it may be the larger of the two.

    >>> factorization(128), factorization(127), factorization(128, near=4)
    ((8, 16), (1, 127), (4, 32))
    """
    if near is not None and near > 0 and size % near == 0:
        return near, size // near
    limit = size if near is None else near
    first = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0 and d <= max(limit, 1))
    return first, size // first


def _matrix(factor: Factor) -> tuple[Array, Backward]:
    """The matrix that C or D is, and backward: its cotangent -> the field's."""
    if not isinstance(factor, LowRank):
        return factor, lambda d: d
    A, B = factor.A, factor.B
    return B @ A, lambda d: with_leaves(factor, A=B.T @ d, B=d @ A.T)


def _kron(C: Array, D: Array) -> Array:
    (m1, n1), (m2, n2) = C.shape, D.shape
    return namespace(C).reshape(C[:, None, :, None] * D[None, :, None, :], (m1 * m2, n1 * n2))


def _block_sums(d: Array, C: Array, D: Array) -> tuple[Array, Array]:
    """The cotangents of C and D, given that of C ⊗ D."""
    xp, (m1, n1), (m2, n2) = namespace(d), C.shape, D.shape
    blocks = xp.reshape(d, (m1, m2, n1, n2))
    dC = xp.sum(blocks * D[None, :, None, :], axis=(1, 3))
    return dC, xp.sum(blocks * C[:, None, :, None], axis=(0, 2))


def _uniform(rows: int, columns: int, rng: np.random.Generator, like: Array) -> Array:
    return as_array(rng.uniform(-(columns**-0.5), columns**-0.5, size=(rows, columns)), like)
