"""A dense update as one LoRA of a given rank, by singular values: PEFT's "svd" and its relatives.

Math:
    ΔW = U S Vᵀ        B = U_r S_r        A = V_rᵀ        s = 1
    ‖ΔW − B A‖² = Σ_{i>r} σ_i², which no other LoRA of rank r falls below

    clamped: entries of A and B beyond the q-quantile of all of them are set to it
Shapes:
    ΔW (m, n)   A (r, n)   B (m, r)
Errors:
    ValueError if r is not between 1 and min(m, n), or a quantile is outside [0, 1] or that of a
    negative entry.
Limits:
    The rows of A are orthonormal and B holds all of the size; PiSSA and others give √S to each.
    Where r is the rank of ΔW or more the result is exact. Σ w_i ΔW_i has rank Σ r_i at most; the
    default of PEFT is the largest r_i.
    The signs of a singular pair are free, and `clamped` depends on them: its quantile is one of
    signed numbers. Where it is negative, near and below 0.5, PEFT sets every entry to it.
Source:
    PEFT 0.21.2, tuners/lora/model.py, LoraModel._svd_generalized_task_arithmetic_weighted_adapter,
    for combination_type "svd", "ties_svd", "dare_linear_svd", "dare_ties_svd",
    "magnitude_prune_svd"; svd_clamp is `clamped`. Eckart and Young 1936 for the bound.
"""

from dataclasses import replace

from ..adapters.lora import LoRA
from ..arrays import Array, namespace
from ..shapes import shapes


@shapes(delta="m n")
def truncated(delta: Array, rank: int) -> LoRA:
    """The LoRA of this rank whose update is nearest to `delta`."""
    m, n = delta.shape
    if not 1 <= rank <= min(m, n):
        raise ValueError(
            f"truncated: rank must be from 1 to {min(m, n)}, from delta {(m, n)}, got {rank}"
        )
    U, S, Vt = namespace(delta).linalg.svd(delta, full_matrices=False)
    return LoRA(Vt[:rank, :], U[:, :rank] * S[:rank], 1.0)


def clamped(adapter: LoRA, quantile: float) -> LoRA:
    """The adapter with the entries of both factors in ± the quantile of all of them."""
    if not 0.0 <= quantile <= 1.0:
        raise ValueError(f"clamped: quantile must be in [0, 1], got {quantile}")
    xp = namespace(adapter.A, adapter.B)
    every = xp.sort(xp.concat([xp.reshape(t, (-1,)) for t in (adapter.B, adapter.A)]))
    place = quantile * (every.shape[0] - 1)
    below = min(int(place), every.shape[0] - 2)
    low, high = float(every[below]), float(every[below + 1])
    limit = low + (place - below) * (high - low)
    if limit < 0:
        raise ValueError(f"clamped: quantile must be that of no negative entry, got {quantile}")
    A, B = (xp.clip(t, -limit, limit) for t in (adapter.A, adapter.B))
    return replace(adapter, A=A, B=B)
