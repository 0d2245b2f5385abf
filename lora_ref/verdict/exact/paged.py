"""The march over a paged cache: keys and values in pages, and a table that says which.

Shapes:
    mine(q, k_pages, v_pages, table, lengths) gives o
    q (N, H, T, d)   k_pages (P, block, K, d)   v_pages (P, block, K, d)   o (N, H, T, d)
    table (N, M) and lengths (N,) integers, which go through no `adapt`: key j of sequence n is in
    slot j mod block of page table[n, ⌊j / block⌋], and is valid if j < lengths[n].
    The T queries are the last of their sequence: query i sees the keys 0 … lengths[n] − T + i.
Math:
    As in `march`. Pages are in random order. Slots that hold no key, in the last page of each
    sequence and in the pages that the rest of the table points to, hold decoys: keys that would
    win with every query, with values of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...layers.attention import causal_mask
from ..grids import Grid
from .addresses import KeySet, code_for
from .failure import Failure, Implementation, Test, run, where
from .march import AXES, values


@dataclass(frozen=True, eq=False)
class PagedCase:
    """What the author claims: the grid, the heads, the page size, each sequence's length."""

    grid: Grid
    heads: int
    kv_heads: int
    head_dim: int
    block: int
    lengths: np.ndarray
    queries: int
    scale: float
    seed: int


@dataclass(frozen=True, eq=False)
class PagedStep:
    """The arguments of the author's function, o, and whose key each slot holds: −1 nobody's."""

    arguments: tuple[np.ndarray, ...]
    o: np.ndarray
    owner: np.ndarray  # (P, block, 2): sequence and position


def paged_march(mine: Implementation, case: PagedCase) -> Iterator[Failure]:
    """Every key of every sequence is asked for once by each head, and no decoy is read."""
    rng = np.random.default_rng(case.seed)
    for turn in range(int(case.lengths.max())):
        step = _step(case, turn, rng)
        y = mine(*step.arguments)["y"]
        if y.shape != step.o.shape:
            says = f"y must have the shape {step.o.shape}, got {y.shape}"
            yield Failure("paged_march", says, "y")
        elif not np.array_equal(y, step.o):
            yield Failure("paged_march", _read(case, step, y), where("y", y, step.o, AXES))


PAGED_TESTS: tuple[Test, ...] = (paged_march,)


def paged_attention_tests(
    mine: Callable[..., Any],
    grid: Grid,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block: int,
    lengths: tuple[int, ...],
    queries: int = 1,
    scale: float | None = None,
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """The march over pages of `block` keys; give lengths that do not all fill their last page."""
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(
            f"paged_attention_tests: kv_heads must divide heads = {heads}, got {kv_heads}"
        )
    if not lengths or min(lengths) < queries:
        raise ValueError(
            f"paged_attention_tests: lengths must be at least queries = {queries}, got {lengths}"
        )
    c = head_dim**-0.5 if scale is None else scale
    sizes = heads, kv_heads, head_dim, block
    case = PagedCase(grid, *sizes, np.array(lengths), queries, c, seed)
    return run(PAGED_TESTS, Implementation(mine, adapt), case)


def _step(case: PagedCase, turn: int, rng: np.random.Generator) -> PagedStep:
    """One round: pages of decoys, into which each sequence's keys are written."""
    pages = -(-case.lengths // case.block)
    order = rng.permutation(int(pages.sum()) + 2)  # two pages are nobody's
    table = rng.choice(order[:2], size=(len(pages), int(pages.max()) + 1))
    slots = (len(order), case.block, case.kv_heads, case.head_dim)
    k, v = np.zeros(slots), values(rng, slots)
    owner = np.full((*slots[:2], 2), -1)
    q = np.zeros((len(pages), case.heads, case.queries, case.head_dim))
    o = np.zeros_like(q)
    columns = [rng.permutation(case.head_dim) for _ in range(case.kv_heads)]
    for head, places in enumerate(columns):
        k[:, :, head, places[-1]] = -1.0  # a decoy: more than 0 with every query
    ends = 2 + np.cumsum(pages)
    for n, length in enumerate(case.lengths):
        table[n, : pages[n]] = order[ends[n] - pages[n] : ends[n]]
        place = table[n, np.arange(length) // case.block], np.arange(length) % case.block
        owner[place] = np.stack([np.full(length, n), np.arange(length)], axis=1)
        for head in range(case.kv_heads):
            keys = _keys(case, int(length), columns[head], rng)
            k[*place, head] = keys.keys()
            _ask(case, keys, turn, head, q[n], o[n], v[*place, head])
    return PagedStep((q, k, v, table, case.lengths.copy()), o, owner)


def _keys(case: PagedCase, length: int, columns: np.ndarray, rng: np.random.Generator) -> KeySet:
    """A sequence's addresses; all sequences share the columns, and so the decoys."""
    code = code_for(int(case.lengths.max()), case.head_dim, case.scale, case.grid)
    return replace(KeySet.draw(code, length, case.head_dim, rng), columns=columns)


def _ask(
    case: PagedCase, keys: KeySet, turn: int, head: int, q: np.ndarray, o: np.ndarray, v: np.ndarray
) -> None:
    """Writes the queries of one key head's group into q (H, T, d), and the answers into o."""
    length, group = len(v), case.heads // case.kv_heads
    allowed = causal_mask(case.queries, length, v, offset=length - case.queries)
    for h in range(head * group, (head + 1) * group):
        targets = (np.arange(case.queries) + h + turn) % length
        q[h], answers = keys.queries(targets, allowed)
        o[h] = v[answers]


def _read(case: PagedCase, step: PagedStep, y: np.ndarray) -> str:
    """What the first wrong query read instead."""
    n, h, i = (int(place) for place in np.argwhere((y != step.o).any(axis=-1))[0])
    head = h // (case.heads // case.kv_heads)
    v = step.arguments[2]
    due = np.argwhere((v[:, :, head] == step.o[n, h, i]).all(axis=-1))[0]
    text = f"query {i} of head {h} of sequence {n} must read key {step.owner[tuple(due)][1]}, in "
    text += f"page {due[0]} slot {due[1]} of key head {head}, and reads "
    found = np.argwhere((v == y[n, h, i]).all(axis=-1))
    if not len(found):
        return text + "no one key: this one is not among those that it looks at"
    page, slot, other = (int(place) for place in found[0])
    text += f"page {page} slot {slot} of key head {other}"
    whose, position = step.owner[page, slot]
    if whose < 0:
        return text + ", which holds no key: beyond the length, or a page of nobody's"
    return text + f", which is key {position} of sequence {whose}"
