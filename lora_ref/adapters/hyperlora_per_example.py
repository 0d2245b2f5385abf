"""HyperLoRA with a condition for each example of a batch.

Every example of a batch, a sentence or an image, has an adapter of its own, written for its own
condition. All share the frozen weight, which is why such a batch is cheap: W is read once.

Math:
    A_n, B_n = g_θ(c_n, l)
    W'_n = W + s B_n A_n
    y_n  = x_n W'_nᵀ = x_n Wᵀ + s (x_n A_nᵀ) B_nᵀ

    du_n = s dy_n B_n        dA_n = Σ du_nᵀ x_n        dB_n = s Σ dy_nᵀ u_n        u_n = x_n A_nᵀ
    dx_n = dy_n W + du_n A_n        (dθ, dc_n) from (dA_n, dB_n), dθ summed over the examples
Shapes:
    x (..., N, T, n), T rows of each example   W (m, n)   c (N, k)   A (N, r, n)   B (N, m, r)
    W' (N, m, n)   y (..., N, T, m)
Errors:
    TypeError if the condition is a bare array or no condition; ShapeError if it is not one for each
    of N examples, or not as wide as the generator asks for, or x or W do not fit.
Limits:
    An example with one row is T = 1: x (N, 1, n), not (N, n).
    The merged weight is N weights: `weight` defines, nobody ships it.
Source:
    The same map by different routes: allenai/hyper-task-descriptions, modeling/lora.py,
    batch_lora_ia3_linear, forms W'_n; SakanaAI/text-to-lora, hooks.py, add_lora_hooks, and
    Svar7769/HyperLoRA, lora_policy.py, multiply x by one factor after the other.
"""

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, Backward, namespace
from ..shapes import ShapeError, shapes
from .base import Adapter
from .generators.base import Condition, Generator, check_parts, generated


@dataclass(frozen=True, eq=False)
class HyperLoRAPerExample(Adapter):
    """W'_n = W + s B_n A_n with A_n, B_n = g_θ(c_n, layer)."""

    generator: Generator
    condition: Condition
    at: Any  # the layer, as the generator names it
    scale: float

    def __post_init__(self) -> None:
        """A generator, and a condition that it can be asked for."""
        super().__post_init__()
        check_parts("HyperLoRAPerExample", self.generator, self.condition)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W'_n = W + s B_n A_n."""
        (A, B), factors_backward = self._factors(W)
        s = self.scale

        def backward(dW):
            return factors_backward(s * (B.mT @ dW), s * (dW @ A.mT))

        return W + s * (B @ A), backward

    @shapes(x="... N T n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y_n = x_n Wᵀ + s (x_n A_nᵀ) B_nᵀ."""
        (A, B), factors_backward = self._factors(W)
        if x.shape[-3] != A.shape[0]:
            raise ShapeError(
                f"HyperLoRAPerExample.apply: x must be (..., N, T, n) with N = {A.shape[0]} from "
                f"condition, got {tuple(x.shape)}"
            )
        s = self.scale
        u = x @ A.mT  # (..., N, T, r)
        y = x @ W.T + s * (u @ B.mT)

        def backward(dy):
            du = s * (dy @ B)  # (..., N, T, r)
            dx = dy @ W + du @ A
            return dx, factors_backward(_by_example(du, x), s * _by_example(dy, u))

        return y, backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y_n = x_n W_nᵀ, with a weight for each example."""

        def backward(dy):
            return dy @ W, _by_example(dy, x)

        return x @ W.mT, backward

    def _factors(self, W: Array) -> tuple[tuple[Array, Array], Backward]:
        """A (N, r, n) and B (N, m, r) that fit W, and backward: (dA, dB) -> dθ."""
        (A, B), backward = generated(self, self.generator, self.condition, self.at)
        if A.ndim != 3:
            raise ShapeError(
                f"HyperLoRAPerExample: condition must be one for each of N examples, so that A is "
                f"(N, r, n), got an A of {tuple(A.shape)}"
            )
        if (B.shape[1], A.shape[2]) != tuple(W.shape):
            raise ShapeError(
                f"HyperLoRAPerExample: W must be (m, n) = {(B.shape[1], A.shape[2])} from "
                f"generator, got {tuple(W.shape)}"
            )
        return (A, B), backward


def _by_example(a: Array, b: Array) -> Array:
    """Σ aᵢ bᵢᵀ over the rows of each example: a (..., N, T, m), b (..., N, T, n) give (N, m, n)."""
    products = a.mT @ b
    leading = tuple(range(products.ndim - 3))
    return namespace(a, b).sum(products, axis=leading) if leading else products
