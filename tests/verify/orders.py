"""The orders of rounding in which frameworks merge, in plain NumPy.

Written from what the frameworks do and not from the library's recipes, which they test: each takes
the base tensor as stored, the factors and the dtype to store, and rounds by `astype`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Order = Callable[[np.ndarray, Any, np.dtype], np.ndarray]
F = np.float32


def matmul(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    return B @ A


def by_einsum(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    return np.einsum("mr,rn->mn", B, A)


def reversed_sum(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    return B[:, ::-1].copy() @ A[::-1].copy()


def in_two_halves(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    k = A.shape[0] // 2
    return B[:, k:] @ A[k:] + B[:, :k] @ A[:k]


def one_by_one(dtype: np.dtype) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A matrix product whose accumulator is of `dtype`."""

    def multiply(B: np.ndarray, A: np.ndarray) -> np.ndarray:
        total = np.zeros((B.shape[0], A.shape[1]), dtype)
        for k in range(A.shape[0]):
            term = (B[:, k, None].astype(F) * A[k].astype(F)).astype(dtype)
            total = (total.astype(F) + term.astype(F)).astype(dtype)
        return total.astype(F)

    return multiply


def one_term(k: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The product of column k of B and row k of A, zeros where there is none."""

    def multiply(B: np.ndarray, A: np.ndarray) -> np.ndarray:
        return B[:, k : k + 1] @ A[k : k + 1]

    return multiply


def _sum(W: np.ndarray, delta: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (W.astype(F) + delta).astype(dtype)


def _product(t: Any, multiply: Callable = matmul, dtype: np.dtype | None = None) -> np.ndarray:
    B, A = (u.astype(F) if dtype is None else u.astype(dtype).astype(F) for u in (t.B, t.A))
    return t.place(B, A, multiply)


def accumulated_in_float32(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """PEFT's merge of float32 factors, and of a base that is converted first."""
    return _sum(W, F(t.s) * _product(t), dtype)


def with_einsum(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    return _sum(W, F(t.s) * _product(t, by_einsum), dtype)


def with_reversed_sum(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    return _sum(W, F(t.s) * _product(t, reversed_sum), dtype)


def with_split_sum(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    return _sum(W, F(t.s) * _product(t, in_two_halves), dtype)


def in_float64(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    D = t.s * t.place(t.B.astype(float), t.A.astype(float), matmul)
    return (W.astype(float) + D).astype(dtype)


def delta_first(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """PEFT's safe_merge: the delta in the base's dtype."""
    return _sum(W, (F(t.s) * _product(t)).astype(dtype).astype(F), dtype)


def low_factors(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """The adapter loaded in the base's dtype, the product in float32."""
    return _sum(W, F(t.s) * _product(t, dtype=dtype), dtype)


def low_factors_delta_first(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    return _sum(W, (F(t.s) * _product(t, dtype=dtype)).astype(dtype).astype(F), dtype)


def low_product(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """Everything in the base's dtype: each operation rounds its result."""
    p = _product(t, dtype=dtype).astype(dtype).astype(F)
    return _sum(W, (F(t.s) * p).astype(dtype).astype(F), dtype)


def low_product_low_scale(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    p = _product(t, dtype=dtype).astype(dtype).astype(F)
    s = np.array(t.s).astype(dtype).astype(F)
    return _sum(W, (s * p).astype(dtype).astype(F), dtype)


def low_product_kept(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    return _sum(W, F(t.s) * _product(t, dtype=dtype).astype(dtype).astype(F), dtype)


def product_rounded(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """A float32 product of float32 factors, rounded, scaled and added in the base's dtype."""
    p = _product(t).astype(dtype).astype(F)
    return _sum(W, (F(t.s) * p).astype(dtype).astype(F), dtype)


def scale_in_B(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """The scale folded into a 16-bit B, as servers do when they load an adapter."""
    B = (F(t.s) * t.B.astype(dtype).astype(F)).astype(dtype).astype(F)
    p = t.place(B, t.A.astype(dtype).astype(F), matmul)
    return _sum(W, p.astype(dtype).astype(F), dtype)


def scale_in_A(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    A = (F(t.s) * t.A.astype(dtype).astype(F)).astype(dtype).astype(F)
    p = t.place(t.B.astype(dtype).astype(F), A, matmul)
    return _sum(W, p.astype(dtype).astype(F), dtype)


def scale_in_B_one_sum(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    B = (F(t.s) * t.B.astype(dtype).astype(F)).astype(dtype).astype(F)
    return _sum(W, t.place(B, t.A.astype(dtype).astype(F), matmul), dtype)


def low_accumulator(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """A product whose sum is kept in 16 bits, as some kernels do."""
    p = _product(t, one_by_one(dtype), dtype)
    return _sum(W, (F(t.s) * p).astype(dtype).astype(F), dtype)


def scale_in_both(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """√|s| in each factor."""
    root = F(abs(t.s) ** 0.5)
    B = (np.copysign(root, F(t.s)) * t.B.astype(F)).astype(dtype).astype(F)
    A = (root * t.A.astype(F)).astype(dtype).astype(F)
    return _sum(W, t.place(B, A, matmul), dtype)


def twice_rounded_scale(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """The scale rounded to 16 bits, everything else in float32."""
    s = np.array(t.s).astype(dtype).astype(F)
    return _sum(W, s * _product(t), dtype)


def scale_in_both_low(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """√|s| in each factor, of factors loaded in 16 bits, and a product in 16 bits."""
    root = F(abs(t.s) ** 0.5)
    B, A = (u.astype(dtype).astype(F) for u in (t.B, t.A))
    B, A = ((u * root).astype(dtype).astype(F) for u in (np.copysign(F(1), F(t.s)) * B, A))
    return _sum(W, t.place(B, A, matmul).astype(dtype).astype(F), dtype)


def added_in_halves(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """Half the update, and the other half."""
    half = (F(t.s / 2) * _product(t)).astype(dtype).astype(F)
    return _sum(_sum(W, half, dtype), half, dtype)


def terms_in_turn(W: np.ndarray, t: Any, dtype: np.dtype) -> np.ndarray:
    """W += s b_k a_k for each k, everything in the base's dtype."""

    for k in range(len(t.A)):
        p = _product(t, one_term(k), dtype).astype(dtype).astype(F)
        W = _sum(W, (F(t.s) * p).astype(dtype).astype(F), dtype)
    return W


# Those that the recipe table has: bit for bit, or but for what the order of the sum moves.
KNOWN: tuple[Order, ...] = (
    accumulated_in_float32,
    with_einsum,
    with_reversed_sum,
    with_split_sum,
    in_float64,
    delta_first,
    low_factors,
    low_factors_delta_first,
    low_product,
    low_product_low_scale,
    low_product_kept,
    product_rounded,
    scale_in_B,
    scale_in_A,
    scale_in_B_one_sum,
    scale_in_both_low,
    added_in_halves,
    terms_in_turn,
)
# Honest ones that it has not.
UNKNOWN: tuple[Order, ...] = (low_accumulator, scale_in_both, twice_rounded_scale)
