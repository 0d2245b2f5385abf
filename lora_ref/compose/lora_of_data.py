"""LoRA on a first layer: the input is data, and the gradients are those of the factors alone.

In LoRA's backward the costliest product by far is dy W, a part of dx. Where x is data nobody
wants dx, and what is left are products with thin matrices. They suit a dy that is itself a
product, such as `factored_attention` returns: (dz k) B = dz (k B) never forms it.

Math:
    yᵀ = W xᵀ + B (s A xᵀ)        dA = s Bᵀ dyᵀ x        dB = s dyᵀ x Aᵀ
Shapes:
    x (N, n)   W (m, n)   A (r, n)   B (m, r)   y (N, m), in the memory order of yᵀ
Limits:
    In columns for the reason that `linear_of_data` gives.
Source:
    `LoRA.apply`, of which this is the part that a first layer needs; tested against it.
"""

from ..adapters.lora import LoRA
from ..arrays import Array, Backward, namespace, reuse
from ..layers.linear_of_data import times_data
from ..shapes import shapes
from ..trees import with_leaves


@shapes(x="N n", W="m n")
def lora_of_data(x: Array, W: Array, adapter: LoRA) -> tuple[Array, Backward]:
    """`adapter.apply(x, W)`, and backward: dy -> dθ; dy is an array or a `Product`."""
    A, B, s = adapter.A, adapter.B, adapter.scale
    u = s * (A @ x.T)  # (r, N)
    y = reuse(namespace(x).add, times_data(W, x), _thin_product(B, u))  # (m, N)

    def backward(dy):
        du = s * (dy @ B)  # (N, r)
        return with_leaves(adapter, A=du.T @ x, B=dy.T @ u.T)

    return y.T, backward


def _thin_product(B: Array, u: Array) -> Array:
    """B u; at rank one by broadcasting, for which BLAS takes two to six times as long."""
    return B @ u if u.shape[0] > 1 else B * u
