"""Where the wrong elements of a tensor sit, in sentences that a kernel author can act on.

Limits:
    One to three sentences. A pattern is named if it explains what is wrong better than a
    coarser one, or if much of what is wrong is in it; whether it is the cause is not known.
"""

import numpy as np

from .amounts import amount, percent
from .patterns import Pattern, band, box, line_counts, run, tiles
from .places import AxisName, axis_names, describe

_SENTENCES = 3
_PATTERNS = 2  # named at most
_NOISE = 0.02  # of what is wrong may stay unexplained in silence
_PREFERRED = 0.85  # a box needs to be only so well filled as another pattern
_LISTED = 3
_SHARE = 0.15  # of what is wrong must be in lines that are named without explaining all
_DENSER = 1.5  # and so many times better filled than the place that has all


def locate(
    ratio: np.ndarray,
    axes: tuple[str, ...] | None = None,
    error: np.ndarray | None = None,
    expected: np.ndarray | None = None,
) -> tuple[str, ...]:
    """Where `ratio` (error in units of its bound) exceeds 1 or is NaN; () if nowhere.

    `axes` names the axes in the singular, as ("batch", "head", "query", "feature"). `error` is
    actual − expected: with `expected` a common factor or sign is told as well.

    >>> ratio = np.zeros((5, 7))
    >>> ratio[:, -1] = 3.0
    >>> locate(ratio)
    ('the last column: all 5 elements',)
    """
    ratio = np.asarray(ratio)
    names = axis_names(ratio.ndim, axes)
    bad = ~(ratio <= 1)
    if not bad.any():
        return ()
    told = ""
    if error is not None:
        told = amount(np.asarray(error)[bad], None if expected is None else expected[bad])
    return (*_where(bad, names)[: _SENTENCES - bool(told)], *([told] if told else []))


def _where(bad: np.ndarray, names: tuple[AxisName, ...]) -> list[str]:
    """The sentences on places."""
    total = int(np.count_nonzero(bad))
    if bad.size == 1:
        return ["its only element"]
    if total == bad.size:
        return [f"everywhere: all {total:,} elements"]
    long = [axis for axis, n in enumerate(bad.shape) if n > 1]  # an axis of size 1 says nothing
    rest = bad.reshape([bad.shape[axis] for axis in long])
    sentences: list[str] = []
    left = total
    while left > _NOISE * total and len(sentences) < _PATTERNS:
        pattern, rest = _best(rest, tuple(names[axis] for axis in long), left)
        if pattern is None:
            break
        sentences.append(str(pattern))
        left = int(np.count_nonzero(rest))
    if left > _NOISE * total or 0 < left <= _LISTED:
        sentences.append(_unexplained(rest.reshape(bad.shape), left, names, bool(sentences)))
    return sentences


def _best(
    bad: np.ndarray, names: tuple[AxisName, ...], count: int
) -> tuple[Pattern | None, np.ndarray]:
    """The pattern that fills its place best, and the wrong elements that it does not explain."""
    whole, nothing = box(bad, names), np.zeros_like(bad)
    if count > _LISTED:
        others = [p for p in (band(bad, names), tiles(bad, names), run(bad, names)) if p]
        finest = max(others, key=lambda p: p.density, default=None)
        if finest and (whole is None or _beats(finest, whole)):
            return finest, nothing
        if whole is None or whole.density < 1 / _DENSER:
            lines, rest = _densest_lines(bad, names, count)
            if lines and (whole is None or lines.density > _DENSER * whole.density):
                return lines, rest
    return whole, nothing if whole else bad


def _beats(finest: Pattern, whole: Pattern) -> bool:
    """Whether another pattern says clearly more than rows and columns do."""
    exact = finest.density == 1 > whole.density
    return exact or whole.density < _PREFERRED * finest.density


def _densest_lines(
    bad: np.ndarray, names: tuple[AxisName, ...], count: int
) -> tuple[Pattern | None, np.ndarray]:
    """Rows, columns, heads ... with far more wrong elements than the others of their axis."""
    best, chosen = 0.0, None
    for axis, n in enumerate(bad.shape):
        counts = line_counts(bad, axis)
        usual = float(np.median(counts))
        # Six standard deviations of a Poisson count, which no line of random elements reaches.
        hot = counts >= max(counts.max() / 2, usual + 6 * np.sqrt(usual + 1))
        size, inside = int(np.count_nonzero(hot)), int(counts[hot].sum())
        density = inside * n / (size * bad.size) if size else 0.0
        if density > best and size <= n / 2 and inside >= _SHARE * count:
            best, chosen = density, (axis, hot)
    if chosen is None:
        return None, bad
    axis, hot = chosen
    inside_only = bad & hot.reshape([-1 if a == axis else 1 for a in range(bad.ndim)])
    return box(inside_only, names), bad & ~inside_only


def _unexplained(bad: np.ndarray, count: int, names: tuple[AxisName, ...], others: bool) -> str:
    """What is in no pattern: a few elements one by one, many by their number."""
    places = [tuple(map(int, np.unravel_index(i, bad.shape))) for i in _first(bad)]
    listed = " and ".join([", ".join(map(str, places[:-1])), str(places[-1])][len(places) == 1 :])
    besides = "besides, " if others else ""
    if count == 1:
        return f"{besides}a single element, {listed}{_edges(places[0], bad.shape, names)}"
    if count <= _LISTED:
        return f"{besides}{count} single elements: {listed}"
    share = count / bad.size
    word = "nearly everywhere" if share > 0.9 else "widespread" if share > 0.2 else "scattered"
    return (
        f"{besides}{word}: {count:,} of {bad.size:,} elements ({percent(share)}) "
        f"in no pattern, first at {listed}"
    )


def _first(bad: np.ndarray) -> np.ndarray:
    """The flat indices of the first wrong elements in C order."""
    return np.flatnonzero(bad)[:_LISTED]


def _edges(place: tuple[int, ...], shape: tuple[int, ...], names: tuple[AxisName, ...]) -> str:
    """Whether an element is on an edge, as a clause."""
    texts = []
    for i, n, name in zip(place, shape, names, strict=True):
        if n > 1 and i in (0, n - 1):
            texts.append(describe(np.arange(n) == i, name))
    return f", in {' and '.join(texts)}" if texts else ""
