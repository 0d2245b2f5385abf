"""Convolution in any number of dimensions, as PyTorch means it: a cross-correlation.

Math:
    y[o, p] = Σ_c Σ_t W[o, c, t] x̂[γ(o) C + c, p·stride + t·dilation],   x̂ = pad(x)

    where γ(o) is the group of output channel o, and each group reads its own C input channels.
    The sum runs over the offsets t of the kernel: for each of them the strided slice x̂_t of the
    input is multiplied by one matrix W_t, so that

    y = Σ_t W_t x̂_t       dW_t = dy x̂_tᵀ       dx̂ = Σ_t spread_t(W_tᵀ dy)

    and spread_t, the transpose of the slice, puts zeros where the slice did not read.
Shapes:
    x (..., c, *space)   W (m, c / groups, *kernel)   y (..., m, *space'); any leading axes
    space' = (space + low + high − dilation (kernel − 1) − 1) // stride + 1
Errors:
    ShapeError if x and W do not fit each other and the geometry; ValueError for a geometry that
    is none.
Source:
    PyTorch 2.13, torch.nn.Conv1d, Conv2d, Conv3d. Their padding_mode is the function `pad` here.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..arrays import Array, Backward, namespace, on_device_of
from ..shapes import ShapeError, shapes
from .padding import Widths, pad_zeros, zero_extended

Tap = tuple[int, ...]  # an offset within the kernel


@dataclass(frozen=True)
class Geometry:
    """Where a convolution reads: one entry for each axis of space, and the number of groups."""

    stride: tuple[int, ...]
    padding: Widths
    dilation: tuple[int, ...]
    groups: int = 1
    pad: Callable[[Array, Widths], tuple[Array, Backward]] = pad_zeros

    def __post_init__(self) -> None:
        """Refuse what is no geometry."""
        if not len(self.stride) == len(self.padding) == len(self.dilation):
            raise ValueError(
                "Geometry: stride, padding and dilation must have one entry for each axis, got "
                f"{self.stride}, {self.padding}, {self.dilation}"
            )
        if min((*self.stride, *self.dilation, self.groups)) < 1:
            raise ValueError(
                "Geometry: stride, dilation and groups must be at least 1, got "
                f"{self.stride}, {self.dilation}, {self.groups}"
            )
        if any(min(pair) < 0 for pair in self.padding):
            raise ValueError(f"Geometry: padding must not be negative, got {self.padding}")

    @classmethod
    def uniform(
        cls,
        dimensions: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        pad: Callable[[Array, Widths], tuple[Array, Backward]] = pad_zeros,
    ) -> "Geometry":
        """The same numbers for every axis, and as much padding before as after.

        >>> Geometry.uniform(2, stride=3).stride
        (3, 3)
        """
        pairs = ((padding, padding),) * dimensions
        return cls((stride,) * dimensions, pairs, (dilation,) * dimensions, groups, pad)

    def pointwise(self) -> "Geometry":
        """The geometry of a kernel of size 1 that follows: same groups, nothing skipped."""
        return Geometry.uniform(len(self.stride), groups=self.groups)

    def size(self, space: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The output's size along each axis of space."""
        axes = zip(space, kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (n + low + high - d * (k - 1) - 1) // s + 1 for n, k, s, (low, high), d in axes
        )


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> Widths:
    """The padding that keeps the size at stride 1; an odd total puts the larger half behind.

    >>> same_padding((3, 2), (2, 1))
    ((2, 2), (0, 1))
    """
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


