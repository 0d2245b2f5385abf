"""Examples of generators and of conditions, at a generic point, for one condition or for several.

    make = lambda rng: hyperlora_example(MLPGenerator, rng)

gives a case of a HyperLoRA around any generator of the library; `examples=4` one of a
HyperLoRAPerExample with four conditions. Sizes are pairwise different, and `square` makes them
equal.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..adapters.generators import (
    Affine,
    Basis,
    BasisGenerator,
    ClippedGenerator,
    ComponentGenerator,
    Condition,
    DescriptionGenerator,
    DialectGenerator,
    Generator,
    Heads,
    LanguagePair,
    LinearGenerator,
    MLPGenerator,
    Network,
    Norm,
    ReferenceTokens,
    TaskId,
    TextEmbedding,
    TextGenerator,
    UserEmbedding,
)
from ..adapters.hyperlora import HyperLoRA
from ..adapters.hyperlora_per_example import HyperLoRAPerExample
from .examples import LEADING, SCALE, Case

Rng = np.random.Generator
LAYERS = 3
LAYER = 1
WIDTH = 6  # of a condition's vector


def hyperlora_example(
    cls: type[Generator], rng: Rng, square: int | None = None, examples: int | None = None
) -> Case:
    """(adapter, (x, W)) with a generator of class `cls` and a vector as its condition."""
    generator, c, layer = generator_example(cls, rng, square, examples)
    return around(generator, UserEmbedding(c), layer, rng, square)


def around(
    generator: Generator, condition: Condition, layer: Any, rng: Rng, square: int | None = None
) -> Case:
    """(adapter, (x, W)) with this generator and this condition."""
    m, n, _ = _sizes(square)
    lead = generator.generate(condition.vector()[0], layer)[0][0].shape[:-2]
    cls = HyperLoRAPerExample if lead else HyperLoRA
    x = rng.standard_normal((2, *lead, 3, n) if lead else (*LEADING, n))
    return Case(cls(generator, condition, layer, SCALE), (x, rng.standard_normal((m, n))))


def generator_example(
    cls: type[Generator], rng: Rng, square: int | None = None, examples: int | None = None
) -> tuple[Any, np.ndarray, Any]:
    """(generator, c, layer)."""
    lead = () if examples is None else (examples,)
    return GENERATORS[cls](rng, square, lead)


def condition_examples(rng: Rng, examples: int | None = None) -> dict[str, Condition]:
    """Every kind of condition, with a vector of WIDTH numbers; one that repeats is among them."""
    several = None if examples is None else tuple(i % 2 + 1 for i in range(examples))
    one: Any = 2 if several is None else several
    other: Any = 0 if several is None else tuple(i % 3 for i in range(len(several)))
    lead = () if examples is None else (examples,)
    half = WIDTH // 2
    text = TextEmbedding(rng.standard_normal((*lead, 5)), _affine(rng, WIDTH, 5), _norm(rng, WIDTH))
    return {
        "task": TaskId(rng.standard_normal((4, WIDTH)), one),
        "pair": LanguagePair(rng.standard_normal((4, half)), one, other),
        "user": UserEmbedding(rng.standard_normal((*lead, WIDTH))),
        "text": text,
    }


def reference_tokens(rng: Rng) -> ReferenceTokens:
    """Tokens of five reference images, for a BasisGenerator."""
    return ReferenceTokens(rng.standard_normal((5, 2 * LAYERS, WIDTH)))


def _sizes(square: int | None) -> tuple[int, int, int]:
    """m, n, r."""
    return (square, square, square) if square else (7, 11, 3)


def _affine(rng: Rng, m: int, k: int) -> Affine:
    return Affine(rng.standard_normal((m, k)) / k**0.5, rng.standard_normal(m))


def _norm(rng: Rng, n: int) -> Norm:
    return Norm(rng.standard_normal(n), rng.standard_normal(n))


def _network(rng: Rng, m: int, h: int, k: int, *, biases: bool = True) -> Network:
    first, second = _affine(rng, h, k), _affine(rng, m, h)
    return Network(first, second) if biases else Network(Affine(first.V), Affine(second.V))


def _heads(rng: Rng, m: int, n: int, rank: int, width: int) -> Heads:
    P, Q = rng.standard_normal((rank, n, width)), rng.standard_normal((m, rank, width))
    biases = rng.standard_normal((rank, n)), rng.standard_normal((m, rank))
    return Heads(P / width**0.5, biases[0], Q / width**0.5, biases[1])


def _linear(rng: Rng, square: int | None, lead: tuple[int, ...]) -> tuple[Any, np.ndarray, Any]:
    m, n, rank = _sizes(square)
    E, heads = rng.standard_normal((LAYERS, 4)), _heads(rng, m, n, rank, WIDTH + 4)
    return LinearGenerator(E, heads), rng.standard_normal((*lead, WIDTH)), LAYER


def _mlp(rng: Rng, square: int | None, lead: tuple[int, ...]) -> tuple[Any, np.ndarray, Any]:
    m, n, rank = _sizes(square)
    E, hidden = rng.standard_normal((LAYERS, 4)), _affine(rng, 5, WIDTH + 4)
    generator = MLPGenerator(E, hidden, _heads(rng, m, n, rank, 5))
    return generator, rng.standard_normal((*lead, WIDTH)), LAYER


def _components(rng: Rng, square: int | None, lead: tuple[int, ...]) -> tuple[Any, np.ndarray, Any]:
    m, n, rank = _sizes(square)
    E_A, E_B = rng.standard_normal((LAYERS, rank, 4)), rng.standard_normal((LAYERS, rank, 4))
    networks = _network(rng, n, 5, WIDTH + 4), _network(rng, m, 8, WIDTH + 4)
    return ComponentGenerator(E_A, E_B, *networks), rng.standard_normal((*lead, WIDTH)), LAYER


def _dialect(rng: Rng, square: int | None, lead: tuple[int, ...]) -> tuple[Any, np.ndarray, Any]:
    m, n, rank = _sizes(square)
    down, up = (_network(rng, side * rank, 8, WIDTH + 1) for side in (n, m))
    return DialectGenerator(down, up, rank), rng.standard_normal((*lead, WIDTH)), LAYER


def _basis(rng: Rng, square: int | None, lead: tuple[int, ...]) -> tuple[Any, np.ndarray, Any]:
    """Layers of different shapes; the one that is asked for has the example's."""
    m, n, rank = _sizes(square)
    shapes = [(m, n) if layer == LAYER else (n, m) for layer in range(LAYERS)]
    bases = [
        Basis(rng.standard_normal((WIDTH, b, rank)), rng.standard_normal((WIDTH, rank, a)))
        for a, b in shapes
    ]
    return BasisGenerator(tuple(bases)), rng.standard_normal((*lead, 2 * LAYERS, WIDTH)), LAYER


