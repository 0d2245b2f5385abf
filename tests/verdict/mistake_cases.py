"""Oracles at a generic point: sizes, rank and scale pairwise different, and once square."""

import numpy as np

from lora_ref.adapters import LoRA
from lora_ref.verdict.grids import Grid
from lora_ref.verdict.oracles import Rotation, attention, dora_linear, lora_linear, lora_merged


def linear_case(
    rng: np.random.Generator, grid: Grid, *, inputs=17, outputs=11, update=1.0, scale=5 / 4
):
    """LoRA with a bias, everything on the grid; the update about `update` times the base."""

    def draw(*shape: int, size: float = 1.0) -> np.ndarray:
        return grid.round(size * rng.standard_normal(shape))

    size = update * inputs**-0.5
    other = LoRA(draw(3, inputs), draw(outputs, 3, size=size), scale)
    return lora_linear(
        draw(2, 29, inputs),
        draw(outputs, inputs),
        draw(3, inputs),
        draw(outputs, 3, size=size),
        scale=scale,
        b=draw(outputs),
        dy=draw(2, 29, outputs),
        others=(other,),
    )


def oracles(grid: Grid, seed: int = 0):
    """One of each constructor, by name."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return grid.round(rng.standard_normal(shape))

    W, A, B = draw(11, 17), draw(3, 17), draw(11, 3)
    m = grid.round(np.linalg.norm(W, axis=1) * (1 + 0.2 * rng.standard_normal(11)))
    q, k, v, do = draw(2, 6, 19, 8), draw(2, 3, 19, 8), draw(2, 3, 19, 5), draw(2, 6, 19, 5)
    return {
        "linear": linear_case(rng, grid),
        "square": linear_case(rng, grid, inputs=12, outputs=12),
        "merged": lora_merged(W, A, B, scale=1.25, dW=draw(11, 17)),
        "dora": dora_linear(draw(29, 17), W, A, B, m, scale=1.25, b=draw(11), dy=draw(29, 11)),
        "dora square": dora_linear(
            draw(29, 17),
            draw(17, 17),
            A,
            draw(17, 3),
            np.abs(draw(17)) + 1,
            scale=1.25,
            dy=draw(29, 17),
            detach_norm=False,
        ),
        "attention": attention(q, k, v, causal=True, scale=0.4, do=do),
        "cross": attention(
            q, draw(2, 3, 23, 8), draw(2, 3, 23, 5), causal=True, offset=4, scale=0.4, do=do
        ),
        "rotary": attention(
            q, k, v, causal=True, scale=0.4, do=do, rotation=Rotation(np.arange(250, 269))
        ),
    }


def half_ulp_variance(oracle, grid: Grid, rest: float = 0.3):
    """Of a result rounded once, and of intermediates, `rest` unit roundoffs of its size."""
    return {
        n: (grid.ulp(t) / 2) ** 2 / 3 + (rest * grid.roundoff * size_of(t)) ** 2
        for n, t in oracle.reference().items()
    }


def as_rounded(outputs, grid: Grid, rng: np.random.Generator, rest: float = 0.3):
    """Outputs as an honest kernel would give them, with Gaussian rounding of intermediates."""
    return {
        n: grid.round(t + rest * grid.roundoff * size_of(t) * rng.standard_normal(t.shape))
        for n, t in outputs.items()
    }


def size_of(t: np.ndarray) -> float:
    return float(np.sqrt(np.mean(t * t)))
