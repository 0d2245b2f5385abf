"""The march: every query of every head asks for every key in turn, and gets a row of v.

Math:
    In round ρ query i of head h asks for the key t = (i + h + ρ) mod S. After S rounds each cell
    (h, i, t) of the scores was the one that mattered: if it is allowed, o is the row t of v, and
    if it is masked, o is the row of the key that `addresses` names instead, and not that of t.
    Rows of v tell batch entry, head and key: ±1 … ±127 at random, all different.
    do has one ±1 in a row, so ⟨do, v⟩ is exact; p is one-hot, so dv sums the rows of do whose
    query reads the key, and dq = dk = 0, since dp − D is 0 where p is 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..grids import Grid
from .addresses import Code, KeySet, code_for, one_best

AXES = ("batch", "head", "query", "feature")
BATCH = 4  # rounds in one call, along the batch axis


@dataclass(frozen=True, eq=False)
class AttentionCase:
    """What the author claims: the grid, the heads, the mask (T, S) and the scale c."""

    grid: Grid
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    allowed: np.ndarray
    scale: float
    seed: int = 0

    @property
    def code(self) -> Code:
        """The code of this case's addresses."""
        return code_for(self.allowed.shape[1], self.head_dim, self.scale, self.grid)

    def kv_head(self, head: int) -> int:
        """⌊h / (H/K)⌋."""
        return head // (self.heads // self.kv_heads)

    def dense(self) -> list[Any]:
        """q, k, v, do at a generic point, on the grid."""
        (queries, keys), rng = self.allowed.shape, np.random.default_rng(self.seed)
        shapes = (
            (2, self.heads, queries, self.head_dim),
            (2, self.kv_heads, keys, self.head_dim),
            (2, self.kv_heads, keys, self.value_dim),
            (2, self.heads, queries, self.value_dim),
        )
        return [self.grid.round(rng.standard_normal(shape)) for shape in shapes]


@dataclass(frozen=True, eq=False)
class Step:
    """Some rounds: the arguments of the author's function, and which key must answer (N, H, T)."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    do: np.ndarray
    targets: np.ndarray
    answers: np.ndarray


def march(case: AttentionCase) -> Iterator[Step]:
    """S rounds, `BATCH` of them in a step, the last step filled up."""
    rng = np.random.default_rng(case.seed)
    for first in range(0, case.allowed.shape[1], BATCH):
        entries = [_entry(case, first + i, rng) for i in range(BATCH)]
        yield Step(*(np.stack(parts) for parts in zip(*entries, strict=True)))


def _entry(case: AttentionCase, turn: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One round: q, k, v, do, targets and answers without the batch axis."""
    queries, keys = case.allowed.shape
    sets = [KeySet.draw(case.code, keys, case.head_dim, rng) for _ in range(case.kv_heads)]
    k = np.stack([s.keys() for s in sets])
    targets = (np.arange(queries) + np.arange(case.heads)[:, None] + turn) % keys
    asked = [sets[case.kv_head(h)].queries(targets[h], case.allowed) for h in range(case.heads)]
    q, answers = (np.stack(parts) for parts in zip(*asked, strict=True))
    for h in range(case.heads):
        scores = q[h] @ k[case.kv_head(h)].T
        if not one_best(scores, case.allowed, answers[h], case.code.unit):
            raise RuntimeError(f"march: head {h} has no one best key; this is a bug of lora_ref")
    v = values(rng, (case.kv_heads, keys, case.value_dim))
    do = _cotangent(rng, (case.heads, queries, case.value_dim))
    readers = max(np.bincount(row[row >= 0], minlength=1).max() for row in answers)
    if readers * (case.heads // case.kv_heads) > 2**case.grid.precision:
        raise ValueError(f"march: {readers} queries of a head read one key; give fewer queries")
    return q, k, v, do, targets, answers


def values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """±1 … ±127, which every grid from bfloat16 up holds; never 0."""
    return rng.integers(1, 128, size=shape) * rng.choice([-1.0, 1.0], size=shape)


def _cotangent(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One ±1 in a row."""
    do = np.zeros(shape)
    column = rng.integers(0, shape[-1], size=shape[:-1])
    np.put_along_axis(do, column[..., None], rng.choice([-1.0, 1.0], size=(*shape[:-1], 1)), -1)
    return do


def expected(case: AttentionCase, step: Step) -> dict[str, np.ndarray]:
    """y and the gradients, exactly; rows of y that may attend to nothing are 0."""
    group = case.heads // case.kv_heads
    y, dv = np.zeros(step.do.shape), np.zeros(step.v.shape)
    for place in np.argwhere(step.answers >= 0):
        n, h, i = place
        key = (n, h // group, step.answers[n, h, i])
        y[n, h, i] = step.v[key]
        dv[key] += step.do[n, h, i]
    return {"y": y, "dq": np.zeros_like(step.q), "dk": np.zeros_like(step.k), "dv": dv}
