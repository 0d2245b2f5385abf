"""What the wrong rows of attention read instead, and which bug explains all of them.

A bug is named only if it explains every wrong row, and if what it would make wrong is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .failure import indices
from .march import AttentionCase, Step


@dataclass(frozen=True)
class Row:
    """A wrong row: where it is, which key is due, and what was read: (entry, key head, key)."""

    entry: int
    head: int
    query: int
    due: int
    read: tuple[int, int, int] | None


def wrong_rows(step: Step, y: np.ndarray, due: np.ndarray) -> list[Row]:
    """The wrong rows of y; queries that may attend to nothing are not looked at."""
    wrong = (y != due).any(axis=-1) & (step.answers >= 0)
    if not wrong.any():
        return []
    whose = {step.v[place].tobytes(): place for place in np.ndindex(*step.v.shape[:3])}
    return [
        Row(n, h, i, int(step.answers[n, h, i]), whose.get(np.array(y[n, h, i]).tobytes()))
        for n, h, i in np.argwhere(wrong).tolist()
    ]


def explained(case: AttentionCase, rows: Sequence[Row], looked_at: int) -> str:
    """A sentence: what the first wrong row of `looked_at` rows read, and what explains all."""
    first = next((row for row in rows if row.read), rows[0])
    what = f"key {first.read[2]} of key head {first.read[1]}" if first.read else "no one key"
    right = case.kv_head(first.head)
    text = f"query {first.query} of head {first.head} reads {what} where key {first.due} of key "
    return f"{text}head {right} is right; {_reason(case, rows, looked_at)}"


def _reason(case: AttentionCase, rows: Sequence[Row], looked_at: int) -> str:
    known = [row for row in rows if row.read]
    if not known:
        return "no wrong row is one of v: weights that do not add up to 1, or other columns of v"
    if all(row.read[0] != row.entry for row in known if row.read):
        return "another batch entry is read"
    elsewhere = [row for row in known if row.read and row.read[1] != case.kv_head(row.head)]
    if elsewhere:
        return _heads(case, rows, elsewhere)
    if len(rows) == looked_at and len(known) == looked_at:
        return _shifted(case, known)
    leaks = {(r.query, r.read[2]) for r in known if r.read and not case.allowed[r.query, r.read[2]]}
    return _leaked(case, sorted(leaks)) if leaks else _dropped(case, rows)


def _heads(case: AttentionCase, rows: Sequence[Row], elsewhere: Sequence[Row]) -> str:
    """Values of another head were read."""
    part = "v alone" if all(r.read and r.read[2] == r.due for r in elsewhere) else "k and v"
    pairs = {(row.head, row.read[1]) for row in elsewhere if row.read}
    for name, mapping in _mappings(case).items():
        moved = {(h, to) for h, to in enumerate(mapping) if to != case.kv_head(h)}
        if moved == pairs and {row.head for row in rows} == {h for h, _ in moved}:
            return f"{part}: {name} explains it where h // (H/K) is right"
    heads = sorted({h for h, _ in pairs})
    return f"{part}: query heads {heads} read another key head than h // (H/K)"


def _mappings(case: AttentionCase) -> dict[str, list[int]]:
    """Wrong ways to go from a query head to its key head."""
    heads, last = range(case.heads), case.kv_heads - 1
    return {
        "h % K": [h % case.kv_heads for h in heads],
        "key heads in reverse order": [last - case.kv_head(h) for h in heads],
        "key head 0 for all": [0 for _ in heads],
    }


def _shifted(case: AttentionCase, rows: Sequence[Row]) -> str:
    keys = case.allowed.shape[1]
    shifts = {(row.read[2] - row.due) % keys for row in rows if row.read}
    if len(shifts) == 1:
        return f"all values are {next(iter(shifts))} keys (of {keys}) further on than the keys"
    return "queries and keys do not belong together"


def _leaked(case: AttentionCase, cells: list[tuple[int, int]]) -> str:
    """Masked cells (query, key) were read."""
    if len(cells) == 1:
        return f"the one cell {cells[0]} is masked and leaks"
    seen = [np.flatnonzero(case.allowed[i]) for i, _ in cells]
    if all(key == keys[-1] + 1 for (_, key), keys in zip(cells, seen, strict=True)):
        return f"the mask is one key too long for {_queries(case, [i for i, _ in cells])}"
    if all(key == keys[0] - 1 for (_, key), keys in zip(cells, seen, strict=True)):
        return f"the window is one key too long for {_queries(case, [i for i, _ in cells])}"
    if all(key > keys[-1] for (_, key), keys in zip(cells, seen, strict=True)):
        return f"keys after a query's last one are seen, in {len(cells)} cells"
    if all(key < keys[0] for (_, key), keys in zip(cells, seen, strict=True)):
        return f"keys before the window are seen, in {len(cells)} cells"
    return f"masked cells leak: {cells[:4]}"


def _dropped(case: AttentionCase, rows: Sequence[Row]) -> str:
    """Only allowed cells were read, and not the ones that are due."""
    keys = case.allowed.shape[1]
    cells = {(row.query, row.due) for row in rows}
    dues = sorted({row.due for row in rows})
    ends = [np.flatnonzero(case.allowed[row.query]) for row in rows]
    if len(cells) == 1:
        return f"the one cell {next(iter(cells))} is allowed and dropped"
    if len(dues) == 1:
        which = {0: "the first key", keys - 1: "the last key"}.get(dues[0], f"key {dues[0]}")
        return f"{which} is dropped"
    if all(row.due == end[-1] for row, end in zip(rows, ends, strict=True)):
        return f"the mask is one key too short for {_queries(case, [i for i, _ in cells])}"
    if all(row.due == end[0] for row, end in zip(rows, ends, strict=True)):
        return f"the window is one key too short for {_queries(case, [i for i, _ in cells])}"
    if 4 * len(dues) <= keys:
        return f"the keys {dues} are dropped"
    if len({row.query for row in rows}) == 1:
        return f"query {rows[0].query} alone does not get what is its own"
    heads, moved = {row.head for row in rows}, _mappings(case)["h % K"]
    if heads == {h for h, to in enumerate(moved) if to != case.kv_head(h)}:
        return "k alone: h % K explains it where h // (H/K) is right"
    return f"queries and keys of the heads {sorted(heads)} do not belong together"


def _queries(case: AttentionCase, found: list[int]) -> str:
    """Which queries of the mask, in words: a last query that sees all keys cannot see too many."""
    queries = sorted(set(found))
    most = len(case.allowed) - 1
    return "every query" if len(queries) >= most else f"the queries {indices(queries)}"
