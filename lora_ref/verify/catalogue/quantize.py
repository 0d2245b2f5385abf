"""Round trips of the base through the formats that frameworks quantize to.

Source: bitsandbytes 0.50.2, functional.py, get_4bit_type (the code books of NF4 and FP4, as
float32 values), create_dynamic_map and quantize_4bit (double quantization: the blocks' maxima
less their mean, in blocks of 256 of the signed dynamic code).
Limits:
    A value on the threshold between two codes may go either way, and the mean of the maxima is
    summed in an order that nobody states: a small share of the elements may stay unexplained.
"""

from collections.abc import Callable
from functools import cache

import ml_dtypes
import numpy as np

from ...verdict.grids import grid_of
from ..measure import Pair, Take, row_blocks
from ..updates import EVERY, Columns

NF4_POSITIVE = (0.0, 0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684)
NF4_NEGATIVE = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004)
NF4 = np.array((*NF4_NEGATIVE, *NF4_POSITIVE, 1.0)).astype(np.float32)
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
FP4 = np.unique(np.concatenate((FP4, -FP4))).astype(np.float32)
NESTED = 256  # maxima in a block of the double quantization
Quantizer = Callable[[Pair], Take]


@cache
def dynamic_code() -> np.ndarray:
    """The 8-bit dynamic code: between powers of ten, 2^i means of even steps, both signs."""
    found = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, 2**i + 1)
        means = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        found += [*means, *-means]
    return np.sort(np.array(found)).astype(np.float32)


def nearest(code: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The entry of a sorted code book next to each value."""
    middle = ((code[1:] + code[:-1]) / 2).astype(np.float32)
    return code[np.searchsorted(middle, v)]


def blockwise(code: np.ndarray, size: int, *, nested: bool = False) -> Quantizer:
    """Blocks of `size` over the flattened tensor: the nearest code times the block's maximum."""

    def through(pair: Pair) -> Take:
        tops = _maxima(pair, size)
        used = _nested(tops) if nested else tops
        width = pair.shape[1]

        def rows_of(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
            block = (rows[:, None] * width + np.arange(width)[columns]) // size
            top = tops[block]
            scaled = pair.base(rows, columns).astype(np.float32) / np.where(top > 0, top, 1)
            return (nearest(code, scaled) * used[block]).astype(np.float64)

        return rows_of

    return through


def _maxima(pair: Pair, size: int) -> np.ndarray:
    """max |W| of each block; a block that goes on in the next rows is seen in pieces."""
    tops = np.zeros(-(-pair.shape[0] * pair.shape[1] // size), dtype=np.float32)
    for rows in row_blocks(pair.shape):
        flat = np.abs(pair.base(rows, EVERY)).reshape(-1).astype(np.float32)
        start = int(rows[0]) * pair.shape[1]
        edges = np.concatenate(([0], np.arange(size - start % size, len(flat), size)))
        first = start // size
        here = slice(first, first + len(edges))
        tops[here] = np.maximum(tops[here], np.maximum.reduceat(flat, edges))
    return tops


def _nested(tops: np.ndarray) -> np.ndarray:
    mean = tops.mean(dtype=np.float32)
    rest = np.pad(tops - mean, (0, -len(tops) % NESTED)).reshape(-1, NESTED)
    top = np.abs(rest).max(axis=1, keepdims=True)
    back = nearest(dynamic_code(), rest / np.where(top > 0, top, 1)) * top
    return (back.reshape(-1)[: len(tops)] + mean).astype(np.float32)


def by_row(levels: int) -> Quantizer:
    """Symmetric integers by output row: round(W · levels / max|W|)."""

    def through(pair: Pair) -> Take:
        def rows_of(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
            W = pair.base(rows, EVERY)
            return _integers(W, np.abs(W).max(axis=1, keepdims=True), levels)[:, columns]

        return rows_of

    return through


def by_tensor(levels: int) -> Quantizer:
    """Symmetric integers with one scale."""

    def through(pair: Pair) -> Take:
        blocks = row_blocks(pair.shape)
        top = max(float(np.abs(pair.base(rows, EVERY)).max()) for rows in blocks)

        def rows_of(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
            return _integers(pair.base(rows, columns), np.array(top), levels)

        return rows_of

    return through


def _integers(W: np.ndarray, top: np.ndarray, levels: int) -> np.ndarray:
    top = np.where(top > 0, top, 1.0)
    return np.rint(W * levels / top) * top / levels


def cast(dtype: type) -> Quantizer:
    """Rounded to another floating dtype."""
    grid = grid_of(np.dtype(dtype))

    def through(pair: Pair) -> Take:
        def rows_of(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
            return grid.round(pair.base(rows, columns).copy())

        return rows_of

    return through


# name: (digits kept, round trip)
FORMATS: dict[str, tuple[int, Quantizer]] = {
    "NF4, blocks of 64": (4, blockwise(NF4, 64)),
    "NF4, blocks of 64, double": (4, blockwise(NF4, 64, nested=True)),
    "NF4, blocks of 128": (4, blockwise(NF4, 128)),
    "FP4, blocks of 64": (4, blockwise(FP4, 64)),
    "int8 by row": (7, by_row(127)),
    "int8 by tensor": (7, by_tensor(127)),
    "int4 by row": (3, by_row(7)),
    "float8 e4m3": (4, cast(ml_dtypes.float8_e4m3fn)),
    "float8 e5m2": (3, cast(ml_dtypes.float8_e5m2)),
    "bfloat16": (8, cast(ml_dtypes.bfloat16)),
    "float16": (11, cast(np.float16)),
}
