"""What one pass over a tensor tells: how far merged is from base plus update.

Math:
    D = M − W is what the merge did, D* = s L R what it should have done.
    c = ⟨D, D*⟩ / ‖D*‖²            1 where the scale is right
    ρ = ‖D − c D*‖ / ‖D*‖           what no scale explains
    error = |M − (W + D*)| / ulp    in ulps of the dtype that M is stored in, at the largest of
                                    |W|, |D*| and |W + D*|, so that cancellation is no error
Limits:
    On a grid that swallows the update D is rounding and nothing else: c says nothing there, and
    `decidable`, the number of elements that the correctly rounded merge changes, is what counts.
Source:
    The test of c and ρ is described in the project's verification notes, docs/verify.md.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..verdict.grids import Grid
from .updates import EVERY, Columns, Replaced, Update

BLOCK = 1 << 15  # elements looked at together: a quarter of a megabyte in float64
MAP = 32  # the error map's rows and columns


class Take(Protocol):
    """Reads the given rows and columns of a matrix in float64."""

    def __call__(self, rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray: ...


def take_from(t: np.ndarray) -> Take:
    """How to read rows and columns of a stored matrix in float64."""

    def take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        contiguous = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        block = t[rows[0] : rows[-1] + 1] if contiguous else t[rows]
        values = np.array(block[:, columns], dtype=np.float64)
        _drop_pages(t)
        return values

    return take


def _drop_pages(t: np.ndarray) -> None:
    """Let go of the pages of a mapped file; they are read again when they are asked for."""
    owner: Any = t
    while isinstance(owner, np.ndarray):
        owner = owner.base
    owner = owner.obj if isinstance(owner, memoryview) else owner
    if isinstance(owner, mmap.mmap) and hasattr(owner, "madvise"):
        owner.madvise(mmap.MADV_DONTNEED)


def row_blocks(shape: tuple[int, ...], elements: int = BLOCK) -> Iterator[np.ndarray]:
    """The row numbers of a matrix, as many at a time as `elements` allow."""
    rows, columns = shape
    step = max(1, elements // max(1, columns))
    for start in range(0, rows, step):
        yield np.arange(start, min(start + step, rows))


@dataclass(frozen=True)
class Pair:
    """A tensor of the base and the same tensor of the merged checkpoint, as matrices."""

    W: np.ndarray
    M: np.ndarray
    base_grid: Grid
    grid: Grid

    @property
    def shape(self) -> tuple[int, int]:
        return self.W.shape

    @property
    def base(self) -> Take:
        return take_from(self.W)

    @property
    def merged(self) -> Take:
        return take_from(self.M)


@dataclass(frozen=True)
class Measure:
    """The figures of one tensor; see the module."""

    elements: int
    c: float | None
    rho: float | None
    correctly_rounded: float
    worst_ulps: float
    worst_at: tuple[int, int]
    relative_update: float
    decidable: int
    unchanged: bool
    not_finite: int
    error_map: np.ndarray


def reference(update: Update | None, W: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """W' in float64, unrounded, for a block of whole rows."""
    if update is None:
        return W
    if isinstance(update, Replaced):
        return update.merged(W, rows)
    return W + update.delta(rows)


def holds_base(pair: Pair) -> bool:
    """Whether merged is the base, rounded to merged's dtype and nothing else."""
    if pair.W.dtype == pair.M.dtype:
        return all(
            np.array_equal(pair.W[rows].view(np.uint8), pair.M[rows].view(np.uint8))
            for rows in map(_as_slice, row_blocks(pair.shape))
        )
    blocks = row_blocks(pair.shape)
    return all(
        np.array_equal(pair.grid.round(pair.base(r, EVERY)), pair.merged(r, EVERY), equal_nan=True)
        for r in blocks
    )


def _as_slice(rows: np.ndarray) -> slice:
    return slice(int(rows[0]), int(rows[-1]) + 1)