@shapes(x="...", W="...")
def convolution(x: Array, W: Array, *, geometry: Geometry) -> tuple[Array, Backward]:
    """y = Σ over the kernel's offsets of W at the offset times x̂ read there."""
    check_convolution("convolution", x, W, geometry)
    xp, kernel, groups = namespace(x), W.shape[2:], geometry.groups
    slices, slices_backward = _slices(x, kernel, geometry)
    shape = (groups, W.shape[0] // groups, W.shape[1])
    taps = {tap: xp.reshape(W[(..., *tap)], shape) for tap in slices}
    y = sum_of([taps[tap] @ slices[tap] for tap in slices])  # (N, g, m / g, L)
    lead, space = x.shape[: -len(kernel) - 1], x.shape[-len(kernel) :]

    def backward(dy):
        dy = xp.reshape(dy, y.shape)
        dW_taps = [xp.sum(dy @ slices[tap].mT, axis=0) for tap in slices]  # (g, m / g, C)
        dW = xp.reshape(xp.stack(dW_taps, axis=-1), W.shape)
        return slices_backward({tap: taps[tap].mT @ dy for tap in slices}), dW

    return xp.reshape(y, (*lead, W.shape[0], *geometry.size(space, kernel))), backward


@shapes(x="...")
def patches(x: Array, *, kernel: tuple[int, ...], geometry: Geometry) -> tuple[Array, Backward]:
    """What each output position reads: x (..., c, *space) gives (N, groups, L, c·|kernel|/groups).

    A patch lists channels first and offsets within a channel second, as a flattened kernel does,
    so convolution is patches times flattened kernels (im2col). N are all leading axes, L all
    output positions.
    """
    xp = namespace(x)
    _check_input("patches", x, None, kernel, geometry)
    slices, slices_backward = _slices(x, kernel, geometry)
    stacked = xp.stack(list(slices.values()), axis=3)  # (N, g, C, taps, L)
    size, groups, channels, count, length = stacked.shape
    flat = xp.reshape(stacked, (size, groups, channels * count, length))

    def backward(dP):
        d = xp.reshape(dP.mT, (size, groups, channels, count, length))
        return slices_backward({tap: d[:, :, :, i, :] for i, tap in enumerate(slices)})

    return flat.mT, backward


def ungrouped(W: Array, groups: int) -> Array:
    """The kernel (m, groups·C, ...) of one group that does what W (m, C, ...) does in `groups`.

    Each output channel keeps its own group's input channels and has zeros for the others.
    """
    xp = namespace(W)
    parts = xp.reshape(W, (groups, W.shape[0] // groups, *W.shape[1:]))
    before = [i * W.shape[1] for i in range(groups)]
    after = reversed(before)
    wide = [
        zero_extended(parts[i, ...], 1, low, high)
        for i, (low, high) in enumerate(zip(before, after, strict=True))
    ]
    return xp.concat(wide, axis=0)


def check_convolution(owner: str, x: Array, W: Array, geometry: Geometry) -> None:
    """ShapeError, in the name of `owner`, unless x, W and the geometry fit each other."""
    dimensions, groups = len(geometry.stride), geometry.groups
    if W.ndim != dimensions + 2 or W.shape[0] % groups or 0 in W.shape[2:]:
        raise ShapeError(
            f"{owner}: W must be (m, c, *kernel) with {dimensions} kernel axes from geometry and "
            f"m a multiple of groups = {groups}, got {tuple(W.shape)}"
        )
    _check_input(owner, x, W.shape[1] * groups, W.shape[2:], geometry)


def _check_input(
    owner: str, x: Array, channels: int | None, kernel: Sequence[int], geometry: Geometry
) -> None:
    """x has these channels (None: any that the groups divide) and room for the kernel."""
    dimensions, groups = len(geometry.stride), geometry.groups
    found = x.shape[-dimensions - 1] if x.ndim > dimensions else -1
    if found < 0 or found % groups or channels not in (None, found):
        wanted = f"a multiple of groups = {groups}"
        if channels is not None:
            wanted = f"{channels} from W and groups = {groups}"
        raise ShapeError(
            f"{owner}: x must be (..., c, *space) with c = {wanted} and {dimensions} axes of "
            f"space, got {tuple(x.shape)}"
        )
    space = tuple(x.shape[-dimensions:])
    if min(geometry.size(space, kernel)) < 1:
        raise ShapeError(
            f"{owner}: x must be at least as large as the kernel {tuple(kernel)} with dilation "
            f"{geometry.dilation} less padding {geometry.padding}, got space {space}"
        )


def sum_of(terms: list[Array]) -> Array:
    """Σ of the terms, from the first to the last."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _slices(
    x: Array, kernel: tuple[int, ...], geometry: Geometry
) -> tuple[dict[Tap, Array], Backward]:
    """For each offset of the kernel what x̂ holds there, (N, g, C, L); backward gives dx."""
    xp, dimensions, groups = namespace(x), len(kernel), geometry.groups
    lead, channels, space = (
        x.shape[: -dimensions - 1],
        x.shape[-dimensions - 1],
        x.shape[-dimensions:],
    )
    size = geometry.size(space, kernel)
    flat = (math.prod(lead), groups, channels // groups, math.prod(size))
    padded, pad_backward = geometry.pad(x, geometry.padding)
    slices = {}
    for tap in itertools.product(*(range(k) for k in kernel)):
        where = _where(tap, size, geometry)
        slices[tap] = xp.reshape(padded[(..., *where)], flat)

    def backward(dslices):
        spread = [
            _spread(xp.reshape(d, (*lead, channels, *size)), tap, geometry, padded.shape)
            for tap, d in dslices.items()
        ]
        return pad_backward(sum_of(spread))

    return slices, backward


def _where(tap: Tap, size: tuple[int, ...], geometry: Geometry) -> tuple[slice, ...]:
    axes = zip(tap, size, geometry.stride, geometry.dilation, strict=True)
    return tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, n, s, d in axes)


def _spread(d: Array, tap: Tap, geometry: Geometry, shape: tuple[int, ...]) -> Array:
    """The transpose of the slice that `_where` takes from an array of `shape`."""
    xp = namespace(d)
    first = d.ndim - len(tap)
    for axis, (t, s, step) in enumerate(
        zip(tap, geometry.stride, geometry.dilation, strict=True), start=first
    ):
        low, last = t * step, (d.shape[axis] - 1) * s + 1
        gaps = [xp.zeros(d.shape, dtype=d.dtype, **on_device_of(d))] * (s - 1)
        stuffed = xp.stack([d, *gaps], axis=axis + 1)
        long = (*d.shape[:axis], d.shape[axis] * s, *d.shape[axis + 1 :])
        kept = (slice(None),) * axis + (slice(0, last), ...)
        d = zero_extended(xp.reshape(stuffed, long)[kept], axis, low, shape[axis] - low - last)
    return d
