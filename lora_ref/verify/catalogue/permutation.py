"""Which permutation took the rows (or columns) of an update to where they are found?

Two ways to a candidate. Known ones: the permutations that conversions between frameworks make,
from the head geometry of the model's configuration. Found ones: the rows of the estimated factor
L̂ are matched with those of s L, singly and by blocks of every plausible size, so that noise in
single rows does not matter.
"""

from collections.abc import Iterator

import numpy as np

from ...verdict.mistakes import names
from ..measure import row_blocks
from .hypothesis import Suspect

Named = tuple[str, np.ndarray]


def row_permutations(suspect: Suspect, found: np.ndarray, wanted: np.ndarray) -> Iterator[Named]:
    """Orders with found[i] ≈ wanted[order[i]]: the known ones, then those that matching finds."""
    yield from _unique(_known(suspect, len(wanted)), _found(found, wanted))


def column_permutations(suspect: Suspect, found: np.ndarray, wanted: np.ndarray) -> Iterator[Named]:
    """The same for columns, which are not called gate and up, or q, k and v."""
    for name, order in row_permutations(suspect, found, wanted):
        yield name.replace(" (gate and up)", "").replace("rows", "columns"), order


def _unique(*sources: Iterator[Named]) -> Iterator[Named]:
    seen = set()
    for source in sources:
        for name, order in source:
            key = order.tobytes()
            if key not in seen and not np.array_equal(order, np.arange(len(order))):
                seen.add(key)
                yield name, order


def _known(suspect: Suspect, size: int) -> Iterator[Named]:
    rows = np.arange(size)
    if size % 2 == 0:
        yield names.HALVES, np.roll(rows, size // 2)
        yield "even and odd rows apart", rows.reshape(-1, 2).T.reshape(-1)
        yield "halves interleaved", rows.reshape(2, -1).T.reshape(-1)
    if size % 3 == 0:
        third = rows.reshape(3, -1)
        for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            name = "".join("qkv"[i] for i in order)
            yield f"blocks q, k, v in the order {name}", third[list(order)].reshape(-1)
    yield "reversed", rows[::-1].copy()
    heads = suspect.around.number("num_attention_heads", "n_head", "n_heads")
    if heads is None:
        return
    kv_heads = suspect.around.number("num_key_value_heads") or heads
    for count in dict.fromkeys((heads, kv_heads, heads + 2 * kv_heads)):
        if size % count == 0:
            yield from _by_head(rows, count)
    if size % (heads + 2 * kv_heads) == 0:
        yield from _fused(rows, heads, kv_heads)


def _by_head(rows: np.ndarray, heads: int) -> Iterator[Named]:
    d = len(rows) // heads
    by_head = rows.reshape(heads, d)
    yield f"{heads} heads reversed", by_head[::-1].reshape(-1)
    yield f"{heads} heads: dimension slowest", by_head.T.reshape(-1)
    yield f"{heads} heads: dimension read slowest", rows.reshape(d, heads).T.reshape(-1)
    if d % 2 == 0:
        halves = by_head.reshape(heads, 2, d // 2)
        pairs = by_head.reshape(heads, d // 2, 2)
        yield f"rotary halves to pairs in {heads} heads", halves.transpose(0, 2, 1).reshape(-1)
        yield f"rotary pairs to halves in {heads} heads", pairs.transpose(0, 2, 1).reshape(-1)


def _fused(rows: np.ndarray, heads: int, kv_heads: int) -> Iterator[Named]:
    """Between [q; k; v] and, for each group, [its q heads; k; v]."""
    d, group = len(rows) // (heads + 2 * kv_heads), heads // kv_heads
    q, k, v = np.split(rows, [heads * d, (heads + kv_heads) * d])
    parts = (q.reshape(kv_heads, group * d), k.reshape(kv_heads, d), v.reshape(kv_heads, d))
    interleaved = np.concatenate(parts, axis=1).reshape(-1)
    yield "q, k, v blocks read as interleaved by group", interleaved
    yield "q, k, v interleaved by group read as blocks", np.argsort(interleaved)
    for name, order in (("q, v, k", (q, v, k)), ("k, q, v", (k, q, v)), ("v, k, q", (v, k, q))):
        yield f"blocks in the order {name}", np.concatenate(order)


def _found(found: np.ndarray, wanted: np.ndarray) -> Iterator[Named]:
    """Matches rows of `found` with rows of `wanted`: by blocks of each size, then singly."""
    size = len(wanted)
    blocks = [b for b in range(size // 2, 1, -1) if size % b == 0 and size // b <= MOST_BLOCKS]
    for b in blocks:
        order = _match(found.reshape(size // b, -1), wanted.reshape(size // b, -1))
        if order is not None:
            rows = (order[:, None] * b + np.arange(b)).reshape(-1)
            yield f"blocks of {b} in the order {_short(order)}", rows
    if size <= MOST_ROWS:
        order = _match(found, wanted)
        if order is not None:
            yield f"rows in the order {_short(order)}", order


def gathers(found: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Blocks of `found` as blocks of `wanted` or zero: what, the row taken, whether there is one.

    Only what is no permutation; those are `row_permutations`.
    """
    size = len(wanted)
    for b in range(size // 2, 1, -1):
        if size % b or size // b > MOST_GATHERED:
            continue
        blocks, sources = found.reshape(size // b, -1), wanted.reshape(size // b, -1)
        distance = _distance(blocks, sources)
        order, there = distance.argmin(axis=1), distance.min(axis=1) < 0
        if len(np.unique(order[there])) < len(order) and there.any():
            taken = ", ".join(str(o) if t else "none" for o, t in zip(order, there, strict=True))
            rows = (order[:, None] * b + np.arange(b)).reshape(-1)
            yield f"blocks of {b} rows taken from {taken}", rows, np.repeat(there, b)


MOST_GATHERED = 32
MOST_BLOCKS = 512
MOST_ROWS = 16384


def _match(found: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """order with found[i] ≈ wanted[order[i]], if the nearest ones make a permutation."""
    blocks = row_blocks((len(found), len(wanted)))
    order = np.concatenate([_distance(found[rows], wanted).argmin(axis=1) for rows in blocks])
    if len(np.unique(order)) == len(order):
        return order
    distance = _distance(found, wanted) if len(order) <= MOST_BLOCKS else np.array(np.inf)
    if not np.isfinite(distance).all():
        return None
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(distance)[1]


def _distance(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The squared distance of each row from each, but for a term of the row found."""
    return (wanted**2).sum(axis=1) - 2 * found @ wanted.T


def _short(order: np.ndarray) -> str:
    shown = ", ".join(map(str, order[:8]))
    return f"{shown}, …" if len(order) > 8 else shown
