"""Elementwise work in pieces that stay in a core's cache, several passes over each."""

from collections.abc import Iterator
from typing import Any

import numpy as np

_CHUNK = 1 << 15  # elements


def chunks(count: int) -> Iterator[slice]:
    """Slices that cover `count` elements, or rows of one element."""
    for start in range(0, count, _CHUNK):
        yield slice(start, start + _CHUNK)


def row_chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices of whole rows."""
    step = max(_CHUNK // max(width, 1), 1)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def flat(t: Any, shape: tuple[int, ...]) -> Any:
    """`t`, broadcast to a shape, as one contiguous run of elements; no copy if it is one."""
    if t is None:
        return None
    if t.shape != shape:
        t = np.broadcast_to(t, shape)
    return np.ascontiguousarray(t).reshape(-1)
