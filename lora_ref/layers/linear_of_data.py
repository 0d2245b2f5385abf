"""A linear layer whose input is data: its weight may be trained, its input wants no gradient.

Math:
    yᵀ = W xᵀ          dW = Σ dyᵢ xᵢᵀ
Shapes:
    x (N, n)   W (m, n)   y (N, m), in the memory order of yᵀ
Limits:
    In columns, because that is the cheaper order for few rows: OpenBLAS 0.3.31 takes half the
    time for W xᵀ as for x Wᵀ at N = 2, and four fifths at N = 64. Adding y to an array in rows
    walks one of the two across memory. For two or three rows even that is bound by packing W, and
    `times_data` goes over W once, in blocks that stay in cache.
Source:
    `layers.linear`, of which this is the part that a first layer needs; tested against it.
"""

from ..arrays import Array, Backward, namespace
from ..shapes import shapes

FEW = 3  # rows up to which matrix-vector products win
LARGE = 1 << 19  # elements of W from which it does not stay in cache
BLOCK = 1 << 18  # elements of W taken together: a megabyte in float32


@shapes(x="N n", W="m n")
def linear_of_data(x: Array, W: Array) -> tuple[Array, Backward]:
    """y = x Wᵀ, and backward: dy -> dW; dy is an array or a `Product`."""

    def backward(dy):
        return dy.T @ x

    return times_data(W, x).T, backward


def times_data(W: Array, x: Array) -> Array:
    """W xᵀ, (m, N); for a few rows x by matrix-vector products on blocks of rows of W."""
    m, N = W.shape[0], x.shape[0]
    if not 2 <= N <= FEW or m * W.shape[1] < LARGE:
        return W @ x.T
    xp, step = namespace(W), max(1, BLOCK // W.shape[1])
    blocks = [W[i : i + step, :] for i in range(0, m, step)]
    return xp.concat([xp.stack([w @ x[j, :] for j in range(N)], axis=1) for w in blocks])
