"""Gradients of attention with equal scores, which are not 0 as those of one-hot attention are.

Math:
    Each row of q and of k holds one ±1, q in one half of the columns and k in the other, so all
    scores are 0. do is 2^j, or −2^j, once in a row, at the queries that may attend to 2^j keys and
    0 at all others; v is ±1. Then p = 2^−j, dp, D = ⟨dp, p⟩ and w = p ∘ (dp − D) are exact, and so
    are w k, wᵀ q and pᵀ do, wherever they are rounded to the grid: the kernel's own text,
    evaluated by `counted`, proves it. Due are dq = c w k, dk = c wᵀ q and dv = pᵀ do.
    So that other queries have 2^j keys as well, keys are put out of reach by one more column, the
    marker, where q is 1 and they are so negative that exp underflows; dk is not looked at there.
Errors:
    With a the sum of the absolute values of all products in an element, admitted is c a e, where
        1 + e = (1 + 16 w) (1 + u)^r.
    w: kernels that recompute weights take exp(−log 2^j) for 2^−j. With log and exp to 4 ulps and
    two roundings in between, in units u₃₂ of float32, each weight is off by at most 16 (j + 1) u₃₂;
    two are in a term, and n terms are summed: w = (32 (j + 1) + n) u₃₂. A rounding to the grid,
    where the exact number lies, takes x no further from x than that number is, so it doubles w at
    most; o, w, dq or dk, and the sum over a group's heads are four such. Weights from a quotient
    have no error at all, and then neither has the result.
    r: 0 if c is a power of four, as √c is one of two then. Else the longest way has r = 6
    roundings: √c held on the grid twice, its products with k and with dq, dq stored, the sum over
    heads. c in one place has fewer. dv has r = 0 always.
Limits:
    Sums must stay below 2^precision quanta, so that rows of q and k are thinned out where they
    are many; a query takes part where it may attend to 2^j keys, to the first 2^j of a stretch as
    long as the longest row of the mask, or to the last of one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ...layers.attention import grouped_query_attention
from ..oracle import Oracle
from .addresses import UNDERFLOW
from .counted import Counted, counted
from .draw import DENSITIES
from .failure import Failure, Implementation, compared
from .march import AXES, BATCH, AttentionCase

GRADIENTS = ("dq", "dk", "dv")
_SCALE_ROUNDINGS = 6
_STORES = 4


@dataclass(frozen=True, eq=False)
class _Entry:
    """One batch entry: the arguments, what is due, and what it may be off."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    do: np.ndarray
    due: dict[str, np.ndarray]
    error: dict[str, np.ndarray]


