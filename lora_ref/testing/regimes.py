"""Regimes: what the numbers of a test problem are like, since that decides what a test can see.

A regime draws all arrays of a problem from a random generator, and rounds them to a grid, so that
they are the very numbers that a kernel of that precision is given:

    case = TRAINED.linear(np.random.default_rng(0), T=4, n=64, m=32, r=8, scale=2.0, grid=BFLOAT16)
    case["x"], case["W"], case["b"], case["A"], case["B"], case["magnitude"], case["dy"]

BALANCED          N(0, 1), base and update of the same size
UNIFORM           everything U(0, 1): all sums grow, nothing cancels
HEAVY_TAILED      Student's t with 3 degrees of freedom
OUTLIER_CHANNELS  one channel in 64 of the activations is 30 times the others
TRAINED, TINY     the update is 4 % and 0.2 % of the base weight
PEAKY             attention scores with a standard deviation of 8: weights near one-hot
CANCELLING        pairs of products that cancel to 1 %: results far below their terms
LARGE, SMALL      activations, values and cotangents times 10^12 and 10^-12

Math:
    W ~ N(0, 1/n) and A ~ N(0, 1/n); B such that s B A has `update` times the spread of W:
        σ(B) = update / (|s| √r)
Shapes:
    x (T, n)   W and dW (m, n)   b (m,)   A (r, n)   B (m, r)   magnitude (m,)   dy (T, m)
    q (*batch, H, T, d)   k (*batch, K, S, d)   v (*batch, K, S, e)   do (*batch, H, T, e)
Limits:
    On a grid of narrow range (float16, float8) `size` gives way, so that no input overflows or
    vanishes and a product of two stays in range.
Source:
    UNIFORM: the inputs of vLLM's and punica's kernel tests (torch.rand); 4 % and 0.2 % are
    trained adapters after a long and a short run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..verdict.grids import FLOAT64, Grid

Rng = np.random.Generator
Shape = tuple[int, ...]
Pair = tuple[np.ndarray, np.ndarray]


def normal(rng: Rng, shape: Shape) -> np.ndarray:
    """N(0, 1)."""
    return np.asarray(rng.standard_normal(shape))


def uniform(rng: Rng, shape: Shape) -> np.ndarray:
    """U(0, 1)."""
    return np.asarray(rng.random(shape))


def heavy_tailed(rng: Rng, shape: Shape) -> np.ndarray:
    """Student's t with 3 degrees of freedom, at variance 1."""
    return np.asarray(rng.standard_t(3, shape)) / 3**0.5


