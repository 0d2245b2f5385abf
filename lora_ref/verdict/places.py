"""Sets of indices along one axis in words: "the last column", "every 2nd row from row 1".

Limits:
    A set of many runs has no such words, and is counted: "17 of 120 rows (3, 8, 9, 20, …)".
"""

from dataclasses import dataclass

import numpy as np

_FEW = 6  # runs that are listed one by one
_PERIODS = 512  # candidates that are tried
BLOCKS = (256, 128, 64, 32, 16)  # the usual sizes of a kernel's tiles


@dataclass(frozen=True)
class AxisName:
    """What an index along an axis is called, singular and plural; `suffix` follows the noun."""

    one: str
    many: str
    suffix: str = ""


def axis_names(ndim: int, axes: tuple[str, ...] | None) -> tuple[AxisName, ...]:
    """The names that the caller gave, or rows and columns and numbered leading axes.

    >>> [name.many for name in axis_names(2, ("batch", "query"))]
    ['batches', 'queries']
    """
    if axes is not None and len(axes) != ndim:
        raise ValueError(f"locate: axes must name {ndim} axes, those of ratio, got {axes}")
    if axes is not None:
        return tuple(AxisName(name, _plural(name)) for name in axes)
    if ndim < 2:
        return (AxisName("element", "elements"),) * ndim
    leading = (AxisName("index", "indices", f" of axis {a}") for a in range(ndim - 2))
    return (*leading, AxisName("row", "rows"), AxisName("column", "columns"))


def _plural(name: str) -> str:
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"


def describe(mask: np.ndarray, name: AxisName) -> str:
    """The indices at which `mask` holds, in words; empty if it holds everywhere.

    >>> describe(np.array([0, 0, 0, 1, 1], dtype=bool), AxisName("row", "rows"))
    'the last 2 rows (3 to 4)'
    """
    n = len(mask)
    runs = runs_of(mask)
    count = int(np.count_nonzero(mask))
    if count == n:
        return ""
    if n - count <= len(runs) and n - count <= 2 and count >= 4:
        ends = {0: "the first", n - 1: "the last"}
        gaps = [ends.get(int(i), str(i)) for i in np.flatnonzero(~mask)]
        return f"every {name.one}{name.suffix} but {' and '.join(gaps)}"
    if len(runs) == 1:
        return _run(*runs[0], n, name)
    if text := _periodic(mask, name):
        return text
    if len(runs) <= _FEW:
        spans = [str(a) if a == b else f"{a} to {b}" for a, b in runs]
        return f"{name.many} {', '.join(spans[:-1])} and {spans[-1]}{name.suffix}"
    listed = ", ".join(str(i) for i in np.flatnonzero(mask)[:4])
    return f"{count:,} of {n:,} {name.many}{name.suffix} ({listed}, …)"


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """The first and the last index of each run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _place(i: int, n: int, name: AxisName) -> str:
    if i in (0, n - 1):
        return f"the {'first' if i == 0 else 'last'} {name.one}{name.suffix}"
    return f"{name.one} {i}{name.suffix}"


def _run(first: int, last: int, n: int, name: AxisName) -> str:
    """A single run, with the block that it fills if it is one that kernels use."""
    count = last - first + 1
    if count == 1:
        return _place(first, n, name)
    span = f"{first} to {last}"
    if last == n - 1:
        tail = next((b for b in BLOCKS if n % b and first == n // b * b), 0)
        after = f": all past the last whole block of {tail}" if tail else ""
        return f"the last {count:,} {name.many}{name.suffix} ({span}{after})"
    if first == 0:
        return f"the first {count:,} {name.many}{name.suffix} ({span})"
    block = next((b for b in BLOCKS if first % b == 0 and count == b), 0)
    return f"{name.many} {span}{name.suffix}{f' (one block of {block})' if block else ''}"


def _periodic(mask: np.ndarray, name: AxisName) -> str:
    """A set that repeats along the axis at least three times; empty if it does not."""
    n = len(mask)
    # The least period is the distance of the first member to another one.
    first = int(np.argmax(mask))
    distances = np.flatnonzero(mask[first + 1 : first + 1 + n // 3]) + 1
    for period in (int(d) for d in distances[:_PERIODS]):
        later, earlier = mask[period:], mask[:-period]
        start = slice(0, 256)  # a glance settles it for most
        if not (np.array_equal(later[start], earlier[start]) and np.array_equal(later, earlier)):
            continue
        places = np.flatnonzero(mask[:period])
        if len(places) == 1:
            return (
                f"every {ordinal(period)} {name.one}{name.suffix} from {name.one} {int(places[0])}"
            )
        if int(places[-1] - places[0]) == len(places) - 1:
            span = f"{int(places[0])} to {int(places[-1])}"
            return f"{name.many} {span} of every {period}{name.suffix}"
        listed = ", ".join(str(int(i)) for i in places[:_FEW])
        more = ", …" if len(places) > _FEW else ""
        return f"{name.many} {listed}{more} of every {period}{name.suffix}"
    return ""


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th ..."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(n % 10 if n % 100 not in (11, 12, 13) else 0, "th")
    return f"{n}{ending}"
