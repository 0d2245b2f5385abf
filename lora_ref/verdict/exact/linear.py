"""Exact tests of a linear layer with LoRA, and of its merged weight.

Shapes:
    mine(x, W, b, A, B, s, dy) gives y, or {"y", "dx", "dA", "dB", "db"} or a part of them
    merged: mine(W, A, B, s, dW) gives y = W', or {"y", "dA", "dB"}
    x (T, n)   W (m, n)   b (m,) or None   A (r, n)   B (m, r)   s a number   dy (T, m)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..grids import Grid
from ..oracles import lora_linear, lora_merged
from .draw import Draft, Round
from .failure import Failure, Implementation, Test, compared, run
from .products import ProductsCase, exact_rounds, exact_values

Shape = tuple[int, int, int, int]
# (T, m, n, r): all different; W square; all equal, where every transpose goes unnoticed otherwise.
SHAPES: tuple[Shape, ...] = ((13, 11, 17, 3), (7, 19, 19, 5), (8, 8, 8, 8))


@dataclass(frozen=True)
class LinearCase:
    """What the author claims: the grid of the numbers, the shape, a bias or none, the base."""

    rounds: tuple[Round, ...]
    grid: Grid
    shape: Shape
    bias: bool
    base: Implementation | None
    seed: int

    def dense(self) -> list[Any]:
        """x, W, b, A, B, s, dy at a generic point, on the grid."""
        tokens, m, n, r = self.shape
        rng = np.random.default_rng(self.seed)
        shapes = ((tokens, n), (m, n), (m,), (r, n), (m, r), (tokens, m))
        x, W, b, A, B, dy = (self.grid.round(rng.standard_normal(shape)) for shape in shapes)
        return [x, W, b if self.bias else None, A, B, 2.0, dy]


def update_of_zero(mine: Implementation, case: LinearCase) -> Iterator[Failure]:
    """At B = 0 neither A nor s matters: y and dx are the base's bit for bit, and dA is 0.

    With `base`, y is compared with base(x, W, b) too. Leave it out where the base's products are
    added in another order once there is an adapter: x Wᵀ + b rounded once is not x Wᵀ, rounded,
    plus b.
    """
    x, W, b, A, B, s, dy = case.dense()
    B = np.zeros_like(B)
    actual = mine(x, W, b, A, B, s, dy)
    other = mine(x, W, b, -3 * A[::-1], B, -2 * s, dy)
    expected = {**other, "dB": actual.get("dB", B)}  # dB is of x Aᵀ, which is not the base's
    yield from compared("update_of_zero", actual, expected, "depends on A or s at B = 0")
    if "dA" in actual:
        zero = {"dA": np.zeros_like(A)}
        yield from compared("update_of_zero", {"dA": actual["dA"]}, zero, "is not 0 at B = 0")
    if case.base is not None:
        base = {"y": case.base(x, W, b)["y"]}
        yield from compared("update_of_zero", {"y": actual["y"]}, base, "is not the base at B = 0")


def repeatable(mine: Implementation, case: Any) -> Iterator[Failure]:
    """Two runs agree bit for bit.

    A kernel that adds its parts with atomic operations does not pass: the order of its sums, and
    so the rounding, is up to the scheduler. It is right all the same; leave the test out then.
    """
    arguments = case.dense()
    first, second = mine(*arguments), mine(*arguments)
    yield from compared("repeatable", second, first, "differs from run to run")


def batch_invariant(mine: Implementation, case: LinearCase) -> Iterator[Failure]:
    """A token's y does not depend on how many others there are, nor on their order, bit for bit.

    A property, not a bug where it fails: matrix libraries pick the blocking, and with it the order
    of the sums, by the number of rows, also on the CPU. The exact tests see what is wrong.
    """
    x, W, b, A, B, s, dy = case.dense()
    whole = mine(x, W, b, A, B, s, dy)["y"]
    order = np.random.default_rng(case.seed).permutation(len(x))
    for name, rows in (("order", order), ("first row", slice(1)), ("first half", order[::2])):
        part = {"y": mine(x[rows], W, b, A, B, s, dy[rows])["y"]}
        says = f"depends on the other rows ({name})"
        yield from compared("batch_invariant", part, {"y": whole[rows]}, says)


LORA_LINEAR_TESTS: tuple[Test, ...] = (exact_values, update_of_zero, repeatable)
PROPERTIES: tuple[Test, ...] = (batch_invariant,)
MERGED_TESTS: tuple[Test, ...] = (exact_values,)


def lora_linear_tests(
    mine: Callable[..., Any],
    grid: Grid,
    *,
    shapes: tuple[Shape, ...] = SHAPES,
    bias: bool = True,
    base: Callable[..., Any] | None = None,
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    tests: tuple[Test, ...] = LORA_LINEAR_TESTS,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """Every test of y = x Wᵀ + s (x Aᵀ) Bᵀ + b on every shape.

    `base(x, W, b)` is the author's layer without an adapter.

    >>> from lora_ref.verdict.grids import BFLOAT16
    >>> def mine(x, W, b, A, B, s, dy):
    ...     return x @ W.T + s * (x @ A.T @ B.T) + b
    >>> lora_linear_tests(mine, BFLOAT16)
    ()
    """
    implementation = Implementation(mine, adapt)
    baseline = None if base is None else Implementation(base, adapt)
    failures: tuple[Failure, ...] = ()
    for shape in shapes:
        rounds = exact_rounds(_linear_draft(shape, bias), grid, seed)
        case = LinearCase(rounds, grid, shape, bias, baseline, seed)
        failures += run(tests, implementation, case)
    return failures


def merged_weight_tests(
    mine: Callable[..., Any],
    grid: Grid,
    *,
    shapes: tuple[Shape, ...] = SHAPES,
    adapt: Callable[[np.ndarray], Any] = np.asarray,
    seed: int = 0,
) -> tuple[Failure, ...]:
    """W' = W + s B A and its gradients on every shape."""
    failures: tuple[Failure, ...] = ()
    for shape in shapes:
        rounds = exact_rounds(_merged_draft(shape), grid, seed)
        failures += run(MERGED_TESTS, Implementation(mine, adapt), ProductsCase(rounds))
    return failures


def _linear_draft(shape: Shape, bias: bool) -> Callable[[float], Draft]:
    tokens, m, n, r = shape

    def draft(scale):
        def drawn(draw, rng):
            x, W, A, B, dy = draw(tokens, n), draw(m, n), draw(r, n), draw(m, r), draw(tokens, m)
            b = rng.integers(1, 4, size=m).astype(float) if bias else None
            oracle = lora_linear(x, W, A, B, scale=scale, b=b, dy=dy)
            return Round(oracle, (x, W, b, A, B, scale, dy))

        return drawn

    return draft


def _merged_draft(shape: Shape) -> Callable[[float], Draft]:
    _, m, n, r = shape

    def draft(scale):
        def drawn(draw, rng):
            W, A, B, dW = draw(m, n), draw(r, n), draw(m, r), draw(m, n)
            return Round(lora_merged(W, A, B, scale=scale, dW=dW), (W, A, B, scale, dW))

        return drawn

    return draft