def _description(
    rng: Rng, square: int | None, lead: tuple[int, ...]
) -> tuple[Any, np.ndarray, Any]:
    m, n, rank = _sizes(square)
    networks = (_network(rng, side, 8, WIDTH, biases=False) for side in (n, m))
    c = rng.standard_normal((*lead, LAYERS, 2 * rank, WIDTH))
    return DescriptionGenerator(*networks), c, LAYER


def _clipped(rng: Rng, square: int | None, lead: tuple[int, ...]) -> tuple[Any, np.ndarray, Any]:
    """A bound that about a third of the numbers reach."""
    inner, c, layer = _linear(rng, square, lead)
    return ClippedGenerator(inner, scale=0.75, bound=1.0), c, layer


def _text(rng: Rng, square: int | None, lead: tuple[int, ...]) -> tuple[Any, np.ndarray, Any]:
    """Two kinds of modules, the second of which has the example's shape."""
    m, n, rank = _sizes(square)
    k = WIDTH + 4 + 3
    maps = (_affine(rng, 5, k), None, _affine(rng, k, 5), None)
    blocks = [
        (_norm(rng, k), _affine(rng, h, k), None, _affine(rng, out, h), None)
        for h, out in ((5, k), (8, k), (5, 9))
    ]
    heads = _heads(rng, n, m, rank, 9), _heads(rng, m, n, rank, 9)
    tables = rng.standard_normal((LAYERS, 4)), rng.standard_normal((2, 3))
    generator = TextGenerator(*tables, _norm(rng, 4), _norm(rng, 3), (maps, *blocks), heads)
    return generator, rng.standard_normal((*lead, WIDTH)), (2, 1)


GENERATORS: dict[type[Generator], Callable[..., tuple[Any, np.ndarray, Any]]] = {
    LinearGenerator: _linear,
    MLPGenerator: _mlp,
    ComponentGenerator: _components,
    DialectGenerator: _dialect,
    BasisGenerator: _basis,
    DescriptionGenerator: _description,
    ClippedGenerator: _clipped,
    TextGenerator: _text,
}
