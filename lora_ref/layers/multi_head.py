"""Multi-head attention over a frozen base, with an adapter on any of its four projections.

Math:
    q = x Wqᵀ,  k = c Wkᵀ,  v = c Wvᵀ        each by its adapter, if it has one, and its bias
    y = join(attention(split q, split k, split v)) Woᵀ
    In self-attention c = x, and dx is the sum of both gradients.
Shapes:
    x (*batch, T, n)   c (*batch, S, l), the memory   y (*batch, T, n)
    Wq (H d, n)   Wk (K d, l)   Wv (K e, l)   Wo (n, H e)      H heads of q, K of k and v
Errors:
    ShapeError if the heads do not divide a width, or K does not divide H.
Source:
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; which projections to adapt: Hu et al.
    2021, arXiv:2106.09685, section 4.2. Weights are (out, in), heads are the slow axis of `out`.
"""

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, Backward
from .attention import grouped_query_attention, join_heads, split_heads
from .linear import adapted_linear


@dataclass(frozen=True, eq=False)
class QKVO:
    """One thing for each projection of an attention layer: a weight, a bias, an adapter, or None.

    A gradient is a QKVO too, with None where there is no adapter.
    """

    q: Any = None
    k: Any = None
    v: Any = None
    o: Any = None


NO_BIASES = QKVO()


def multi_head_attention(
    x: Array,
    memory: Array,
    adapters: QKVO,
    *,
    weights: QKVO,
    heads: int,
    kv_heads: int | None = None,
    biases: QKVO = NO_BIASES,
    mask: Array | None = None,
    scale: float | None = None,
) -> tuple[Array, Backward]:
    """Queries from `x`, keys and values from `memory`; backward: dy -> (dx, dmemory, dadapters).

    `kv_heads` is `heads` unless given. The base (weights, biases) is frozen and has no gradient.
    """
    q, q_backward = adapted_linear(x, weights.q, adapters.q, biases.q)
    k, k_backward = adapted_linear(memory, weights.k, adapters.k, biases.k)
    v, v_backward = adapted_linear(memory, weights.v, adapters.v, biases.v)
    kv = heads if kv_heads is None else kv_heads
    split = split_heads(q, heads), split_heads(k, kv), split_heads(v, kv)
    o, attention_backward = grouped_query_attention(*split, mask=mask, scale=scale)
    y, o_backward = adapted_linear(join_heads(o), weights.o, adapters.o, biases.o)

    def backward(dy):
        do, do_adapter = o_backward(dy)
        dq, dk, dv = (join_heads(t) for t in attention_backward(split_heads(do, heads)))
        dx, dq_adapter = q_backward(dq)
        dmemory_k, dk_adapter = k_backward(dk)
        dmemory_v, dv_adapter = v_backward(dv)
        dadapters = QKVO(dq_adapter, dk_adapter, dv_adapter, do_adapter)
        return dx, dmemory_k + dmemory_v, dadapters

    return y, backward


def self_attention(x: Array, adapters: QKVO, **static: Any) -> tuple[Array, Backward]:
    """`multi_head_attention` of x with itself, and backward: dy -> (dx, dadapters)."""
    y, mha_backward = multi_head_attention(x, x, adapters, **static)

    def backward(dy):
        dx, dmemory, dadapters = mha_backward(dy)
        return dx + dmemory, dadapters

    return y, backward
