"""What an adapter is: a differentiable map of a frozen weight, W -> W'.

Every variant states it twice, derived independently:

    W', backward = adapter.weight(W)       the definition: dense, obvious        dW' -> dθ
    y,  backward = adapter.apply(x, W)     the algorithm: what people run        dy  -> (dx, dθ)

and `apply_merged` closes the triangle: it applies the definition. A gradient dθ has its adapter's
own type. Classes are abstract (this one) or final (every variant).
"""

import abc
from typing import Any

from ..arrays import Array, Backward
from ..layers.linear import linear
from ..shapes import bind
from ..trees import zeros_like


class Adapter(abc.ABC):
    """A differentiable map of a frozen weight. Subclasses are frozen dataclasses of arrays."""

    def __post_init__(self) -> None:
        """Check the fields' shapes, once, at construction."""
        cls = type(self)
        specs = getattr(cls, "__shapes__", {})
        named = {f"{cls.__name__}.{name}": spec for name, spec in specs.items()}
        bind(cls.__name__, {f"{cls.__name__}.{n}": getattr(self, n) for n in specs}, named)

    @abc.abstractmethod
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' and backward: dW' -> dθ."""

    @abc.abstractmethod
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The layer's output without its bias, and backward: dy -> (dx, dθ)."""

    def bias(self, b: Array) -> tuple[Array, Backward]:
        """b' and backward: db' -> dθ. Most adapters leave the bias alone."""
        return b, lambda db: zeros_like(self)

    def merge(self, W: Array) -> Array:
        """W', the weight to ship."""
        return self.weight(W)[0]

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The base layer that this adapter corrects, which is linear unless a variant says else."""
        return linear(x, W)


def apply_merged(adapter: Any, x: Array, W: Array) -> tuple[Array, Backward]:
    """`adapter.apply(x, W)` by definition: the base layer with the merged weight."""
    W_merged, weight_backward = adapter.weight(W)
    y, layer_backward = adapter.layer(x, W_merged)

    def backward(dy):
        dx, dW_merged = layer_backward(dy)
        return dx, weight_backward(dW_merged)

    return y, backward