def outlier_channels(rng: Rng, shape: Shape) -> np.ndarray:
    """N(0, 1) with one index in 64 of the last axis, and at least one, 30 times as large."""
    t = normal(rng, shape)
    channels = rng.permutation(shape[-1])[: max(1, shape[-1] // 64)]
    t[..., channels] *= 30.0
    return t


def independent(rng: Rng, left: np.ndarray, right: np.ndarray) -> Pair:
    """Both factors as they were drawn."""
    return left, right


def cancelling(rng: Rng, left: np.ndarray, right: np.ndarray) -> Pair:
    """Factors of a product over their last axis whose terms cancel in pairs, to 1 %."""
    left, right = left.copy(), right.copy()
    even = slice(0, left.shape[-1] // 2 * 2, 2)
    left[..., 1::2] = left[..., even]
    near = 1 + 0.01 * rng.standard_normal(right[..., even].shape)
    right[..., 1::2] = -right[..., even] * near
    return left, right


@dataclass(frozen=True)
class Regime:
    """How the arrays of a problem are drawn. `repr` is its name in this module."""

    name: str
    activations: Callable[[Rng, Shape], np.ndarray] = normal
    weights: Callable[[Rng, Shape], np.ndarray] = normal
    align: Callable[[Rng, np.ndarray, np.ndarray], Pair] = independent
    update: float = 1.0
    spread: float = 1.0  # the standard deviation of attention scores
    size: float = 1.0

    def __repr__(self) -> str:
        return self.name

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.name)  # Hypothesis spells a dataclass out otherwise

    def linear(
        self, rng: Rng, *, T: int, n: int, m: int, r: int, scale: float, grid: Grid = FLOAT64
    ) -> dict[str, np.ndarray]:
        """x, W, b, A, B, DoRA's magnitude and dy of an adapted linear layer, on the grid."""
        size = self._size_on(grid)
        x, W = self.align(rng, self.activations(rng, (T, n)), self.weights(rng, (m, n)) * n**-0.5)
        _, A = self.align(rng, x, self.weights(rng, (r, n)) * n**-0.5)
        B = self.weights(rng, (m, r)) * self.update / (abs(scale) or 1.0) / r**0.5
        norms = np.linalg.norm(W + scale * (B @ A), axis=1)
        drawn = {
            "x": x * size,
            "W": W,
            "b": self.weights(rng, (m,)) * size,
            "A": A,
            "B": B,
            "magnitude": norms * (1 + 0.1 * rng.random(m)),
            "dy": self.activations(rng, (T, m)) * size,
        }
        return {name: grid.round(t) for name, t in drawn.items()}

    def merge(
        self, rng: Rng, *, n: int, m: int, r: int, scale: float, grid: Grid = FLOAT64
    ) -> dict[str, np.ndarray]:
        """W, A, B and the gradient dW of the merged weight, on the grid."""
        drawn = self.linear(rng, T=1, n=n, m=m, r=r, scale=scale, grid=grid)
        dW = grid.round(self.activations(rng, (m, n)) * self._size_on(grid))
        return {**{name: drawn[name] for name in ("W", "A", "B")}, "dW": dW}

    def attention(
        self,
        rng: Rng,
        *,
        T: int,
        S: int,
        d: int,
        e: int | None = None,
        heads: int = 1,
        kv_heads: int = 1,
        batch: Shape = (),
        grid: Grid = FLOAT64,
    ) -> dict[str, np.ndarray]:
        """q, k, v and do of grouped attention; scores at scale 1/√d have the spread."""
        size = self._size_on(grid)
        width = d if e is None else e
        keys = self.align(
            rng,
            self.activations(rng, (*batch, kv_heads, S, d)),
            self.activations(rng, (*batch, heads, T, d)),
        )
        drawn = {
            "q": keys[1] * self.spread,
            "k": keys[0],
            "v": self.activations(rng, (*batch, kv_heads, S, width)) * size,
            "do": self.activations(rng, (*batch, heads, T, width)) * size,
        }
        return {name: grid.round(t) for name, t in drawn.items()}

    def _size_on(self, grid: Grid) -> float:
        """`size`, within the square roots of the grid's range."""
        return min(max(self.size, 2.0 ** (grid.emin // 2)), grid.largest**0.5)

    def with_update(self, update: float) -> "Regime":
        """The same with another size of the update, and a name that says so."""
        return replace(self, name=f"{self.name}.with_update({update})", update=update)


BALANCED = Regime("BALANCED")
UNIFORM = Regime("UNIFORM", activations=uniform, weights=uniform)
HEAVY_TAILED = Regime("HEAVY_TAILED", activations=heavy_tailed, weights=heavy_tailed)
OUTLIER_CHANNELS = Regime("OUTLIER_CHANNELS", activations=outlier_channels)
TRAINED = Regime("TRAINED", update=0.04)
TINY = Regime("TINY", update=0.002)
PEAKY = Regime("PEAKY", spread=8.0)
CANCELLING = Regime("CANCELLING", align=cancelling)
LARGE = Regime("LARGE", size=1e12)
SMALL = Regime("SMALL", size=1e-12)

ANYWHERE = (BALANCED, UNIFORM, HEAVY_TAILED, OUTLIER_CHANNELS, CANCELLING, LARGE, SMALL)
LINEAR_REGIMES = (*ANYWHERE, TRAINED, TINY)
ATTENTION_REGIMES = (*ANYWHERE, PEAKY)
REGIMES = (*ANYWHERE, TRAINED, TINY, PEAKY)
