"""Padding of the trailing axes: what a convolution reads beyond the edge of its input.

Math:
    Along each axis y[i] = x[source(i − low)], where inside 0 <= i − low < L the source is the
    position itself, and outside
        zeros:      0, whatever x holds
        reflect:    mirrored, the edge itself not repeated    ... 2 1 [0 1 2] 1 0 ...
        replicate:  the edge, repeated                        ... 0 0 [0 1 2] 2 2 ...
        circular:   continued from the other end              ... 1 2 [0 1 2] 0 1 ...
    Backward adds each dy[i] to dx at the position it was read from.
Shapes:
    x (..., *space), widths ((low, high), ...) one pair for each axis of space
Errors:
    ValueError if an axis is too short: reflect needs widths below L, circular at most L, and
    replicate an edge.
Source:
    PyTorch 2.13, torch.nn.functional.pad, modes constant, reflect, replicate and circular.
"""

import math
from collections.abc import Callable

from ..arrays import Array, Backward, index_sum, namespace, on_device_of

Widths = tuple[tuple[int, int], ...]


def pad_zeros(x: Array, widths: Widths) -> tuple[Array, Backward]:
    """Zeros beyond the edge."""
    y = x
    inside: tuple[slice, ...] = ()
    for axis, (low, high) in _axes(x, widths):
        inside += (slice(low, low + x.shape[axis]),)
        y = zero_extended(y, axis, low, high)

    def backward(dy):
        return dy[(..., *inside)]

    return y, backward


def pad_reflect(x: Array, widths: Widths) -> tuple[Array, Backward]:
    """The input mirrored at its edge, the edge itself not repeated."""
    for axis, width in _axes(x, widths):
        _require("pad_reflect", max(width) < max(x.shape[axis], 1), axis, width, "below", x)
    return _read(x, widths, lambda i, length: length - 1 - abs(length - 1 - abs(i)))


def pad_replicate(x: Array, widths: Widths) -> tuple[Array, Backward]:
    """The edge, repeated."""
    for axis, width in _axes(x, widths):
        fits = x.shape[axis] > 0 or max(width) == 0
        _require("pad_replicate", fits, axis, width, "zero at", x)
    return _read(x, widths, lambda i, length: min(max(i, 0), length - 1))


def pad_circular(x: Array, widths: Widths) -> tuple[Array, Backward]:
    """The input continued from its other end."""
    for axis, width in _axes(x, widths):
        _require("pad_circular", max(width) <= x.shape[axis], axis, width, "at most", x)
    return _read(x, widths, lambda i, length: i % length)


def zero_extended(t: Array, axis: int, low: int, high: int) -> Array:
    """`t` with `low` zeros before and `high` zeros after it along one axis."""
    if low == high == 0:
        return t
    xp = namespace(t)

    def zeros(width):
        shape = (*t.shape[:axis], width, *t.shape[axis + 1 :])
        return xp.zeros(shape, dtype=t.dtype, **on_device_of(t))

    return xp.concat([zeros(low), t, zeros(high)], axis=axis)


def _read(x: Array, widths: Widths, source: Callable[[int, int], int]) -> tuple[Array, Backward]:
    """x read at the positions that `source(i, length)` gives, along each axis of `widths`."""
    xp = namespace(x)
    y = x
    reads = []
    for axis, (low, high) in _axes(x, widths):
        length = x.shape[axis]
        positions = [source(i, length) for i in range(-low, length + high)]
        index = xp.asarray(positions, dtype=xp.int64, **on_device_of(x))
        y = xp.take(y, index, axis=axis)
        reads.append((axis, index, length))

    def backward(dy):
        dx = dy
        for axis, index, length in reads:
            dx = _added(dx, axis, index, length)
        return dx

    return y, backward


def _added(d: Array, axis: int, index: Array, length: int) -> Array:
    """The transpose of `take` along `axis`."""
    xp = namespace(d)
    order = (axis, *(i for i in range(d.ndim) if i != axis))
    back = tuple(order.index(i) for i in range(d.ndim))
    front = xp.permute_dims(d, order)
    matrix = xp.reshape(front, (front.shape[0], math.prod(front.shape[1:])))
    total = index_sum(index, matrix, length)
    return xp.permute_dims(xp.reshape(total, (length, *front.shape[1:])), back)


def _axes(x: Array, widths: Widths) -> list[tuple[int, tuple[int, int]]]:
    return list(enumerate(widths, start=x.ndim - len(widths)))


def _require(
    owner: str, fits: bool, axis: int, width: tuple[int, int], limit: str, x: Array
) -> None:
    if not fits:
        raise ValueError(
            f"{owner}: widths of axis {axis} must be {limit} its length {x.shape[axis]}, "
            f"got {width}"
        )
