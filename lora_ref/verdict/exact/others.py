"""Exact tests of DoRA, of an embedding with LoRA and of LoRA on a fused projection.

Shapes:
    dora       mine(x, W, b, A, B, m, s, dy) gives y, or {"y", "dx", "dA", "dB", "dm", "db"}
    embedding  mine(ids, E, A, B, s, dy) gives y, or {"y", "dA", "dB"}
    fused      mine(x, W, factors, layout, dy) gives y, or {"y", "dx", "dA0", "dB0", "dA1", …}
    x (T, n)   W (m, n)   b, m (m,)   A (r, n)   B (m, r)   dy (T, m)   E (v, d), ids (T,) integers
    factors: one (A_i, B_i, s_i) or None for each part; layout: the rows of W of each part
Math:
    Every row of V = W + s B A has a norm that is a power of two, by W = V − s B A: a few rows of
    integers such as (3, 2, 1, 1, 1), whose norm is 4, at random places. m is a small multiple of
    it, so m / ‖V‖ is exact, and so are the gradients, with the norm held constant or not.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...adapters.embedding import EmbeddingLoRA
from ...adapters.fused_qkv import FusedLoRA, Layout
from ...adapters.lora import LoRA
from ..grids import Grid
from ..oracle import Oracle
from ..oracles import dora_linear
from .draw import Draft, NotExact, Round
from .failure import Failure, Implementation, Test, run
from .products import ProductsCase, exact_rounds, exact_values

PRODUCTS_TESTS: tuple[Test, ...] = (exact_values,)
ROWS = ((2.0,), (1.0, 1.0, 1.0, 1.0), (3.0, 2.0, 1.0, 1.0, 1.0))  # of norm 2, 2 and 4


def dora_tests(
    mine: Callable[..., Any],
    grid: Grid,
    *,
    shapes: tuple[tuple[int, int, int, int], ...] = ((7, 11, 13, 3), (9, 8, 8, 2)),
    detach_norm: bool = True,
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """DoRA at shapes (T, m, n, r), n >= 5; `detach_norm` is the gradient that is claimed.

    Through the norm no gradient is exact on bfloat16 and float16: y alone is looked at there.
    """
    failures: tuple[Failure, ...] = ()
    for shape in shapes:
        try:
            rounds = exact_rounds(_dora(shape, detach_norm), grid, seed)
        except NotExact:
            rounds = exact_rounds(_dora_value(shape), grid, seed)
        failures += run(PRODUCTS_TESTS, Implementation(mine, adapt), ProductsCase(rounds))
    return failures


def embedding_tests(
    mine: Callable[..., Any],
    grid: Grid,
    *,
    shapes: tuple[tuple[int, int, int, int], ...] = ((23, 13, 7, 3), (17, 8, 8, 8)),
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """An embedding with LoRA at shapes (T, v, d, r); some ids occur more than once."""
    return _run_all([_embedding(shape) for shape in shapes], mine, grid, adapt, seed)


def fused_tests(
    mine: Callable[..., Any],
    grid: Grid,
    layout: Layout,
    *,
    adapted: tuple[int, ...],
    tokens: int = 7,
    n: int = 12,
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """LoRA on the parts `adapted` of a projection fused as `layout` says.

    `lora_ref.adapters.block_rows` and `interleaved_rows` make layouts of q, k and v. The author's
    function gets the factors already adapted, as a tuple.
    """

    def unpacked(x: Any, W: Any, *rest: Any) -> Any:
        *flat, dy = rest
        factors = [
            None if i not in adapted else tuple(flat[3 * adapted.index(i) :][:3])
            for i in range(len(layout))
        ]
        return mine(x, W, tuple(factors), layout, dy)

    return _run_all([_fused(layout, adapted, tokens, n)], unpacked, grid, adapt, seed)


def _run_all(
    drafts: list[Callable[[float], Draft]],
    mine: Callable[..., Any],
    grid: Grid,
    adapt: Callable[[np.ndarray], Any],
    seed: int,
) -> tuple[Failure, ...]:
    cases = [ProductsCase(exact_rounds(draft, grid, seed)) for draft in drafts]
    found = [run(PRODUCTS_TESTS, Implementation(mine, adapt), case) for case in cases]
    return tuple(failure for failures in found for failure in failures)


def _dora(shape: tuple[int, int, int, int], detach_norm: bool) -> Callable[[float], Draft]:
    tokens, m, n, r = shape

    def draft(scale):
        def drawn(draw, rng):
            shapes = (tokens, n), (r, n), (m, r), (tokens, m)
            x, A, B, dy = (np.sign(draw(*shape)) for shape in shapes)
            V, norms = _rows_of_exact_norm(rng, m, n)
            W, magnitude = V - scale * (B @ A), norms * rng.choice([0.5, 1.0, 2.0], size=m)
            b = rng.integers(1, 4, size=m).astype(float)
            oracle = dora_linear(
                x, W, A, B, magnitude, scale=scale, b=b, dy=dy, detach_norm=detach_norm
            )
            return Round(oracle, (x, W, b, A, B, magnitude, scale, dy))

        return drawn

    return draft


def _dora_value(shape: tuple[int, int, int, int]) -> Callable[[float], Draft]:
    """The same without a cotangent."""

    def draft(scale):
        with_gradients = _dora(shape, detach_norm=True)(scale)

        def drawn(draw, rng):
            found = with_gradients(draw, rng)
            return replace(found, oracle=replace(found.oracle, cotangent=None))

        return drawn

    return draft


def _rows_of_exact_norm(rng: np.random.Generator, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    V = np.zeros((m, n))
    for i in range(m):
        numbers = np.array(ROWS[i % len(ROWS)])
        places = (rng.permutation(n)[: len(numbers)] + i) % n
        V[i, places] = numbers * rng.choice([-1.0, 1.0], size=len(numbers))
    return V, np.sqrt(np.sum(V * V, axis=1))


def _embedding(shape: tuple[int, int, int, int]) -> Callable[[float], Draft]:
    tokens, v, d, r = shape

    def draft(scale):
        def drawn(draw, rng):
            ids = rng.permutation(np.arange(tokens) % v)
            E, A, B, dy = draw(v, d), draw(r, v), draw(d, r), draw(tokens, d)
            inputs = {"adapter": EmbeddingLoRA(A, B, scale)}
            oracle = Oracle(_table, inputs, {"ids": ids, "E": E}, dy)
            return Round(oracle, (ids, E, A, B, scale, dy))

        return drawn

    return draft


def _fused(
    layout: Layout, adapted: tuple[int, ...], tokens: int, n: int
) -> Callable[[float], Draft]:
    sizes = [sum(len(run) for run in runs) for runs in layout]

    def draft(scale):
        def drawn(draw, rng):
            x, W, dy = draw(tokens, n), draw(sum(sizes), n), draw(tokens, sum(sizes))
            parts = tuple(
                LoRA(draw(2, n), draw(size, 2), scale * 2.0 ** -adapted.index(i))
                if i in adapted
                else None
                for i, size in enumerate(sizes)
            )
            oracle = Oracle(_projection(layout), {"x": x, "parts": parts}, {"W": W}, dy)
            flat = [t for part in parts if part for t in (part.A, part.B, part.scale)]
            return Round(oracle, (x, W, *flat, dy))

        return drawn

    return draft


def _table(adapter: Any, *, ids: Any, E: Any) -> tuple[Any, Callable[..., Any]]:
    y, backward = adapter.apply(ids, E)
    return y, lambda dy: backward(dy)[1]


def _projection(layout: Layout) -> Callable[..., tuple[Any, Callable[..., Any]]]:
    def kernel(x: Any, parts: Any, *, W: Any) -> tuple[Any, Callable[..., Any]]:
        y, backward = FusedLoRA(parts, layout).apply(x, W)

        def renamed(dy):
            dx, dadapter = backward(dy)
            return dx, dadapter.parts

        return y, renamed

    return kernel
