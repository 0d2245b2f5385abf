"""Linear layers: the map that every adapter corrects.

Math:
    linear:   y = x Wᵀ          dx = dy W     dW = Σ dyᵢ xᵢᵀ
    affine:   y = x Wᵀ + b      db = Σ dyᵢ
    adapted_linear: y = adapter.apply(x, W) + adapter.bias(b), gradients for x and the adapter only;
        without an adapter y = x Wᵀ + b, without a bias the first term alone
Shapes:
    x (..., n)   W (m, n)   b (m,)   y (..., m)
Source:
    The layout (out, in) is that of PyTorch 2.13, torch.nn.functional.linear.
"""

from typing import Any

from ..arrays import Array, Backward, outer_sum, row_sum
from ..shapes import shapes
from ..trees import tree_map


@shapes(x="... n", W="m n")
def linear(x: Array, W: Array) -> tuple[Array, Backward]:
    """y = x Wᵀ."""

    def backward(dy):
        return dy @ W, outer_sum(dy, x)

    return x @ W.T, backward


@shapes(x="... n", W="m n", b="m")
def affine(x: Array, W: Array, b: Array) -> tuple[Array, Backward]:
    """y = x Wᵀ + b."""

    def backward(dy):
        return dy @ W, outer_sum(dy, x), row_sum(dy)

    return x @ W.T + b, backward


def adapted_linear(
    x: Array, W: Array, adapter: Any = None, b: Array | None = None
) -> tuple[Array, Backward]:
    """A layer with a base weight, an adapter and a bias: where the three meet.

    W and b are frozen, so backward: dy -> (dx, dadapter), and dadapter is None without an adapter.
    """
    if adapter is None:
        return _frozen(x, W, b)
    u, apply_backward = adapter.apply(x, W)
    if b is None:
        return u, apply_backward
    b_adapted, bias_backward = adapter.bias(b)

    def backward(dy):
        dx, dadapter = apply_backward(dy)
        dbias = bias_backward(row_sum(dy))
        return dx, tree_map(lambda a, c: a + c, dadapter, dbias)

    return u + b_adapted, backward


def _frozen(x: Array, W: Array, b: Array | None) -> tuple[Array, Backward]:
    y = linear(x, W)[0] if b is None else affine(x, W, b)[0]
    return y, lambda dy: (dy @ W, None)
