"""A linear layer whose input is data: its weight may be trained, its input wants no gradient.

Math:
    yᵀ = W xᵀ          dW = Σ dyᵢ xᵢᵀ
Shapes:
    x (N, n)   W (m, n)   y (N, m), in the memory order of yᵀ
Limits:
    In columns, because that is the cheaper order for few rows: OpenBLAS 0.3.31 takes half the
    time for W xᵀ as for x Wᵀ at N = 2, and four fifths at N = 64. Adding y to an array in rows
    walks one of the two across memory.
Source:
    `layers.linear`, of which this is the part that a first layer needs; tested against it.
"""

from ..arrays import Array, Backward
from ..shapes import shapes


@shapes(x="N n", W="m n")
def linear_of_data(x: Array, W: Array) -> tuple[Array, Backward]:
    """y = x Wᵀ, and backward: dy -> dW; dy is an array or a `Product`."""

    def backward(dy):
        return dy.T @ x

    return (W @ x.T).T, backward
