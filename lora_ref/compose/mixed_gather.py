"""A mixed batch by gathering: every row multiplies its own copy of its adapter's factors (BGMV).

The adapters are stacked, padded with zeros to the largest rank, and one batched product of
matrices with vectors takes each row through its own pair. It suits decoding: few rows, most of
them with different adapters.

Math:
    u_i = A_e x_i        y_i = W x_i + s_e B_e u_i        e = chosen_i

    du_i = s_e B_eᵀ dy_i        dx_i = Wᵀ dy_i + A_eᵀ du_i
    dA_e = Σ du_i x_iᵀ        dB_e = Σ s_e dy_i u_iᵀ        over the rows i of e
Shapes:
    x (*batch, n)   W (m, n)   chosen (*batch) integers from −1 to E − 1   y (*batch, m)
    stacked: A (E + 1, r, n)   B (E + 1, m, r)   s (E + 1, 1, 1), r the largest rank
Errors:
    as `mixed_batch`; TypeError if an adapter is no LoRA.
Limits:
    The last of the stack is all zeros and belongs to the rows without an adapter. Their y and dx
    are the base's even where x or dy is infinite; in a padded row an infinite x gives NaN.
    N (m + n) r numbers are gathered, and as many again in the backward.
    s is an array here, so it has the dtype of W; elsewhere it is a Python float.
Source:
    Chen et al. 2023, arXiv:2310.18547 (Punica), section 4, with one row a segment, which its code
    and vLLM call BGMV: the forward. The backward is the transpose of each line. Tested against
    `mixed_batch`.
"""

from collections.abc import Sequence

import numpy as np

from ..adapters.lora import LoRA
from ..arrays import Array, Backward, as_array, index_sum, namespace, on_device_of, rows
from ..shapes import shapes
from ..trees import with_leaves
from .mixed_batch import as_index, check_fit, choices_of, cotangent_rows


@shapes(x="*batch n", W="m n", chosen="int(E) *batch")
def mixed_gather(
    x: Array, W: Array, chosen: Array, adapters: Sequence[LoRA]
) -> tuple[Array, Backward]:
    """y_i = W x_i + s_e B_e A_e x_i with e = chosen_i, and backward: dy -> (dx, dadapters)."""
    check_fit("mixed_gather", W, adapters)
    choices, count = choices_of("mixed_gather", chosen, adapters), len(adapters)
    xp, X, shape = namespace(x, W), rows(x), (*x.shape[:-1], W.shape[0])
    index = as_index([e if e >= 0 else count for e in choices], chosen)
    adapted = (index < count)[:, None]
    A, B, s = (xp.take(t, index, axis=0) for t in stacked(adapters, W))
    u = A @ X[:, :, None]  # (N, r, 1)
    y = X @ W.T + _where(adapted, (s * (B @ u))[:, :, 0])

    def backward(dy):
        dY = cotangent_rows("mixed_gather", dy, shape)
        du = s * (B.mT @ dY[:, :, None])  # (N, r, 1)
        dx = dY @ W + _where(adapted, (A.mT @ du)[:, :, 0])
        dA = _sums(index, du @ X[:, None, :], count)
        dB = _sums(index, s * (dY[:, :, None] @ u.mT), count)
        gradients = []
        for e, adapter in enumerate(adapters):
            r = adapter.A.shape[0]
            gradients.append(with_leaves(adapter, A=dA[e, :r, :], B=dB[e, :, :r]))
        return xp.reshape(dx, x.shape), tuple(gradients)

    return xp.reshape(y, shape), backward


def stacked(adapters: Sequence[LoRA], W: Array) -> tuple[Array, Array, Array]:
    """(A, B, s) of all adapters on a first axis, padded to one rank; the last one is zero."""
    xp, (m, n) = namespace(W), W.shape
    rank = max((adapter.A.shape[0] for adapter in adapters), default=1)

    def zeros(*shape):
        return xp.zeros(shape, dtype=W.dtype, **on_device_of(W))

    A, B = [], []
    for adapter in adapters:
        missing = rank - adapter.A.shape[0]
        A.append(xp.concat([adapter.A, zeros(missing, n)], axis=0))
        B.append(xp.concat([adapter.B, zeros(m, missing)], axis=1))
    scales = np.array([*(adapter.scale for adapter in adapters), 0.0])[:, None, None]
    A.append(zeros(rank, n))
    B.append(zeros(m, rank))
    return xp.stack(A, axis=0), xp.stack(B, axis=0), as_array(scales, W)


def _where(adapted: Array, update: Array) -> Array:
    """`update` in the rows that have an adapter, zero in the others."""
    xp = namespace(update)
    return xp.where(adapted, update, xp.zeros_like(update))


def _sums(index: Array, products: Array, count: int) -> Array:
    """Σ over the rows of each adapter: (N, p, q) gives (E + 1, p, q)."""
    xp, (size, p, q) = namespace(products), products.shape
    sums = index_sum(index, xp.reshape(products, (size, p * q)), count + 1)
    return xp.reshape(sums, (count + 1, p, q))
