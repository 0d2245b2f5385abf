"""The patterns that wrong elements form: boxes, triangles and diagonals, tiles, runs in memory.

Every finder takes the mask of wrong elements and the names of its axes, and returns a `Pattern`,
or None if the wrong elements do not form one. What it says is true of the mask; the chance test
only keeps a few scattered elements from being read as "rows 3 and 17".

Math:
    k elements at random lie in some |S| of n indices with probability at most
        C(n, |S|) (|S| / n)^k.
"""

import math
from dataclasses import dataclass

import numpy as np

from .places import AxisName, describe, ordinal, runs_of

CHANCE = math.log(1.5e-3)
_TILES = (128, 64, 32, 16)
_FILLED = 0.25  # of a tile, for it to count as wrong
_LISTED = 6


@dataclass(frozen=True)
class Pattern:
    """A place in words, how many elements it has, and how many of them are wrong.

    `counted`: whether the sentence is to say so.
    """

    text: str
    cells: int
    covered: int
    counted: bool = True

    @property
    def density(self) -> float:
        return self.covered / self.cells

    def __str__(self) -> str:
        if not self.counted:
            return self.text
        share = "all" if self.covered == self.cells else f"{self.covered:,} of"
        return f"{self.text}: {share} {self.cells:,} elements"


def line_counts(bad: np.ndarray, axis: int) -> np.ndarray:
    """How many wrong elements each index along `axis` has."""
    others = tuple(a for a in range(bad.ndim) if a != axis)
    return np.asarray(np.sum(bad, axis=others, dtype=np.int64))


def by_chance(count: int, chosen: int, n: int) -> bool:
    """Whether `count` random elements might well lie in only `chosen` of n indices."""
    if chosen == n:
        return True
    ways = math.lgamma(n + 1) - math.lgamma(chosen + 1) - math.lgamma(n - chosen + 1)
    return count * math.log(chosen / n) + ways > CHANCE


def _told(count: int, cells: int, size: int) -> bool:
    """Whether a place found by two limits (first and last) is more than chance."""
    return cells == count >= 3 or count * math.log(cells / size) + 2 * math.log(size) <= CHANCE


def box(bad: np.ndarray, names: tuple[AxisName, ...]) -> Pattern | None:
    """Whole or partly wrong rows, columns, heads ...: a product of sets of indices."""
    count = int(np.count_nonzero(bad))
    supports = [line_counts(bad, axis) > 0 for axis in range(bad.ndim)]
    chosen = [int(np.count_nonzero(s)) for s in supports]
    full = math.prod(chosen) == count
    spans = any(c == n >= 2 for c, n in zip(chosen, bad.shape, strict=True))
    one_run = bad.ndim == 1 and count == np.ptp(np.flatnonzero(supports[0])) + 1 >= 2
    texts, cells, telling = [], 1, full and (count >= 4 or spans or one_run)
    for support, size, name in zip(supports, chosen, names, strict=True):
        text = describe(support, name)
        told = not by_chance(count, size, len(support))
        if text and (told or (full and _simple(support, text))):
            texts.append(text)
            cells *= size
            telling = telling or told
        else:
            cells *= len(support)
    counted = bad.ndim > 1 or cells > count
    return Pattern(", ".join(texts), cells, count, counted) if texts and telling else None


def _simple(support: np.ndarray, text: str) -> bool:
    """Whether the words are no mere list."""
    return len(runs_of(support)) <= 3 or "every " in text


def band(bad: np.ndarray, names: tuple[AxisName, ...]) -> Pattern | None:
    """A diagonal, a triangle or a band of the last two axes, in some or all leading slices."""
    if bad.ndim < 2 or min(bad.shape[-2:]) < 3:
        return None
    lead, counts, slices = _matrix(bad, names)
    height, width = counts.shape
    along = np.zeros(height + width - 1, dtype=np.int64)
    for i in range(height):  # element (i, j) is on diagonal j − i
        along[height - 1 - i :][:width] += counts[i]
    offsets = np.arange(1 - height, width)
    lengths = np.minimum(np.minimum(offsets + height, width - offsets), min(height, width))
    used = offsets[along > 0]
    low, high = int(used[0]), int(used[-1])
    slack = min(height, width) // 8  # a corner that is not quite filled
    low = 1 - height if low <= 1 - height + slack else low
    high = width - 1 if high >= width - 1 - slack else high
    cells = int(lengths[(offsets >= low) & (offsets <= high)].sum()) * slices
    count, size = int(along.sum()), counts.size * slices
    if cells > 0.95 * size or not _told(count, cells, size):
        return None
    text = _band_text(low, high, counts.shape, *names[-2:])
    return Pattern(", ".join([*lead, text]), cells, count)


