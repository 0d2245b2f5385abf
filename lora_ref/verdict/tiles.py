"""The tiles in which fused attention sums its gradients, stored from one tile to the next.

Math:
    dk and dv are sums over T queries: S_j = S_{j−1} + Σ over the queries of tile j, dq over keys.
    A kernel that keeps S_j in the dtype of its output rounds it once a tile.
Source:
    PyTorch 2.13, aten/src/ATen/native/cpu/FlashAttentionKernel.cpp, cpu_flash_attention_backward:
    tiles of 32 queries, 64 from 192 queries on and 256 from 768 on, of 512 keys; each product is
    added onto a buffer of q's dtype. Found by experiment: at 33 queries and scores near 0, dv in
    bfloat16 is off by up to 1.5 of the bounds of one sum in float32, and bit for bit this one.
"""

KEYS = 512


def queries(terms: int) -> int:
    """Of a sum over so many queries."""
    return 256 if terms >= 768 else 64 if terms >= 192 else 32


def keys(terms: int) -> int:
    """Of a sum over so many keys."""
    return KEYS


def between(terms: int, tile: int) -> range:
    """Where one tile ends and another begins."""
    return range(tile, terms, tile)
