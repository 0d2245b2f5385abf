"""A coarse map of a tensor's errors as SVG: the largest error of each cell, on a log scale.

Units:
    ulps of the stored dtype. Half an ulp is what one correct rounding makes, one ulp what two do;
    from there to the worst error of the page there are `STEPS` levels, evenly on a log scale.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from .summary import ulps_text

STEPS = 4
SIDE = 288  # of the plot
LEFT, TOP, GAP = 46, 20, 4  # room for the labels
MARKS = 4  # labelled places along an axis, besides the end


def bounds_for(worst: Iterable[float]) -> list[float]:
    """The upper ends of all levels but the last, which is what exceeds every finite error.

    >>> bounds_for([10_000.0, math.inf])
    [0.5, 1.0, 10.0, 100.0, 1000.0, 10000.0]
    """
    top = max([10.0, *(w for w in worst if math.isfinite(w))])
    return [0.5, 1.0, *(float(f"{top ** (k / STEPS):.2g}") for k in range(1, STEPS)), top]


def level_names(bounds: list[float]) -> list[str]:
    """What a legend says of each level.

    >>> level_names([0.5, 1.0, 10.0, 100.0, 1000.0, 10000.0])
    ['≤ ½', '½–1', '1–10', '10–100', '100–1,000', '1,000–10,000', 'inf or NaN']
    """
    said = ["½" if b == 0.5 else ulps_text(b) for b in bounds]
    between = [f"{low}–{high}" for low, high in pairwise(said)]
    return [f"≤ {said[0]}", *between, "inf or NaN"]


def level_of(errors: np.ndarray, bounds: list[float]) -> np.ndarray:
    """The level of each error; NaN counts as infinite.

    >>> level_of(np.array([0.0, 0.5, 0.7, 5.0, np.inf, np.nan]), [0.5, 1.0, 9.0]).tolist()
    [0, 0, 1, 2, 3, 3]
    """
    # A correct rounding is half an ulp up to the last bit of the division.
    return np.searchsorted(np.array(bounds) * (1 + 1e-9), np.nan_to_num(errors, nan=np.inf))


def draw(errors: np.ndarray, bounds: list[float], rows: int, columns: int) -> str:
    """The map of a tensor of `rows` by `columns` elements, with its row and column numbers."""
    down, across = errors.shape
    high, wide = _cell(down), _cell(across)
    width, height = across * wide, down * high
    labels = _labels(rows, height, across=False) + _labels(columns, width, across=True)
    size = f'width="{LEFT + width + 24:g}" height="{TOP + height + 6:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
        f'aria-label="map of the errors by row and column">'
        f'<g transform="translate({LEFT} {TOP})">{_cells(level_of(errors, bounds), wide, high)}'
        f'<rect class="frame" width="{width:g}" height="{height:g}"/>{labels}</g></svg>'
    )


def _cell(count: int) -> float:
    return min(24.0, SIDE / max(1, count))


def _cells(levels: np.ndarray, wide: float, high: float) -> str:
    """One path a level, of the runs of equal cells in each row."""
    paths: dict[int, list[str]] = {}
    for i, row in enumerate(levels):
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
            run = f"M{start * wide:g} {i * high:g}h{(stop - start) * wide:g}v{high:g}"
            paths.setdefault(int(row[start]), []).append(f"{run}h{-float(stop - start) * wide:g}z")
    return "".join(f'<path class="e{k}" d="{"".join(d)}"/>' for k, d in sorted(paths.items()))


def _labels(count: int, length: float, *, across: bool) -> str:
    """Row or column numbers beside the plot, at the cells where they begin, and the axis' name."""
    marks = min(MARKS, max(1, count), max(1, int(length // 60)))
    parts = []
    for k in range(marks):
        number, at = k * count // marks, k * count // marks / max(1, count) * length
        if across:
            parts.append(f'<text x="{at:g}" y="-{GAP}">{number}</text>')
        else:
            parts.append(f'<text x="-{GAP}" y="{at + 9:g}" class="end">{number}</text>')
    if across:
        parts.append(f'<text x="{length:g}" y="-{GAP}" class="axis end">columns</text>')
    else:
        parts.append(f'<text x="-{GAP}" y="{length:g}" class="axis end">rows</text>')
    return "".join(parts)