def equal_score_gradients(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """At equal scores dq = c w k, dk = c wᵀ q and dv = pᵀ do, exactly but for roundings of c.

    Left out where a query may attend to nothing: libraries disagree about such a query.
    """
    if not case.allowed.any(axis=1).all():
        return
    found = _entries(case)
    while entries := tuple(islice(found, BATCH)):
        names = ("q", "k", "v", "do")
        actual = mine(*(np.stack([getattr(e, name) for e in entries]) for name in names))
        for name in [n for n in GRADIENTS if n in actual]:
            yield from _judged(name, actual[name], entries, case)


def _judged(
    name: str, t: np.ndarray, entries: tuple[_Entry, ...], case: AttentionCase
) -> Iterator[Failure]:
    """One gradient of some entries, compared where it is looked at and off by too much."""
    due = np.stack([e.due[name] for e in entries])
    error = np.stack([e.error[name] for e in entries])
    says = "is not exact at equal scores"
    if t.shape == due.shape:
        off = np.abs(t - due)
        wrong = ~(off <= error) & ~(off < case.grid.smallest)  # float64 holds smaller weights
        says += _factor(t, due, error, case.scale)
        t = np.where(wrong, t, due)
    yield from compared("equal_score_gradients", {name: t}, {name: due}, says, AXES)


def _entries(case: AttentionCase) -> Iterator[_Entry]:
    """For each j, with all keys in reach, and with the first or the last 2^j of each stretch."""
    if case.head_dim < 3:
        return
    longest = int(case.allowed.sum(axis=1).max())
    keys = np.arange(case.allowed.shape[1])
    orders = [0 * keys]
    if case.grid.holds(np.array(_depth(case))):
        orders += [keys % longest, longest - 1 - keys % longest]
    for turn, order in enumerate(orders):
        for j in range(1, int(np.log2(longest)) + 1):
            near = order < 2**j
            rows = np.flatnonzero((case.allowed & near).sum(axis=1) == 2**j)
            if len(rows):
                yield from _entry(case, rows, near, j, turn)


def _entry(
    case: AttentionCase, rows: np.ndarray, near: np.ndarray, j: int, turn: int
) -> Iterator[_Entry]:
    """The densest entry that is exact, or none."""
    for density in (1.0, *DENSITIES):
        rng = np.random.default_rng([case.seed, j, turn])
        columns = rng.permutation(case.head_dim)
        marker, *halves = columns[0], columns[1::2], columns[2::2]
        of_q, of_k = halves[:: (-1) ** (j + turn)]
        (queries, keys), group = case.allowed.shape, case.heads // case.kv_heads
        q = _one_in_a_row(rng, (case.heads, queries, case.head_dim), of_q, rows, density)
        k = _one_in_a_row(rng, (case.kv_heads, keys, case.head_dim), of_k, keys - 1, density)
        v = rng.choice([-1.0, 1.0], size=(case.kv_heads, keys, case.value_dim))
        do = np.zeros((case.heads, queries, case.value_dim))
        some = _one_in_a_row(rng, do.shape, np.arange(case.value_dim), rows, 1.0)
        do[:, rows] = 2.0**j * some[:, rows]
        inputs = {"q": q[:, rows], "k": k, "v": v}
        static = {"mask": (case.allowed & near)[rows], "scale": 1.0}
        oracle = Oracle(grouped_query_attention, inputs, static, do[:, rows])
        found: dict[str, Counted] = oracle.outputs(counted)
        least = min(t.q for t in found.values()) * min(case.scale, 1.0)
        exact = max(t.worst for t in found.values()) <= 2.0**case.grid.precision
        if exact and least >= 2.0**case.grid.emin:
            due, error = _due(case, found, rows, j, group * len(rows))
            q[..., marker], k[:, ~near, marker] = 1.0, -_depth(case)
            error["dk"][..., marker] = np.inf
            yield _Entry(q, k, v, do, due, error)
            return


def _one_in_a_row(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    columns: np.ndarray,
    always: np.ndarray | int,
    density: float,
) -> np.ndarray:
    """±1 in one of the columns of some rows, the last of `always` among them."""
    t = np.zeros(shape)
    column = rng.choice(columns, size=(*shape[:-1], 1))
    kept = rng.random((*shape[:-1], 1)) < density
    kept[:, np.max(always)] = True
    np.put_along_axis(t, column, kept * rng.choice([-1.0, 1.0], size=column.shape), -1)
    return t


def _due(
    case: AttentionCase, found: dict[str, Counted], rows: np.ndarray, j: int, readers: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The gradients, and the errors that the module's text admits."""
    terms = 2 * 2**j + readers
    weights = (32 * (j + 1) + terms) * 2.0 ** -max(24, case.grid.precision)
    stored = 2**_STORES * weights
    power_of_four = np.frexp(np.sqrt(case.scale))[0] == 0.5
    roundings = 0 if power_of_four else _SCALE_ROUNDINGS
    scaled = (1 + stored) * (1 + case.grid.roundoff) ** roundings - 1
    c, due, error = case.scale, {}, {}
    for name, factor, e in (("dq", c, scaled), ("dk", c, scaled), ("dv", 1.0, stored)):
        v, a = factor * found[name].v, factor * e * found[name].a
        due[name], error[name] = v, a
    whole = np.zeros((2, case.heads, len(case.allowed), case.head_dim))
    whole[0][:, rows], whole[1][:, rows] = due["dq"], error["dq"]
    due["dq"], error["dq"] = whole
    return due, error


def _depth(case: AttentionCase) -> float:
    """A power of two that puts a key out of reach."""
    return float(2.0 ** np.ceil(np.log2(UNDERFLOW / case.scale)))


def _factor(t: np.ndarray, due: np.ndarray, error: np.ndarray, c: float) -> str:
    """The wrong scale that explains all numbers, as a clause."""
    usual = {"no scale": 1 / c, "the scale applied twice": c}
    with np.errstate(invalid="ignore"):
        for name, factor in usual.items():
            if not np.all(np.abs(t - due) <= error) and np.all(
                np.abs(t - factor * due) <= factor * error
            ):
                return f": {name}"
    return ""
