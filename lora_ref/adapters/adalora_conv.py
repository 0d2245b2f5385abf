"""AdaLoRA for a convolution: P Λ Q corrects the kernel as a matrix of outputs by everything else.

Math:
    ΔW[o, c, t] = s Σ_i P[o, i] λᵢ Q[i, (c, t)]
    W' = W + ΔW
    y  = conv(x, W) + s Σ_i P[·, i] λᵢ conv(x, Q_i)
    where row Q_i is a kernel (n/g, *kernel), which each of the g groups runs over its own channels.

    With the kernel's axes flattened: dP, dλ and dQ as AdaLoRA's.
Shapes:
    x (..., n, *space)   W (m, n/g, *kernel)   P (m, r)   λ (r,)   Q (r, n/g · |kernel|)
Init:
    That of the AdaLoRA inside, for the weight `flat`.
Errors:
    ShapeError if W does not have m outputs from P and n/g · |kernel| numbers in each from Q, or
    not the axes of the geometry.
Source:
    PEFT 0.21.2, tuners/adalora/layer.py, SVDConv2d, for two axes of space. It makes ΔW in every
    forward, with the base's stride, padding, dilation and groups. Its Q has n · |kernel| columns,
    so a grouped base fails; and it pads with zeros whatever the base's padding mode.
"""

from dataclasses import dataclass
from math import prod

from ..arrays import Array, Backward, namespace
from ..layers.convolution import Geometry, convolution
from ..shapes import ShapeError
from ..trees import with_leaves
from .adalora import AdaLoRA
from .base import Adapter


def flat(W: Array) -> Array:
    """A kernel (m, n/g, *kernel) as the matrix (m, n/g · |kernel|)."""
    return namespace(W).reshape(W, (W.shape[0], prod(W.shape[1:])))


@dataclass(frozen=True, eq=False)
class AdaConvLoRA(Adapter):
    """W' = W + s P Λ Q, with W as a matrix; `inner` adapts that matrix."""

    inner: AdaLoRA
    geometry: Geometry

    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s P Λ Q, in W's shape."""
        self._check(W)
        W_merged, inner_backward = self.inner.weight(flat(W))

        def backward(dW):
            return with_leaves(self, inner=inner_backward(flat(dW)))

        return namespace(W).reshape(W_merged, W.shape), backward

    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = conv(x, W) + s Σ P λ conv(x, Q): thin, diagonal, pointwise."""
        self._check(W)
        xp, inner, groups, kernel = namespace(x, W), self.inner, self.geometry.groups, W.shape[1:]
        P, lam, Q, s = inner.P, inner.lam, inner.Q, inner.scale
        rank, points = lam.shape[0], (1,) * (W.ndim - 2)
        # Every group has its own copy of the rows of Q, and of λ.
        thin = xp.concat([xp.reshape(Q, (rank, *kernel))] * groups)
        gain = xp.reshape(xp.concat([lam] * groups), (groups * rank, *points))
        mixture = xp.reshape(P, (*P.shape, *points))
        base, base_backward = convolution(x, W, geometry=self.geometry)
        u, thin_backward = convolution(x, thin, geometry=self.geometry)
        v, mixture_backward = convolution(gain * u, mixture, geometry=self.geometry.pointwise())

        def backward(dy):
            dt, dmixture = mixture_backward(s * dy)
            dx, dthin = thin_backward(gain * dt)
            axes = tuple(i for i in range(u.ndim) if i != u.ndim - len(points) - 1)
            dlam = _over_groups(xp.sum(dt * u, axis=axes), groups)
            dQ = xp.reshape(_over_groups(dthin, groups), Q.shape)
            dinner = with_leaves(inner, P=xp.reshape(dmixture, P.shape), lam=dlam, Q=dQ)
            return base_backward(dy)[0] + dx, with_leaves(self, inner=dinner)

        return base + s * v, backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The convolution of this geometry."""
        return convolution(x, W, geometry=self.geometry)

    def _check(self, W: Array) -> None:
        m, size, axes = self.inner.P.shape[0], self.inner.Q.shape[1], len(self.geometry.stride) + 2
        if W.ndim != axes or (W.shape[0], prod(W.shape[1:])) != (m, size):
            raise ShapeError(
                f"AdaConvLoRA: W must have {axes} axes from geometry, {m} outputs from P and "
                f"{size} numbers in each from Q, got {tuple(W.shape)}"
            )


def _over_groups(t: Array, groups: int) -> Array:
    """t (g · r, ...) summed over the groups: (r, ...)."""
    xp = namespace(t)
    return xp.sum(xp.reshape(t, (groups, t.shape[0] // groups, *t.shape[1:])), axis=0)
