"""A mixed batch by groups: the rows sorted by adapter, one product for each group (SGMV).

Every factor is read once, whatever the number of its rows, and each adapter keeps its own rank.
It suits prefill and training: many rows for few adapters.

Math:
    X_e the rows of adapter e, in their order; U_e = X_e A_eᵀ
    Y = X Wᵀ, and s_e U_e B_eᵀ added to the rows of e

    dU_e = s_e dY_e B_e        dX = dY W, and dU_e A_e added to the rows of e
    dA_e = dU_eᵀ X_e        dB_e = s_e dY_eᵀ U_e
Shapes:
    x (*batch, n)   W (m, n)   chosen (*batch) integers from −1 to E − 1   y (*batch, m)
Errors:
    as `mixed_batch`; TypeError if an adapter is no LoRA.
Limits:
    The base's product is one for all rows; only the updates are grouped.
    `chosen` is read on the host, which a device has to wait for.
Source:
    Chen et al. 2023, arXiv:2310.18547 (Punica), section 4, SGMV, the forward; PEFT 0.21.2,
    LoraLayer._mixed_batch_forward, groups the rows likewise. Tested against `mixed_batch`.
"""

from collections.abc import Sequence

from ..adapters.lora import LoRA
from ..arrays import Array, Backward, namespace, on_device_of, outer_sum, rows
from ..shapes import shapes
from ..trees import with_leaves, zeros_like
from .mixed_batch import as_index, check_fit, choices_of, cotangent_rows


@shapes(x="*batch n", W="m n", chosen="int(E) *batch")
def mixed_grouped(
    x: Array, W: Array, chosen: Array, adapters: Sequence[LoRA]
) -> tuple[Array, Backward]:
    """y = x Wᵀ + s_e (x A_eᵀ) B_eᵀ, group by group, and backward: dy -> (dx, dadapters)."""
    check_fit("mixed_grouped", W, adapters)
    choices = choices_of("mixed_grouped", chosen, adapters)
    xp, X, shape = namespace(x, W), rows(x), (*x.shape[:-1], W.shape[0])
    order = sorted(range(len(choices)), key=choices.__getitem__)  # stable: a group keeps its order
    there = as_index(order, chosen)
    back = as_index(sorted(range(len(order)), key=order.__getitem__), chosen)
    groups, X_sorted = _groups(choices), xp.take(X, there, axis=0)
    us = {e: X_sorted[own, :] @ adapters[e].A.T for e, own in groups.items()}  # (N_e, r_e)
    updates = {e: adapters[e].scale * (u @ adapters[e].B.T) for e, u in us.items()}
    y = X @ W.T
    y = y + _unsorted(updates, y, back)

    def backward(dy):
        dY = cotangent_rows("mixed_grouped", dy, shape)
        gradients = [zeros_like(adapter) for adapter in adapters]
        dY_sorted, dxs = xp.take(dY, there, axis=0), {}
        for e, own in groups.items():
            adapter, dY_e = adapters[e], dY_sorted[own, :]
            du = adapter.scale * (dY_e @ adapter.B)  # (N_e, r_e)
            dxs[e] = du @ adapter.A
            dA, dB = outer_sum(du, X_sorted[own, :]), adapter.scale * outer_sum(dY_e, us[e])
            gradients[e] = with_leaves(adapter, A=dA, B=dB)
        dx = dY @ W
        return xp.reshape(dx + _unsorted(dxs, dx, back), x.shape), tuple(gradients)

    return xp.reshape(y, shape), backward


def _groups(choices: Sequence[int]) -> dict[int, slice]:
    """Where each adapter's rows lie among the sorted ones, behind those that have none."""
    groups, first = {}, choices.count(-1)
    for e in sorted({*choices} - {-1}):
        groups[e] = slice(first, first + choices.count(e))
        first = groups[e].stop
    return groups


def _unsorted(parts: dict[int, Array], like: Array, back: Array) -> Array:
    """The groups' parts in the order of the batch, zeros where there is no adapter."""
    xp, (size, width) = namespace(like), like.shape
    bare = size - sum(part.shape[0] for part in parts.values())
    zeros = xp.zeros((bare, width), dtype=like.dtype, **on_device_of(like))
    return xp.take(xp.concat([zeros, *parts.values()], axis=0), back, axis=0)
