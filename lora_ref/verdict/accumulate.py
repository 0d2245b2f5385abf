"""Sums and products of matrices, added up on a given accumulator in a given order.

Math:
    sequential     ((t₀ + t₁) + t₂) + …
    blocks of n    each block sequentially, then the blocks' sums sequentially
    split in j     terms i, i + j, i + 2j, … sequentially for i < j, then these j sums
    pairwise       a balanced tree over leaves that are summed sequentially
    library        one call of NumPy in float32 or float64
    Every addition rounds once to the accumulator, and so does the first term. A product of two
    numbers of at most 26 bits is exact before it is added, as in a fused multiply-add.
Limits:
    A term and a sum are added in float64 first. For a float32 accumulator that can round twice,
    which moves a result by at most 2^−29 of its size more than one rounding would.
Source:
    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 4.1.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .contract import Accumulator
from .grids import FLOAT32, FLOAT64, Grid
from .orders import AnyOrder, Blocked, Pairwise, Probable

Rounding = Callable[[np.ndarray], np.ndarray]
Term = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Sequential:
    """One term after the other."""

    def depth(self, terms: int) -> int:
        return terms

    def __str__(self) -> str:
        return "one after the other"


@dataclass(frozen=True)
class Split:
    """Every so-many-th term by a worker of its own, and the workers' sums in their order."""

    parts: int = 4

    def depth(self, terms: int) -> int:
        return min(terms, -(-terms // self.parts) + self.parts)

    def __str__(self) -> str:
        return f"split in {self.parts}"


@dataclass(frozen=True)
class Library:
    """Whatever NumPy and its BLAS do in the accumulator's own dtype."""

    def __str__(self) -> str:
        return "the library's"


LIBRARY = Library()
OwnOrder = Sequential | Blocked | Pairwise | Split | Library
_NATIVE: dict[Grid, Any] = {FLOAT32: np.float32, FLOAT64: np.float64}


def is_native(accumulator: Accumulator) -> bool:
    """Whether NumPy itself can add on this accumulator."""
    return accumulator.grid in _NATIVE and not accumulator.truncates


def product(
    a: np.ndarray, b: np.ndarray, accumulator: Accumulator, order: OwnOrder | AnyOrder | Probable
) -> np.ndarray:
    """a @ b with the sums on the accumulator, as float64."""
    if isinstance(order, Library):
        dtype = _NATIVE[accumulator.grid]
        return np.asarray(a.astype(dtype) @ b.astype(dtype), np.float64)
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = (*lead, left.shape[-2], right.shape[-1])
    total = added(
        lambda k: left[..., :, k, None] * right[..., None, k, :],
        left.shape[-1],
        shape,
        accumulator,
        order,
    )
    vectors = (*((-2,) if a.ndim == 1 else ()), *((-1,) if b.ndim == 1 else ()))
    return np.squeeze(total, axis=vectors)


def in_tiles(
    a: np.ndarray,
    b: np.ndarray,
    accumulator: Accumulator,
    order: OwnOrder | AnyOrder | Probable,
    tile: int,
    stored: Rounding,
) -> np.ndarray:
    """a @ b, summed tile by tile onto what is stored of the tiles before."""
    if tile >= a.shape[-1]:
        return product(a, b, accumulator, order)
    total = product(a[..., :tile], b[..., :tile, :], accumulator, order)
    for start in range(tile, a.shape[-1], tile):
        part = slice(start, start + tile)
        more = product(a[..., part], b[..., part, :], accumulator, order)
        total = accumulator.grid.round(stored(total) + more)
    return total


def sums(
    t: np.ndarray, accumulator: Accumulator, order: OwnOrder | AnyOrder | Probable
) -> np.ndarray:
    """Σ over the last axis of `t` with the sums on the accumulator, as float64."""
    if isinstance(order, Library):  # contiguous, where NumPy adds pairwise
        native = np.ascontiguousarray(t, _NATIVE[accumulator.grid])
        return np.asarray(np.sum(native, axis=-1), np.float64)
    return added(lambda k: t[..., k], t.shape[-1], t.shape[:-1], accumulator, order)


def added(
    term: Term,
    count: int,
    shape: tuple[int, ...],
    accumulator: Accumulator,
    order: OwnOrder | AnyOrder | Probable,
) -> np.ndarray:
    """Σ term(k) for k < count, each an array of `shape`."""
    if count == 0:
        return np.zeros(shape)
    grid = accumulator.grid
    rounded = grid.truncate if accumulator.truncates else grid.round
    terms = range(count)
    if isinstance(order, Blocked):
        blocks = (terms[i : i + order.size] for i in range(0, count, order.size))
        return _in_turn((_run(term, block, rounded) for block in blocks), rounded)
    if isinstance(order, Split):
        workers = (terms[i :: order.parts] for i in range(min(order.parts, count)))
        return _in_turn((_run(term, own, rounded) for own in workers), rounded)
    if isinstance(order, Pairwise):
        return _tree(term, terms, order.leaf, rounded)
    return _run(term, terms, rounded)


def _run(term: Term, terms: range, rounded: Rounding) -> np.ndarray:
    return _in_turn((term(k) for k in terms), rounded)


def _in_turn(parts: Iterable[np.ndarray], rounded: Rounding) -> np.ndarray:
    parts = iter(parts)
    total = rounded(np.array(next(parts)))
    for part in parts:
        total = rounded(total + part)
    return total


def _tree(term: Term, terms: range, leaf: int, rounded: Rounding) -> np.ndarray:
    if len(terms) <= leaf:
        return _run(term, terms, rounded)
    leaves = -(-len(terms) // leaf)
    middle = (leaves + 1) // 2 * leaf
    left, right = (_tree(term, half, leaf, rounded) for half in (terms[:middle], terms[middle:]))
    return rounded(left + right)