def _band_text(low: int, high: int, shape: tuple[int, ...], row: AxisName, column: AxisName) -> str:
    height, width = shape
    if low == high:
        return "the diagonal" if low == 0 else f"the diagonal {column.one} = {row.one} {low:+d}"
    apart = f"{column.one} − {row.one}"
    if high == width - 1:
        words = {0: "on and above the diagonal", 1: "above the diagonal"}.get(low)
        return f"{words or 'a corner'} ({apart} >= {low})"
    if low == 1 - height:
        words = {0: "on and below the diagonal", -1: "below the diagonal"}.get(high)
        return f"{words or 'a corner'} ({apart} <= {high})"
    return f"a band along the diagonal ({low} <= {apart} <= {high})"


def tiles(bad: np.ndarray, names: tuple[AxisName, ...]) -> Pattern | None:
    """Square blocks of the last two axes: the largest ones as filled as those of 16."""
    if bad.ndim < 2 or max(bad.shape[-2:]) <= min(_TILES):
        return None
    lead, counts, slices = _matrix(bad, names)
    found = {size: _tiles_of(size, counts, slices, lead) for size in _TILES}
    finest = found[min(_TILES)]
    if finest is None:
        return None
    alike = (p for p in found.values() if p and p.density >= 0.8 * finest.density)
    return next(alike, None)


def _tiles_of(size: int, counts: np.ndarray, slices: int, lead: list[str]) -> Pattern | None:
    starts = [np.arange(0, n, size) for n in counts.shape]
    wrong = np.add.reduceat(np.add.reduceat(counts, starts[0], axis=0), starts[1], axis=1)
    sides = [np.diff(s, append=n) for s, n in zip(starts, counts.shape, strict=True)]
    area = np.outer(*sides) * slices
    hit = wrong >= _FILLED * area
    covered, cells, total = int(wrong[hit].sum()), int(area[hit].sum()), int(counts.sum())
    if covered == 0 or covered < 0.95 * total or cells > 0.8 * counts.size * slices:
        return None
    places = [f"({i}, {j})" for i, j in np.argwhere(hit)[:_LISTED].tolist()]
    number = int(np.count_nonzero(hit))
    what = f"of {size} × {size} elements"
    if number == 1:
        text = f"the tile {places[0]} {what}"
    elif number <= _LISTED:
        text = f"the tiles {', '.join(places[:-1])} and {places[-1]} {what}"
    else:
        text = f"{number:,} of {hit.size:,} tiles {what} ({', '.join(places[:3])}, …)"
    return Pattern(", ".join([*lead, text]), cells, covered)


def _matrix(bad: np.ndarray, names: tuple[AxisName, ...]) -> tuple[list[str], np.ndarray, int]:
    """The leading slices with wrong elements in words, their sum over them, and how many they are.

    Leading slices that are no product of sets of indices are counted as the product around them.
    """
    lead, slices = [], 1
    for axis in range(bad.ndim - 2):
        support = line_counts(bad, axis) > 0
        lead += [text] if (text := describe(support, names[axis])) else []
        slices *= int(np.count_nonzero(support))
    counts = np.sum(bad, axis=tuple(range(bad.ndim - 2)), dtype=np.int64)
    return lead, np.asarray(counts), slices


def run(bad: np.ndarray, names: tuple[AxisName, ...]) -> Pattern | None:
    """Elements that follow one another in C order, or at a fixed distance: a vectorised loop."""
    places = np.flatnonzero(bad)
    count, last = len(places), bad.size - 1
    if count < 4 or bad.ndim < 2:
        return None
    step = int(np.gcd.reduce(np.diff(places)))
    first = int(places[0])
    ends = first if step == 1 else first % step, int(places[-1])
    cells = (ends[1] - ends[0]) // step + 1
    start, stop = (str(tuple(map(int, np.unravel_index(i, bad.shape)))) for i in ends)
    whole = ends[0] < step and ends[1] > last - step
    if (step > 1 and not whole) or not _told(count, cells, bad.size):
        return None
    if step > 1:
        return Pattern(f"every {ordinal(step)} element in memory order from {start}", cells, count)
    stop = "the end" if ends[1] == last else stop
    return Pattern(f"a run in memory order from {start} to {stop}", cells, count)
