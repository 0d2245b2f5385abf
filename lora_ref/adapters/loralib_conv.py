"""loralib's LoRA for a convolution: a product of matrices, reshaped into a kernel.

It shares its name with `ConvLoRA` and nothing else: the rank is r·k, rows of the product are
pieces of a kernel, and in general neither can be written as the other.

Math:
    ΔW = s reshape(B A, W.shape), W' = W + ΔW,        k the kernel's size along both axes
    dA = s Bᵀ reshape(dW', (m k/g, n k))        dB = s reshape(dW', (m k/g, n k)) Aᵀ

    The algorithm. Read row by row, B A is one long row of numbers, cut every n·k into rows of the
    product and every (n/g)·k² into kernels of output channels. With h = gcd(k, g) and pieces of
    z = (n/g)·k·h numbers both cuts fall on a piece's border: a kernel is k/h pieces, a row is g/h
    pieces. Piece σ = o k/h + t, the t-th of channel o, is piece q = σ mod g/h of row p = σ div g/h,
    so with X[t] the t-th piece of the patch of x that channel o reads,
        y[o] = conv(x, W)[o] + s Σ_t Σ_ρ B[p, ρ] (A[ρ, piece q] · X[t]).
    Without groups (h = 1) this is z = n k, q = 0, p = o k + t.
Shapes:
    x (..., n, *space)   W (m, n/g, k, k)   A (r k, n k)   B (m k/g, r k)
Init:
    A ~ U(-1/√(n k), 1/√(n k)), B = 0; s = α/r with r, not r·k.
Errors:
    ShapeError unless the kernel is square with two axes: on others the element counts differ.
Source:
    loralib 0.1.2, layers.py, ConvLoRA.forward: (lora_B @ lora_A).view(conv.weight.shape). Its
    Conv1d and Conv3d fail for every k > 1, since the product has k² numbers for each pair of
    channels and their kernels k and k³. The algorithm by pieces is ours; loralib convolves with
    the merged weight.
"""

from dataclasses import dataclass
from math import gcd, prod
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, namespace, on_device_of, outer_sum
from ..layers.convolution import Geometry, convolution, patches
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import scaling


@shapes(A="rk nk", B="mk rk")
@dataclass(frozen=True, eq=False)
class LoralibConvLoRA(Adapter):
    """W' = W + s reshape(B A)."""

    A: Array
    B: Array
    scale: float
    geometry: Geometry

    @classmethod
    def init(
        cls, W: Array, rank: int, alpha: float, geometry: Geometry, rng: np.random.Generator
    ) -> Self:
        """Kaiming-uniform A and B = 0, at scale α/r."""
        scale = scaling(alpha, rank)
        size, groups = W.shape[-1], geometry.groups
        width = W.shape[1] * groups * size
        A = as_array(rng.uniform(-(width**-0.5), width**-0.5, size=(rank * size, width)), W)
        shape = (W.shape[0] // groups * size, rank * size)
        B = namespace(W).zeros(shape, dtype=W.dtype, **on_device_of(W))
        return cls(A, B, scale, geometry)

    @shapes(W="m c k k")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + s reshape(B A, W.shape)."""
        self._check(W)
        xp, A, B, s = namespace(W, self.A), self.A, self.B, self.scale

        def backward(dW):
            dD = xp.reshape(dW, (B.shape[0], A.shape[1]))
            return with_leaves(self, A=s * (B.T @ dD), B=s * (dD @ A.T))

        return W + xp.reshape(s * (B @ A), W.shape), backward

    @shapes(W="m c k k")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = conv(x, W) plus the sum over pieces; B A is never formed."""
        self._check(W)
        xp, s, groups, (m, size) = namespace(x, W), self.scale, self.geometry.groups, W.shape[::3]
        common = gcd(size, groups)
        in_kernel, in_row = size // common, groups // common
        rank, length = self.A.shape[0], self.A.shape[1] // in_row
        base, base_backward = convolution(x, W, geometry=self.geometry)
        P, patches_backward = patches(x, kernel=W.shape[2:], geometry=self.geometry)
        X = xp.reshape(P, (*P.shape[:3], in_kernel, length))
        A = xp.permute_dims(xp.reshape(self.A, (rank, in_row, length)), (2, 1, 0))
        A = xp.reshape(A, (length, in_row * rank))  # (z, q ρ)
        own = xp.eye(in_row, dtype=W.dtype, **on_device_of(W))[None, :, :, None]
        shape = (groups, m // groups, in_kernel * in_row * rank)
        B = xp.reshape(self.B[:, None, None, :] * own, shape)  # (g, m/g, t q ρ)
        U = xp.reshape(X @ A, (*P.shape[:3], shape[2]))  # (N, g, L, t q ρ)

        def backward(dy):
            dv = s * xp.reshape(dy, (P.shape[0], groups, m // groups, P.shape[2]))
            dB = xp.reshape(xp.sum(dv @ U, axis=0), (self.B.shape[0], in_row, in_row, rank))
            dU = xp.reshape(dv.mT @ B, (*X.shape[:4], in_row * rank))
            dA = xp.reshape(outer_sum(X, dU), (length, in_row, rank))
            dA = xp.reshape(xp.permute_dims(dA, (2, 1, 0)), self.A.shape)
            dx = base_backward(dy)[0] + patches_backward(xp.reshape(dU @ A.T, P.shape))
            return dx, with_leaves(self, A=dA, B=xp.sum(dB * own, axis=(1, 2)))

        return base + s * xp.reshape((U @ B.mT).mT, base.shape), backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """The convolution of this geometry."""
        return convolution(x, W, geometry=self.geometry)

    def _check(self, W: Array) -> None:
        groups, size = self.geometry.groups, W.shape[-1]
        wanted = (W.shape[0] // groups * size, W.shape[1] * groups * size)
        found = (self.B.shape[0], self.A.shape[1])
        if found != wanted or prod(wanted) != prod(W.shape):
            raise ShapeError(
                f"LoralibConvLoRA: W must be (m, n/g, k, k) with m k/g = {found[0]} from "
                f"LoralibConvLoRA.B and n k = {found[1]} from LoralibConvLoRA.A, groups = "
                f"{groups}, got {tuple(W.shape)}"
            )
