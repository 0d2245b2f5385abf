"""Mistakes of attention: which keys a query sees, which head it reads, how scores are scaled.

Source:
    bug catalogue rows L10 (kv sizes of grouped queries: vllm#36603), L7 (litgpt#1197); the mutants
    GQA last head, leaked cell and dropped key of the power table; the two corners of a causal mask:
    flash-attention since 2.1 against PyTorch's is_causal.
"""

import math
from collections.abc import Callable

import numpy as np

from ...arrays import index_sum
from ...layers.softmax import is_boolean
from ..oracle import Oracle
from . import names
from .mutation import Outputs, changed, mapped, masked, mistake, times, value_of

KEYS = "fewer keys, of like weight"
HEADS = "key heads that differ, fewer query heads"
SCALE = "scores of size 1, and d not 1"


def _lengths(oracle: Oracle) -> tuple[int, int]:
    return value_of(oracle, "q").shape[-2], value_of(oracle, "k").shape[-2]


@mistake(names.MASK_IGNORED, "softmax(c q kᵀ)", "a mask that excludes keys")
def mask_ignored(oracle: Oracle) -> Outputs | None:
    if value_of(oracle, "mask") is None and value_of(oracle, "offset") is None:
        return None
    return changed(oracle, mask=None, offset=None)


def _with_offset(oracle: Oracle, offset: int) -> Outputs | None:
    now = value_of(oracle, "offset")
    return None if now is None or now == offset else changed(oracle, offset=offset)


@mistake(names.ONE_KEY_AHEAD, "keys 0 … i + 1", KEYS)
def one_key_ahead(oracle: Oracle) -> Outputs | None:
    return _with_offset(oracle, (value_of(oracle, "offset") or 0) + 1)


@mistake(names.SELF_EXCLUDED, "keys 0 … i − 1", KEYS)
def self_excluded(oracle: Oracle) -> Outputs | None:
    return _with_offset(oracle, (value_of(oracle, "offset") or 0) - 1)


@mistake(names.OTHER_CORNER, "the triangle at the bottom right, or at the top left", "T not S")
def other_corner(oracle: Oracle) -> Outputs | None:
    T, S = _lengths(oracle)
    return _with_offset(oracle, 0 if value_of(oracle, "offset") else S - T)


def _without_key(oracle: Oracle, index: int) -> Outputs | None:
    T, S = _lengths(oracle)
    if S < 2:
        return None
    seen = masked(np.ones((T, S), dtype=bool), 1, index, False)
    return changed(oracle, mask=_both(value_of(oracle, "mask"), seen))


def _both(mask: np.ndarray | None, seen: np.ndarray) -> np.ndarray:
    if mask is None:
        return seen
    return mask & seen if is_boolean(mask) else np.where(seen, mask, -math.inf)


@mistake(names.LAST_KEY, "Σ_j<S−1", KEYS)
def last_key(oracle: Oracle) -> Outputs | None:
    return _without_key(oracle, -1)


@mistake(names.FIRST_KEY, "Σ_j>0", KEYS)
def first_key(oracle: Oracle) -> Outputs | None:
    return _without_key(oracle, 0)


def _by_heads(
    of: Callable[[np.ndarray, int], np.ndarray],
) -> Callable[[Oracle], Outputs | None]:
    """Query head h on key head of(h, K)[h], where it should be ⌊h K / H⌋."""

    def outputs(oracle: Oracle) -> Outputs | None:
        q, k, v = (value_of(oracle, n) for n in "qkv")
        if q.ndim < 3 or k.shape[-3] < 2:
            return None
        K = k.shape[-3]
        heads = np.arange(q.shape[-3])
        chosen = of(heads, K)
        if np.array_equal(chosen, heads * K // len(heads)):
            return None

        def gathered(t: np.ndarray) -> np.ndarray:
            heads_first = np.moveaxis(t, -3, 0)
            flat = heads_first.reshape(len(chosen), math.prod(heads_first.shape[1:]))
            summed = index_sum(chosen, flat, K).reshape(K, *heads_first.shape[1:])
            return np.moveaxis(summed, 0, -3)

        outputs = changed(oracle, k=k[..., chosen, :, :], v=v[..., chosen, :, :])
        return mapped(outputs, dk=gathered, dv=gathered)

    return outputs


def _last_elsewhere(h: np.ndarray, K: int) -> np.ndarray:
    right = h * K // len(h)
    return np.where(h == len(h) - 1, 0, right)


heads_modulo = mistake(names.HEADS_MODULO, "k_{h mod K}", HEADS)(_by_heads(lambda h, K: h % K))
last_head = mistake(names.LAST_HEAD, "k_0 for h = H − 1", HEADS)(_by_heads(_last_elsewhere))
first_head = mistake(names.FIRST_KEY_HEAD, "k_0", HEADS)(_by_heads(lambda h, K: 0 * h))


@mistake(names.GROUP_NOT_SUMMED, "dk and dv of head h = g H/K", "judge dk and dv")
def group_not_summed(oracle: Oracle) -> Outputs | None:
    q, k = value_of(oracle, "q"), value_of(oracle, "k")
    if oracle.cotangent is None or q.ndim < 3 or k.shape[-3] == q.shape[-3]:
        return None
    first = np.arange(q.shape[-3]) % (q.shape[-3] // k.shape[-3]) == 0
    alone = np.where(first[:, None, None], oracle.cotangent, 0.0)
    return changed(oracle, ("dk", "dv"), cotangent=alone)


def _scaled(power: Callable[[float, int], float]) -> Callable[[Oracle], Outputs | None]:
    def outputs(oracle: Oracle) -> Outputs | None:
        return changed(
            oracle, scale=power(value_of(oracle, "scale"), value_of(oracle, "q").shape[-1])
        )

    return outputs


unscaled = mistake(names.SCORES_UNSCALED, "softmax(q kᵀ)", SCALE)(_scaled(lambda c, d: 1.0))
by_width = mistake(names.SCORES_BY_WIDTH, "softmax(q kᵀ/d)", SCALE)(
    _scaled(lambda c, d: 1 / max(d, 1))
)


@mistake(names.SCORES_TWICE, "softmax(c² q kᵀ)", SCALE)
def twice(oracle: Oracle) -> Outputs | None:
    """With c = 1/√d this is the scale 1/d, and named so."""
    c = value_of(oracle, "scale")
    if math.isclose(c * c * value_of(oracle, "q").shape[-1], 1.0):
        return None
    return changed(oracle, scale=c * c)


@mistake(names.DQ_UNSCALED, "dq = dz k / c", "c not 1")
def dq_unscaled(oracle: Oracle) -> Outputs | None:
    return times(1 / (value_of(oracle, "scale") or 1.0), "dq")(oracle)


@mistake(names.DK_UNSCALED, "dk = dzᵀ q / c", "c not 1")
def dk_unscaled(oracle: Oracle) -> Outputs | None:
    return times(1 / (value_of(oracle, "scale") or 1.0), "dk")(oracle)


ATTENTION = (
    mask_ignored,
    one_key_ahead,
    self_excluded,
    other_corner,
    last_key,
    first_key,
    heads_modulo,
    last_head,
    first_head,
    group_not_summed,
    unscaled,
    by_width,
    twice,
    dq_unscaled,
    dk_unscaled,
)
