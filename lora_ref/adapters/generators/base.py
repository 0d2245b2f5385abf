"""The contract of a generator, (θ, c, layer) -> (A, B), and of the condition that gives it c.

    (A, B), backward = generator.generate(c, layer)      backward: (dA, dB) -> (dθ, dc)
    c, backward      = condition.vector()                backward: dc -> dcondition

Both are frozen dataclasses of what is trained, and a gradient has its owner's own type. A layer is
what a generator takes for one: a number, or a pair of numbers. The leading axes of c are examples,
and A and B have the same ones: c (k,) gives A (r, n), B (m, r), one adapter for a whole batch;
c (N, k) gives A (N, r, n), B (N, m, r), one adapter for each of N examples.

One generator serves many layers. Its gradient is the sum of theirs, which nothing here adds up in
secret: each call returns its own part, and `lora_ref.adapters.hyperlora.adapters_of` adds.
"""

import abc
from typing import Any

from ...arrays import Array, Backward
from ...shapes import ShapeError, bind
from ...trees import with_leaves


class Parameters:
    """A frozen dataclass of arrays, whose shapes are checked at construction."""

    def __post_init__(self) -> None:
        """Check the fields' shapes, once."""
        cls = type(self)
        specs = getattr(cls, "__shapes__", {})
        named = {f"{cls.__name__}.{name}": spec for name, spec in specs.items()}
        bind(cls.__name__, {f"{cls.__name__}.{n}": getattr(self, n) for n in specs}, named)


class Condition(Parameters, abc.ABC):
    """What an adapter is generated for: a task, a pair of languages, a user, a text."""

    @abc.abstractmethod
    def vector(self) -> tuple[Array, Backward]:
        """c (..., k), and backward: dc -> dcondition."""


class Generator(Parameters, abc.ABC):
    """A map from a condition's vector and a layer to the factors of a LoRA."""

    @abc.abstractmethod
    def generate(self, c: Array, layer: Any) -> tuple[tuple[Array, Array], Backward]:
        """A (..., r, n) and B (..., m, r), and backward: (dA, dB) -> (dθ, dc)."""


def check_parts(owner: str, generator: Generator, condition: Condition) -> None:
    """Refuse what is no generator and no condition: a bare vector is none yet."""
    if not isinstance(generator, Generator):
        raise TypeError(f"{owner}: generator must be a Generator, got {type(generator).__name__}")
    if not isinstance(condition, Condition):
        raise TypeError(
            f"{owner}: condition must be a Condition, such as UserEmbedding(c) of a vector c, "
            f"got {type(condition).__name__}"
        )


def check_width(owner: str, c: Array, inputs: int, beside: int) -> None:
    """Refuse a c (..., k) that does not fill `inputs` with what stands `beside` it."""
    if c.shape[-1] != inputs - beside:
        raise ShapeError(
            f"{owner}: condition must be (..., {inputs - beside}), the {inputs} inputs of the "
            f"generator but {beside} of the layer, got {tuple(c.shape)}"
        )


def generated(
    owner: Any, generator: Generator, condition: Condition, layer: Any
) -> tuple[tuple[Array, Array], Backward]:
    """(A, B) of an adapter that holds a generator and a condition, and backward to its own type."""
    c, condition_backward = condition.vector()
    factors, generator_backward = generator.generate(c, layer)

    def backward(dA, dB):
        dgenerator, dc = generator_backward(dA, dB)
        return with_leaves(owner, generator=dgenerator, condition=condition_backward(dc))

    return factors, backward
