"""Exact tests of a batch in which every token has its own adapter, or none.

Shapes:
    mine(x, W, b, A, B, s, chosen, dy) gives y, or {"y", "dx", "dA", "dB"} or a part of them
    x (T, n)   W (m, n)   b (m,)   A (E, r, n)   B (E, m, r)   s (E,)   dy (T, m)
    chosen (T,) integers: the adapter of each token, −1 for none; it goes through no `adapt`
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arrays import namespace, outer_sum, row_sum
from ..grids import Grid
from ..oracle import Oracle
from .draw import Draft, Round, exact_round
from .failure import Failure, Implementation, Test, compared, run, where
from .linear import repeatable

SCALES = (2.0, 0.5, 3.0, 4.0, 1.0)


@dataclass(frozen=True)
class MixedCase:
    """What the author claims: the grid and the shape (T, m, n, r, E)."""

    rounds: tuple[Round, ...]
    grid: Grid
    shape: tuple[int, int, int, int, int]
    seed: int

    def dense(self) -> list[Any]:
        """The arguments at a generic point, on the grid."""
        tokens, m, n, r, count = self.shape
        rng = np.random.default_rng(self.seed)
        shapes = ((tokens, n), (m, n), (m,), (count, r, n), (count, m, r), (tokens, m))
        x, W, b, A, B, dy = (self.grid.round(rng.standard_normal(shape)) for shape in shapes)
        return [x, W, b, A, B, scales_of(count), chosen_for(tokens, count, rng), dy]


def scales_of(count: int) -> np.ndarray:
    """s (E,), with neighbours different."""
    return np.resize(np.array(SCALES), count)


def chosen_for(tokens: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Every adapter and none of them, as often as each other, in random order."""
    return rng.permutation(np.arange(tokens) % (count + 1) - 1)


def exact_tokens(mine: Implementation, case: MixedCase) -> Iterator[Failure]:
    """Each token gets its own adapter's update, or the base's output where it has none."""
    for a_round in case.rounds:
        actual, due = mine(*a_round.arguments), a_round.oracle.reference()
        for failure in compared("exact_tokens", actual, due, "is not the exact result"):
            says = failure.says + _token(actual["y"], due["y"], a_round.oracle)
            yield Failure(failure.test, says, failure.where)


def others_do_not_matter(mine: Implementation, case: MixedCase) -> Iterator[Failure]:
    """Other numbers in one adapter leave every token without it as it was, bit for bit."""
    x, W, b, A, B, s, chosen, dy = case.dense()
    before = mine(x, W, b, A, B, s, chosen, dy)
    for e in range(len(A)):
        A_other, B_other, s_other = np.array(A), np.array(B), np.array(s)
        A_other[e], B_other[e], s_other[e] = 3 * A[e, ::-1], -2 * B[e, ::-1], 8 * s[e]
        after = mine(x, W, b, A_other, B_other, s_other, chosen, dy)
        rest = {"y": chosen != e, "dx": chosen != e}
        rest |= {"dA": np.arange(len(A)) != e, "dB": np.arange(len(A)) != e}
        for name in [n for n in rest if n in before]:
            keep = rest[name].reshape(-1, *(1 for _ in after[name].shape[1:]))
            new, old = np.where(keep, after[name], before[name]), before[name]
            if not np.array_equal(new, old):
                says = f"{name} changes with adapter {e} where it is not used"
                yield Failure("others_do_not_matter", says, where(name, new, old))


MIXED_TESTS: tuple[Test, ...] = (exact_tokens, others_do_not_matter, repeatable)


def mixed_batch_tests(
    mine: Callable[..., Any],
    grid: Grid,
    *,
    tokens: int = 19,
    m: int = 11,
    n: int = 17,
    r: int = 3,
    adapters: int = 4,
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    tests: tuple[Test, ...] = MIXED_TESTS,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """Every test of a batch with one adapter a token, at m ≠ n and at m = n = r."""
    failures: tuple[Failure, ...] = ()
    for shape in ((tokens, m, n, r, adapters), (tokens, m, m, m, adapters)):
        rounds = tuple(exact_round(_draft(shape), grid, seed + i) for i in range(3))
        case = MixedCase(rounds, grid, shape, seed)
        failures += run(tests, Implementation(mine, adapt), case)
    return failures


def _draft(shape: tuple[int, int, int, int, int]) -> Draft:
    tokens, m, n, r, count = shape

    def draft(draw, rng):
        b = rng.integers(1, 4, size=m).astype(float)
        inputs = {"x": draw(tokens, n), "W": draw(m, n), "b": b}
        inputs |= {"A": draw(count, r, n), "B": draw(count, m, r), "s": scales_of(count)}
        chosen, dy = chosen_for(tokens, count, rng), draw(tokens, m)
        oracle = Oracle(_mixed, inputs, {"chosen": chosen}, dy)
        return Round(oracle, (*inputs.values(), chosen, dy))

    return draft


def _mixed(
    x: Any, W: Any, b: Any, A: Any, B: Any, s: Any, *, chosen: np.ndarray
) -> tuple[Any, Callable[..., Any]]:
    """y = x Wᵀ + b + Σ_e [chosen = e] s_e (x A_eᵀ) B_eᵀ, and dy -> a gradient for each but s."""
    own = [(chosen == e).astype(float)[:, None] for e in range(A.shape[0])]
    y = x @ W.T + b
    for e, mask in enumerate(own):
        y = y + s[e] * (mask * (x @ A[e].T) @ B[e].T)

    def backward(dy):
        dx, dA, dB = dy @ W, [], []
        for e, mask in enumerate(own):
            du = s[e] * (mask * dy @ B[e])
            dx = dx + du @ A[e]
            dA.append(outer_sum(du, x))
            dB.append(s[e] * outer_sum(mask * dy, x @ A[e].T))
        xp = namespace(dy)
        return dx, outer_sum(dy, x), row_sum(dy), xp.stack(dA), xp.stack(dB), None

    return y, backward


def _token(y: np.ndarray, due: np.ndarray, oracle: Oracle) -> str:
    """Which adapter explains the first wrong token."""
    if y.shape != due.shape or np.array_equal(y, due):
        return ""
    token = int(np.flatnonzero((y != due).any(axis=1))[0])
    chosen = oracle.static["chosen"]
    for e in range(-1, len(oracle.inputs["A"])):
        other = np.array(chosen)
        other[token] = e
        made = _mixed(*oracle.inputs.values(), chosen=other)[0]
        if np.array_equal(made[token], y[token]):
            names = ["none" if i < 0 else f"adapter {i}" for i in (e, int(chosen[token]))]
            return f"; token {token} gets {names[0]} where {names[1]} is right"
    return f"; no adapter explains token {token}"
