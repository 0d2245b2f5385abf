"""Exact tests of attention: which query reads which key of which head, under which scale.

Shapes:
    mine(q, k, v, do) gives o, or {"y": o, "dq", "dk", "dv"} or a part of them
    q (N, H, T, d)   k (N, K, S, d)   v (N, K, S, e)   do (N, H, T, e); N differs between calls
    The author's function applies the mask and the scale itself: the case says which it claims.
Limits:
    The march cannot see the scale, `score_scale` sees it to about 5 % only. Rotary embedding
    must be left out, or its positions all be 0, which turns nothing. dq and dk are 0 where
    attention is one-hot: their size is seen at equal scores only, and to a few roundings of the
    scale unless it is a power of four.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..grids import Grid
from .failure import Failure, Implementation, Test, compared, indices, run, where
from .linear import repeatable
from .march import AXES, AttentionCase, expected, march
from .reading import Row, explained, wrong_rows
from .score_scale import score_scale
from .uniform import equal_scores
from .uniform_gradients import equal_score_gradients


def attention_march(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """Every cell of the scores matters once, and each output is the one row of v that is due."""
    rows: list[Row] = []
    looked_at, first = 0, ""
    for step in march(case):
        y, due = mine(step.q, step.k, step.v, step.do)["y"], expected(case, step)["y"]
        if y.shape != due.shape:
            yield from compared("attention_march", {"y": y}, {"y": due}, "")
            return
        y = np.where((step.answers >= 0)[..., None], y, due)
        wrong = wrong_rows(step, y, due)
        first = where("y", y, due, AXES) if wrong and not rows else first
        rows += wrong
        looked_at += int(np.count_nonzero(step.answers >= 0))
    if rows:
        yield Failure("attention_march", explained(case, rows, looked_at), first)


def attention_gradients(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """dv sums do over the queries that read a key, over all heads of its group; dq = dk = 0.

    Left out where a query may attend to nothing: libraries disagree about such a query.
    """
    if not case.allowed.any(axis=1).all():
        return
    for step in march(case):
        actual, due = mine(step.q, step.k, step.v, step.do), expected(case, step)
        gradients = {
            name: np.where(np.abs(t) < case.grid.smallest, 0.0, t)
            for name, t in actual.items()
            if name != "y"
        }
        if not gradients:
            return
        yield from compared("attention_gradients", gradients, due, "is not where do must go", AXES)


def future(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """Other numbers in masked keys and values change no output and no dq, bit for bit."""
    q, k, v, do = case.dense()
    whole = mine(q, k, v, do)
    rng = np.random.default_rng(case.seed + 1)
    for key in _edges(case.allowed):
        other = [np.array(t) for t in (k, v)]
        hidden = ~case.allowed[:, key:].any(axis=1) & case.allowed.any(axis=1)
        if not hidden.any():
            continue
        for t in other:
            t[:, :, key:] = case.grid.round(4 * rng.standard_normal(t[:, :, key:].shape))
        changed = mine(q, *other, do)
        for name in ("y", "dq"):
            if name in whole and not np.array_equal(
                whole[name][:, :, hidden], changed[name][:, :, hidden]
            ):
                says = f"{name} of queries {indices(np.flatnonzero(hidden))} changes with the keys"
                says = f"{says} from {key} on, which they may not attend to"
                found = changed[name][:, :, hidden], whole[name][:, :, hidden]
                yield Failure("future", says, where(name, *found, AXES))


def gradients_keep_to_the_mask(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """Keys that no query with do ≠ 0 may attend to get dk = dv = 0; queries with do = 0, dq = 0."""
    if not case.allowed.any(axis=1).all():
        return
    q, k, v, do = case.dense()
    for cut in sorted({1, len(case.allowed) // 2, len(case.allowed) - 1}):
        early = np.array(do)
        early[:, :, cut:] = 0
        actual = mine(q, k, v, early)
        unread = ~case.allowed[:cut].any(axis=0)
        nothing = {"dk": unread, "dv": unread, "dq": np.arange(len(case.allowed)) >= cut}
        for name in [n for n in nothing if n in actual]:
            part = actual[name][:, :, nothing[name]]
            says = f"is not 0 where only queries before {cut} have a gradient"
            zero = {name: np.zeros_like(part)}
            yield from compared("gradients_keep_to_the_mask", {name: part}, zero, says, AXES)


def batch_invariant(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """A batch entry's output does not depend on the others, bit for bit.

    A property, not a bug where it fails: a library may split the work by its size.
    """
    arguments = case.dense()
    whole = mine(*arguments)["y"]
    for n in range(len(whole)):
        alone = {"y": mine(*(t[n : n + 1] for t in arguments))["y"]}
        says = f"of batch entry {n} depends on the others"
        yield from compared("batch_invariant", alone, {"y": whole[n : n + 1]}, says)


ATTENTION_TESTS: tuple[Test, ...] = (
    attention_march,
    attention_gradients,
    equal_scores,
    equal_score_gradients,
    score_scale,
    future,
    gradients_keep_to_the_mask,
    repeatable,
)
PROPERTIES: tuple[Test, ...] = (batch_invariant,)


def attention_tests(
    mine: Callable[..., Any],
    grid: Grid,
    mask: np.ndarray,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    value_dim: int | None = None,
    scale: float | None = None,
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    tests: tuple[Test, ...] = ATTENTION_TESTS,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """Every test of attention under the mask (T, S), True where a query may attend to a key.

    Choose lengths above the tile size that are no multiple of it. The scale is 1/√d unless given.

    >>> from lora_ref.layers import causal_mask, grouped_query_attention
    >>> from lora_ref.verdict.grids import FLOAT32
    >>> mask = causal_mask(5, 5, np.ones(1))
    >>> def mine(q, k, v, do):
    ...     return grouped_query_attention(q, k, v, mask=mask)[0]
    >>> attention_tests(mine, FLOAT32, mask, heads=4, kv_heads=2, head_dim=8)
    ()
    """
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"attention_tests: kv_heads must divide heads = {heads}, got {kv_heads}")
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(
            f"attention_tests: mask must be boolean (T, S), got {mask.dtype} {mask.shape}"
        )
    c = head_dim**-0.5 if scale is None else scale
    if not c > 0:
        raise ValueError(f"attention_tests: scale must be positive, got {scale}")
    sizes = heads, kv_heads, head_dim, value_dim or head_dim
    return run(tests, Implementation(mine, adapt), AttentionCase(grid, *sizes, mask, c, seed))


def _edges(allowed: np.ndarray) -> list[int]:
    """Keys to cut at: the first that some query may not see while it sees those before."""
    ends = {int(np.flatnonzero(row)[-1]) + 1 for row in allowed if row.any()}
    edges = sorted(end for end in ends if end < allowed.shape[1])
    return edges[:: max(1, len(edges) // 6)]
