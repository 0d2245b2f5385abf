"""Feed-forward layers over a frozen base, with an adapter on any of their projections.

Math:
    mlp:        y = f(x Uᵀ) Dᵀ
    gated_mlp:  y = (f(x Gᵀ) ∘ (x Uᵀ)) Dᵀ         SwiGLU with f = silu, GeGLU with f = gelu
    each product by its adapter, if it has one, and its bias
Shapes:
    x (..., n)   G, U (h, n)   D (n, h)   y (..., n)
Source:
    Vaswani et al. 2017, arXiv:1706.03762, section 3.3, equation (2); Shazeer 2020,
    arXiv:2002.05202, equations (5) and (6). Names are those of Llama in transformers, gate_proj,
    up_proj and down_proj; where one matrix holds gate and up, split it first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays import Array, Backward
from .activations import silu
from .linear import adapted_linear

Activation = Callable[[Array], tuple[Array, Backward]]


@dataclass(frozen=True, eq=False)
class UpDown:
    """One thing for each projection of an MLP: a weight, a bias, an adapter, or None."""

    up: Any = None
    down: Any = None


@dataclass(frozen=True, eq=False)
class GateUpDown:
    """One thing for each projection of a gated MLP: a weight, a bias, an adapter, or None."""

    gate: Any = None
    up: Any = None
    down: Any = None


NO_BIASES = UpDown()
NO_GATED_BIASES = GateUpDown()


def mlp(
    x: Array,
    adapters: UpDown,
    *,
    weights: UpDown,
    activation: Activation,
    biases: UpDown = NO_BIASES,
) -> tuple[Array, Backward]:
    """Two matrices and an activation; backward: dy -> (dx, dadapters). The base is frozen."""
    u, up_backward = adapted_linear(x, weights.up, adapters.up, biases.up)
    a, activation_backward = activation(u)
    y, down_backward = adapted_linear(a, weights.down, adapters.down, biases.down)

    def backward(dy):
        da, ddown = down_backward(dy)
        dx, dup = up_backward(activation_backward(da))
        return dx, UpDown(dup, ddown)

    return y, backward


def gated_mlp(
    x: Array,
    adapters: GateUpDown,
    *,
    weights: GateUpDown,
    activation: Activation = silu,
    biases: GateUpDown = NO_GATED_BIASES,
) -> tuple[Array, Backward]:
    """Three matrices, one path gating the other; backward: dy -> (dx, dadapters)."""
    g, gate_backward = adapted_linear(x, weights.gate, adapters.gate, biases.gate)
    u, up_backward = adapted_linear(x, weights.up, adapters.up, biases.up)
    a, activation_backward = activation(g)
    y, down_backward = adapted_linear(a * u, weights.down, adapters.down, biases.down)

    def backward(dy):
        dh, ddown = down_backward(dy)
        dx_gate, dgate = gate_backward(activation_backward(dh * u))
        dx_up, dup = up_backward(dh * a)
        return dx_gate + dx_up, GateUpDown(dgate, dup, ddown)

    return y, backward
