"""Single-head attention whose cotangents stay products: for parameters thinner than q and k.

The cotangents of q, k and v are products of an N × N and an N × d matrix. Who trains a low-rank
correction of a projection needs only their products with thin matrices, and by associativity
(dz k) B = dz (k B) costs r/d of what dq = dz k costs; who trains nothing behind v needs no dv.
So backward returns each of them as a `Product`, and what nobody asks for is never multiplied.

Math:
    p = softmax(c q kᵀ)        o = p v                       c = 1/√d
    dp = do vᵀ                 dz = p ∘ (dp − ⟨dp, p⟩ by row)
    dq = dz (c k)              dk = dzᵀ (c q)                dv = pᵀ do
Shapes:
    q, k (N, d)   v (N, m)   o (N, m)
Limits:
    One head, no mask: attention over the rows of one matrix. The cotangents take part in `@` and
    `.T` only, which is all that `lora_of_data` and `linear_of_data` do with them; `dense` gives
    the array.
Source:
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation (1); `layers.attention` by
    another order of the same products, and tested against it.
"""

from dataclasses import dataclass

from ..arrays import Array, Backward, namespace, reuse, row_dot
from ..shapes import shapes
from .softmax import softmax_weights


@dataclass(frozen=True, eq=False)
class Product:
    """The matrix L R, not multiplied out; a product with it takes the cheaper order."""

    L: Array
    R: Array

    @property
    def T(self) -> "Product":  # noqa: N802 (the array API's name)
        return Product(self.R.T, self.L.T)

    def __matmul__(self, t: Array) -> Array:
        (a, b), (c, d) = self.L.shape, t.shape
        if b * c * d + a * b * d <= a * b * c + a * c * d:
            return self.L @ (self.R @ t)
        return self.dense() @ t

    def dense(self) -> Array:
        """L R as an array."""
        return self.L @ self.R


@shapes(q="N d", k="N d", v="N m")
def factored_attention(q: Array, k: Array, v: Array) -> tuple[Array, Backward]:
    """o = softmax(q kᵀ / √d) v, and backward: do -> (dq, dk, dv), each a `Product`."""
    xp, c = namespace(q), max(q.shape[1], 1) ** -0.5
    k_scaled = c * k  # N d multiplications where scaling z would take N²
    p = softmax_weights(q @ k_scaled.T)  # (N, N)
    o = p @ v

    def backward(do):
        dp = do @ v.T  # (N, N)
        dz = reuse(xp.multiply, reuse(xp.subtract, dp, row_dot(dp, p)), p)  # p ∘ (dp − ⟨dp, p⟩)
        return Product(dz, k_scaled), Product(dz.T, c * q), Product(p.T, do)

    return o, backward
