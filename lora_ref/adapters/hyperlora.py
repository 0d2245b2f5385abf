"""HyperLoRA: a hypernetwork writes the factors, for a condition and a layer.

Not A and B are trained but a generator of them, g_θ, and with it one adapter for every condition: a
task, a pair of languages, a user, a text. One generator can serve all layers of a model.

Math:
    A, B = g_θ(c, l)
    W' = W + s B A
    y  = x W'ᵀ = x Wᵀ + s (x Aᵀ) Bᵀ

    dA = s Bᵀ dW',  dB = s dW' Aᵀ, then (dθ, dc) = Jᵀ (dA, dB) with J the derivative of g at (θ, c)
Shapes:
    x (..., n)   W (m, n)   c (k,), or what the generator asks for   A (r, n)   B (m, r)
Init:
    The generator's. ΔW = 0 at the start where it writes B = 0, as `generators.pieces.Heads` does:
    A is then LoRA's, for every condition.
Errors:
    TypeError if the condition is a bare vector, which `UserEmbedding` makes one, or no condition.
    ShapeError if it is not as wide as the generator asks for, or one for each example
    (`HyperLoRAPerExample` takes those), or if what is generated does not fit W.
Limits:
    Once generated it is LoRA: `lora` gives it, to be merged, saved or served. The gradients are
    those of θ and of the condition together; that of the condition is a gradient of what it holds,
    a table of tasks or a vector.
    The adapters of several layers share θ, so their gradients add: `adapters_of` does it.
Source:
    Nothing is called HyperLoRA by common consent. `derivations/hyperlora` compares five published
    systems, which are the generators `dialect`, `basis`, `description`, `clipped` and `text`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..arrays import Array, Backward
from ..shapes import ShapeError, shapes
from ..trees import tree_map
from .base import Adapter
from .generators.base import Condition, Generator, check_parts, generated
from .lora import LoRA

C = TypeVar("C", bound=Condition)


@dataclass(frozen=True, eq=False)
class HyperLoRA(Adapter):
    """W' = W + s B A with A, B = g_θ(c, layer)."""

    generator: Generator
    condition: Condition
    at: Any  # the layer, as the generator names it
    scale: float

    def __post_init__(self) -> None:
        """A generator, and a condition that it can be asked for."""
        super().__post_init__()
        check_parts("HyperLoRA", self.generator, self.condition)

    def lora(self) -> tuple[LoRA, Backward]:
        """The adapter that is generated, and backward: dLoRA -> dθ."""
        (A, B), factors_backward = generated(self, self.generator, self.condition, self.at)
        _check_shared("HyperLoRA", A)
        return LoRA(A, B, self.scale), lambda d: factors_backward(d.A, d.B)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s B A."""
        lora, generator_backward = self.lora()
        W_merged, lora_backward = lora.weight(W)
        return W_merged, lambda dW: generator_backward(lora_backward(dW))

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + s (x Aᵀ) Bᵀ."""
        lora, generator_backward = self.lora()
        y, lora_backward = lora.apply(x, W)

        def backward(dy):
            dx, dlora = lora_backward(dy)
            return dx, generator_backward(dlora)

        return y, backward


def adapters_of(
    generator: Generator, condition: C, layers: Sequence[Any], scale: float
) -> tuple[tuple[LoRA, ...], Backward]:
    """One LoRA for each layer, and backward: their gradients in order -> (dgenerator, dcondition).

    The condition is encoded once. Gradients of θ and of the condition are sums over the layers.
    """
    if not layers:
        raise ValueError("adapters_of: layers must hold at least one layer, got none")
    check_parts("adapters_of", generator, condition)
    c, condition_backward = condition.vector()
    loras, backwards = [], []
    for layer in layers:
        (A, B), generator_backward = generator.generate(c, layer)
        _check_shared("adapters_of", A)
        loras.append(LoRA(A, B, scale))
        backwards.append(generator_backward)

    def backward(dloras):
        parts = [b(d.A, d.B) for b, d in zip(backwards, dloras, strict=True)]
        dgenerator, dc = parts[0]
        for more, dc_more in parts[1:]:
            dgenerator, dc = tree_map(lambda a, b: a + b, dgenerator, more), dc + dc_more
        return dgenerator, condition_backward(dc)

    return tuple(loras), backward


def _check_shared(owner: str, A: Array) -> None:
    if A.ndim != 2:
        raise ShapeError(
            f"{owner}: condition must be one for the whole batch, so that A is (r, n), got an A of "
            f"{tuple(A.shape)}; HyperLoRAPerExample takes one for each example"
        )
