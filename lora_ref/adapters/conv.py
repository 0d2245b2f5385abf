"""LoRA for a convolution: a thin convolution into r channels, then a mixture of them.

Math:
    ΔW[o, c, t] = s Σ_ρ B[o, ρ] A[γ(o) r/g + ρ, c, t]      ρ = 0 … r/g − 1, γ(o) the group of o
    W' = W + ΔW
    y  = conv(x, W) + s conv(conv(x, A), B)
    where A has the kernel and the geometry of W, and B has a kernel of size 1.

    In each group, with the kernel axes flattened: dA = s Bᵀ dW'        dB = s dW' Aᵀ
Shapes:
    x (..., n, *space)   W (m, n/g, *kernel)   A (r, n/g, *kernel)   B (m, r/g, 1, ...)
    g = geometry.groups, which must divide r
Init:
    A ~ U(-1/√f, 1/√f) with f = n/g · |kernel|, Kaiming's uniform with a = √5; B = 0.
Errors:
    ValueError if the groups do not divide the rank; ShapeError if A, B, W or x do not fit.
Source:
    PEFT 0.21.2, tuners/lora/layer.py, _ConvNd, with two differences.
    1. PEFT's A takes stride and padding from the base layer, but neither dilation nor padding
       mode. Its forward then is not that of its own merged weight; ours is.
    2. With groups PEFT's A is not grouped, (r, n, *kernel), while its B is. That update reads
       channels of other groups, so no weight of W's shape holds it and PEFT refuses to merge.
       `peft_grouped` gives it as an adapter of the ungrouped kernel.
    loralib's parametrisation is another one: `LoralibConvLoRA`.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, namespace, on_device_of
from ..layers.convolution import Geometry, convolution, ungrouped
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import scaling


@shapes(A="...", B="...")
@dataclass(frozen=True, eq=False)
class ConvLoRA(Adapter):
    """W' = W + s B A, group by group and at every offset of the kernel."""

    A: Array
    B: Array
    scale: float
    geometry: Geometry

    def __post_init__(self) -> None:
        """B must follow A: rank, groups and a kernel of size 1."""
        super().__post_init__()
        groups, dimensions = self.geometry.groups, len(self.geometry.stride)
        if self.A.ndim != dimensions + 2:
            raise ShapeError(
                f"ConvLoRA: ConvLoRA.A must be (r, c, *kernel) with {dimensions} kernel axes from "
                f"geometry, got {tuple(self.A.shape)}"
            )
        _check_rank(self.A.shape[0], groups)
        fits = self.B.shape[1:] == (self.A.shape[0] // groups,) + (1,) * dimensions
        if not fits or self.B.shape[0] % groups:
            raise ShapeError(
                f"ConvLoRA: ConvLoRA.B must be (m, r / groups{', 1' * dimensions}) with r = "
                f"{self.A.shape[0]} from ConvLoRA.A and groups = {groups}, which must divide m, "
                f"got {tuple(self.B.shape)}"
            )

    @classmethod
    def init(
        cls, W: Array, rank: int, alpha: float, geometry: Geometry, rng: np.random.Generator
    ) -> Self:
        """Kaiming-uniform A and B = 0, at scale α/r."""
        scale = scaling(alpha, rank)
        _check_rank(rank, geometry.groups)
        bound = prod(W.shape[1:]) ** -0.5
        A = as_array(rng.uniform(-bound, bound, size=(rank, *W.shape[1:])), W)
        shape = (W.shape[0], rank // geometry.groups, *(1 for _ in W.shape[2:]))
        B = namespace(W).zeros(shape, dtype=W.dtype, **on_device_of(W))
        return cls(A, B, scale, geometry)

    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s B A, as matrices (m/g, r/g) and (r/g, n/g · |kernel|) in each group."""
        self._check(W)
        xp, s, groups = namespace(W, self.A), self.scale, self.geometry.groups
        A = xp.reshape(self.A, (groups, self.A.shape[0] // groups, prod(self.A.shape[1:])))
        B = xp.reshape(self.B, (groups, self.B.shape[0] // groups, self.B.shape[1]))

        def backward(dW):
            dD = xp.reshape(dW, (groups, W.shape[0] // groups, prod(W.shape[1:])))
            dA = xp.reshape(s * (B.mT @ dD), self.A.shape)
            return with_leaves(self, A=dA, B=xp.reshape(s * (dD @ A.mT), self.B.shape))

        return W + xp.reshape(s * (B @ A), W.shape), backward

    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = conv(x, W) + s conv(conv(x, A), B)."""
        self._check(W)
        base, base_backward = convolution(x, W, geometry=self.geometry)
        update, update_backward = self.update(x)

        def backward(dy):
            dx, dadapter = update_backward(dy)
            return base_backward(dy)[0] + dx, dadapter

        return base + update, backward

    def update(self, x: Array) -> tuple[Array, Backward]:
        """s conv(conv(x, A), B), what `apply` adds, and backward: dy -> (dx, dθ)."""
        u, A_backward = convolution(x, self.A, geometry=self.geometry)
        v, B_backward = convolution(u, self.B, geometry=self.geometry.pointwise())

        def backward(dy):
            du, dB = B_backward(self.scale * dy)
            dx, dA = A_backward(du)
            return dx, with_leaves(self, A=dA, B=dB)

        return self.scale * v, backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The convolution of this geometry."""
        return convolution(x, W, geometry=self.geometry)

    def _check(self, W: Array) -> None:
        wanted = (self.B.shape[0], *self.A.shape[1:])
        if tuple(W.shape) != wanted:
            raise ShapeError(
                f"ConvLoRA: W must be (m, n / groups, *kernel) = {wanted}, with m from ConvLoRA.B "
                f"and the rest from ConvLoRA.A, got {tuple(W.shape)}"
            )


def peft_grouped(A: Array, B: Array, scale: float, geometry: Geometry) -> ConvLoRA:
    """PEFT's update of a grouped convolution, A (r, n, *kernel) and B (m, r/g, 1, ...).

    It adapts `ungrouped(W, g)`, the same convolution as one group.
    """
    _check_rank(A.shape[0], geometry.groups)
    return ConvLoRA(A, ungrouped(B, geometry.groups), scale, replace(geometry, groups=1))


def _check_rank(rank: int, groups: int) -> None:
    if rank % groups:
        raise ValueError(
            f"ConvLoRA: the rank must be a multiple of groups = {groups} from geometry, got {rank}"
        )
