"""Small kernels between an oracle and the layers of this library: a bias, a mask, a rotation.

They are written in operators, as every kernel is, so that each reading can run them.

Source: `lora_ref.layers` and `lora_ref.adapters`, of which these are compositions.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..arrays import Array, Backward, namespace, row_sum
from ..layers.attention import attention, causal_mask, grouped_query_attention
from ..layers.softmax import is_boolean


def adapted_layer(
    apply: Callable[[Any, Array, Array], tuple[Array, Backward]],
    x: Array,
    adapter: Any,
    b: Array | None = None,
    *,
    W: Array,
) -> tuple[Array, Backward]:
    """y = apply(adapter, x, W) + b, and backward: dy -> (dx, dadapter), and db if there is a b."""
    y, apply_backward = apply(adapter, x, W)
    if b is None:
        return y, apply_backward

    def backward(dy):
        return *apply_backward(dy), row_sum(dy)

    return y + b, backward


def masked_attention(
    q: Array, k: Array, v: Array, *, mask: Array | None, offset: int | None, scale: float
) -> tuple[Array, Backward]:
    """`attention` or `grouped_query_attention`, with a mask, a causal one, or both."""
    if offset is not None:
        seen = causal_mask(q.shape[-2], k.shape[-2], q, offset=offset)
        mask = seen if mask is None else _both(mask, seen)
    grouped = q.ndim > 2 and q.shape[-3] != k.shape[-3]
    kernel = grouped_query_attention if grouped else attention
    return kernel(q, k, v, mask=mask, scale=scale)


def rotated_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    rotary: Callable[..., Any],
    cos: Array,
    sin: Array,
    key_cos: Array,
    key_sin: Array,
    positions: Array | None = None,
    base: float = 10000.0,
    **static: Any,
) -> tuple[Array, Backward]:
    """`masked_attention` of turned q and k; where the angles are from does not matter here."""
    q_turned, q_backward = rotary(q, cos=cos, sin=sin)
    k_turned, k_backward = rotary(k, cos=key_cos, sin=key_sin)
    o, attention_backward = masked_attention(q_turned, k_turned, v, **static)

    def backward(do):
        dq, dk, dv = attention_backward(do)
        return q_backward(dq), k_backward(dk), dv

    return o, backward


def _both(mask: Array, seen: Array) -> Array:
    return mask & seen if is_boolean(mask) else namespace(mask).where(seen, mask, -math.inf)


def merge(adapter: Any, *, W: Array) -> tuple[Array, Backward]:
    """W', and backward: dW' -> dadapter."""
    return adapter.weight(W)


def merge_in_halves(adapter: Any, *, W: Array) -> tuple[Array, Backward]:
    """W' = (W + ½ s BA) + ½ s BA, the other order of `merge`; backward is the same."""
    half = replace(adapter, scale=adapter.scale / 2)
    W_halfway, _ = half.weight(W)
    W_merged, _ = half.weight(W_halfway)
    _, backward = adapter.weight(W)
    return W_merged, backward


def apply(adapter: Any, x: Array, W: Array) -> tuple[Array, Backward]:
    """An adapter's own algorithm, where `apply_merged` is its definition."""
    return adapter.apply(x, W)
