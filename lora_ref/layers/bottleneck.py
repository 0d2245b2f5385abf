"""Bottleneck adapters: a small network behind a frozen layer, added to what comes out of it.

What LoRA is compared with. It is no map of a weight, so nothing can be merged: the two products
stay in the model, one after the other, and cost their time at inference.

Math:
    y = h + f(h Dᵀ + d) Uᵀ + u
Shapes:
    h, y (..., n)   D (r, n)   d (r,)   U (n, r)   u (n,), and r is the width of the bottleneck
Init:
    U = 0 and u = 0 make it the identity; Houlsby et al. draw nearly that, N(0, 10⁻⁴) cut off at
    two standard deviations.
Source:
    Houlsby et al. 2019, arXiv:1902.00751, section 2.1 and figure 2: one behind the attention's
    projection and one behind the feed-forward layer of each block, before the residual is added.
    The other placements are the same function: Pfeiffer et al. 2020, arXiv:2005.00247, keep the
    second one only. 2 n r + n + r numbers each.
"""

from ..arrays import Array, Backward
from ..shapes import shapes
from .activations import gelu
from .linear import affine
from .mlp import Activation


@shapes(h="... n", D="r n", d="r", U="n r", u="n")
def bottleneck(
    h: Array, D: Array, d: Array, U: Array, u: Array, *, activation: Activation = gelu
) -> tuple[Array, Backward]:
    """h + f(h Dᵀ + d) Uᵀ + u; backward: dy -> (dh, dD, dd, dU, du)."""
    narrow, down_backward = affine(h, D, d)
    a, activation_backward = activation(narrow)
    wide, up_backward = affine(a, U, u)

    def backward(dy):
        da, dU, du = up_backward(dy)
        dh, dD, dd = down_backward(activation_backward(da))
        return dy + dh, dD, dd, dU, du

    return h + wide, backward