def measure(pair: Pair, update: Update | None) -> Measure:
    """One pass over both tensors."""
    sums = np.zeros(4)  # ⟨D, D*⟩, ‖D*‖², ‖D‖², ‖W‖²
    exact = decidable = changed = not_finite = 0
    worst, worst_at = 0.0, (0, 0)
    errors = np.zeros((min(MAP, max(1, pair.shape[0])), min(MAP, max(1, pair.shape[1]))))
    for rows in row_blocks(pair.shape):
        W, M = pair.base(rows, EVERY), pair.merged(rows, EVERY)
        wanted = reference(update, W, rows)
        ideal, cast = pair.grid.round(wanted.copy()), pair.grid.round(W.copy())
        same = (ideal == M) | (np.isnan(M) & np.isnan(ideal))
        exact += int(same.sum())
        decidable += int((ideal != cast).sum())
        changed += int((cast != M).sum())
        not_finite += int((~np.isfinite(M) & np.isfinite(ideal)).sum())
        ulps = _ulps(pair.grid, W, M, wanted, same)
        place = np.unravel_index(int(np.argmax(ulps)), ulps.shape) if ulps.size else (0, 0)
        if ulps.size and ulps[place] > worst:
            worst, worst_at = float(ulps[place]), (int(rows[place[0]]), int(place[1]))
        _add_to_map(errors, ulps, rows, pair.shape[0])
        sums += _products(M - W, wanted - W, W)
    return _figures(pair, sums, exact, decidable, changed, not_finite, worst, worst_at, errors)


def _ulps(
    grid: Grid, W: np.ndarray, M: np.ndarray, wanted: np.ndarray, same: np.ndarray
) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.maximum(np.abs(W), np.abs(wanted)), np.abs(wanted - W))
        error = np.abs(M - wanted) / grid.ulp(size)
    return np.where(same & ~np.isfinite(error), 0.0, np.where(np.isnan(error), np.inf, error))


def _products(D: np.ndarray, wanted: np.ndarray, W: np.ndarray) -> np.ndarray:
    ok = np.isfinite(D) & np.isfinite(wanted)
    D, wanted, W = (np.where(ok, t, 0.0) for t in (D, wanted, W))
    return np.array(
        [np.vdot(D, wanted), np.vdot(wanted, wanted), np.vdot(D, D), np.vdot(W, W)], dtype=float
    )


def _add_to_map(errors: np.ndarray, ulps: np.ndarray, rows: np.ndarray, count: int) -> None:
    """The largest error of each cell of the coarse map."""
    to_row = rows * errors.shape[0] // max(1, count)
    edges = np.linspace(0, ulps.shape[1], errors.shape[1] + 1).astype(int)[:-1]
    if ulps.size:
        coarse = np.maximum.reduceat(ulps, edges, axis=1)
        np.maximum.at(errors, to_row, coarse)


def _figures(pair, sums, exact, decidable, changed, not_finite, worst, worst_at, errors):
    along, wanted, done, base = (float(t) for t in sums)
    elements = int(np.prod(pair.shape))
    c = along / wanted if wanted > 0 else None
    rest = max(0.0, done - c * along) if c is not None else 0.0
    return Measure(
        elements=elements,
        c=c,
        rho=(rest / wanted) ** 0.5 if c is not None else None,
        correctly_rounded=exact / elements if elements else 1.0,
        worst_ulps=worst,
        worst_at=worst_at,
        relative_update=(wanted / base) ** 0.5 if base > 0 else 0.0,
        decidable=decidable,
        unchanged=changed == 0,
        not_finite=not_finite,
        error_map=errors,
    )


def sample_of(
    shape: tuple[int, int], rng: np.random.Generator, limits: tuple[int, int] = (48, 256)
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted rows and columns of a small part of a matrix, spread over all of it."""
    rows, columns = (
        np.sort(rng.choice(size, min(size, limit), replace=False))
        for size, limit in zip(shape, limits, strict=True)
    )
    return rows, columns
