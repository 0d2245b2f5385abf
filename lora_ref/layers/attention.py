"""Scaled dot-product attention: its core, groups of query heads, and its masks.

Math:
    p = softmax(s q kᵀ + mask)        o = p v                    s = 1/√d unless given

    dv = pᵀ do        dp = do vᵀ      D = ⟨dp, p⟩ = ⟨do, o⟩ by row
    dz = c p ∘ (dp − D)               dq = dz k        dk = dzᵀ q
    Grouped queries: head h of q uses head ⌊h / (H/K)⌋ of k and v; K = 1 is multi-query attention.
Shapes:
    q (*batch, T, d)   k (*batch, S, d)   v (*batch, S, e)   o (*batch, T, e)
    grouped: q (*batch, H, T, d)   k (*batch, K, S, d)   v (*batch, K, S, e)
    T queries and S keys, S ≠ T in cross-attention; the width e of a value need not be d.
    A mask is boolean (True: may be attended to) or additive, and broadcasts to the scores
    (*batch, T, S) or (*batch, H, T, S). It is static: no gradient.
Errors:
    ShapeError if K does not divide H or a mask does not fit; `softmax` on what else a mask may be.
Limits:
    A query that may attend to nothing gets o = 0 and dq = 0 (`softmax` says who else does this).
    NaN or inf in a value reaches every query, masked or not: 0 · inf is NaN.
Source:
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation (1); grouped queries: Ainslie
    et al. 2023, arXiv:2305.13245, and the order of heads is that of enable_gqa in PyTorch 2.13's
    scaled_dot_product_attention and of repeat_kv in transformers. D from do and o: Dao et al.
    2022, arXiv:2205.14135, section B.2. In torch.nn.MultiheadAttention a True mask excludes.
"""

from ..arrays import (
    Array,
    Backward,
    either,
    namespace,
    on_device_of,
    over_keys,
    over_queries,
    recomputed,
)
from ..shapes import ShapeError, shapes
from .softmax import check_mask, softmax_weights


@shapes(q="*batch T d", k="*batch S d", v="*batch S e")
def attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, scale: float | None = None
) -> tuple[Array, Backward]:
    """o = softmax(c q kᵀ + mask) v, and backward: do -> (dq, dk, dv)."""
    xp = namespace(q)
    if mask is not None:
        check_mask("attention", mask, q, (*q.shape[:-1], k.shape[-2]))
    c = max(q.shape[-1], 1) ** -0.5 if scale is None else scale
    p = softmax_weights(c * (q @ k.mT), mask)  # (*batch, T, S)
    o = p @ v

    def backward(do):
        w = recomputed(p)  # as stored, or exp(z − logsumexp z) again
        dv = over_queries(w.mT, do)
        dp = do @ v.mT  # (*batch, T, S)
        D = either(  # the first is exact where p is one-hot, the second is flash-attention's
            xp,
            lambda: xp.sum(dp * w, axis=-1, keepdims=True),
            lambda: xp.sum(do * o, axis=-1, keepdims=True),
        )
        dz = c * (w * (dp - D))
        return over_keys(dz, k), over_queries(dz.mT, q), dv

    return o, backward


@shapes(q="*batch H T d", k="*batch K S d", v="*batch K S e")
def grouped_query_attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, scale: float | None = None
) -> tuple[Array, Backward]:
    """`attention` with H/K heads of q to one head of k and v, and backward: do -> (dq, dk, dv)."""
    xp = namespace(q)
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if kv_heads < 1 or heads % kv_heads:
        raise ShapeError(
            f"grouped_query_attention: the heads of k must divide those of q, H = {heads}, "
            f"got K = {kv_heads}"
        )
    size = heads // kv_heads
    if mask is not None:
        check_mask("grouped_query_attention", mask, q, (*q.shape[:-1], k.shape[-2]))
        if mask.ndim > 2:
            mask = mask[..., None, :, :] if mask.shape[-3] == 1 else _grouped(mask, size)
    shared = [_shared(t, size) for t in (k, v)]
    o, attention_backward = attention(_grouped(q, size), *shared, mask=mask, scale=scale)

    def backward(do):
        dq, dk, dv = attention_backward(_grouped(do, size))
        return _ungrouped(dq), xp.sum(dk, axis=-3), xp.sum(dv, axis=-3)

    return _ungrouped(o), backward


def causal_mask(T: int, S: int, like: Array, *, offset: int = 0) -> Array:
    """Query i may attend to the keys 0 … i + offset: booleans (T, S) in `like`'s library.

    `offset` is the number of keys that precede the first query. 0 aligns the triangle at the top
    left, as is_causal does in PyTorch's scaled_dot_product_attention; S − T at the bottom right,
    as flash-attention does since 2.1 and as decoding with a cache of keys needs.

    >>> import numpy as np
    >>> causal_mask(2, 3, np.ones(1), offset=1).astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    """
    xp, on_device = namespace(like), on_device_of(like)
    return xp.arange(S, **on_device)[None, :] <= xp.arange(T, **on_device)[:, None] + offset


def split_heads(t: Array, heads: int) -> Array:
    """(..., T, H d) -> (..., H, T, d). Its transpose, and its inverse, is `join_heads`."""
    *batch, length, width = t.shape
    if heads < 1 or width % heads:
        raise ShapeError(f"split_heads: heads must divide the width {width}, got heads = {heads}")
    xp = namespace(t)
    return xp.moveaxis(xp.reshape(t, (*batch, length, heads, width // heads)), -2, -3)


def join_heads(t: Array) -> Array:
    """(..., H, T, d) -> (..., T, H d)."""
    *batch, heads, length, width = t.shape
    xp = namespace(t)
    return xp.reshape(xp.moveaxis(t, -3, -2), (*batch, length, heads * width))


def _grouped(t: Array, size: int) -> Array:
    """(..., H, T, d) -> (..., H/size, size, T, d)."""
    *batch, heads, length, width = t.shape
    return namespace(t).reshape(t, (*batch, heads // size, size, length, width))


def _ungrouped(t: Array) -> Array:
    *batch, kv_heads, size, length, width = t.shape
    return namespace(t).reshape(t, (*batch, kv_heads * size, length, width))


def _shared(t: Array, size: int) -> Array:
    """(..., K, S, d) -> (..., K, size, S, d), one head shown to `size` heads of q."""
    *batch, heads, length, width = t.shape
    return namespace(t).broadcast_to(t[..., None, :, :], (*batch, heads, size, length, width))
