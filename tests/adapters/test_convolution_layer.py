"""The convolution layer, its padding and its patches."""

import numpy as np
import pytest

from lora_ref.layers.convolution import (
    Geometry,
    convolution,
    patches,
    same_padding,
    ungrouped,
)
from lora_ref.layers.padding import pad_circular, pad_reflect, pad_replicate, pad_zeros
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import LAYER_CHECKS, check_library
from lora_ref.testing.examples import Case
from lora_ref.testing.tolerance import assert_close

PADS = [pad_zeros, pad_reflect, pad_replicate, pad_circular]
NUMPY_MODE = {
    pad_zeros: "constant",
    pad_reflect: "reflect",
    pad_replicate: "edge",
    pad_circular: "wrap",
}
GEOMETRIES = {
    "1d": Geometry((2,), ((1, 1),), (2,)),
    "2d grouped": Geometry((1, 3), ((2, 0), (1, 3)), (2, 1), groups=2),
    "3d": Geometry((2, 1, 3), ((1, 1), (0, 2), (2, 1)), (1, 2, 1), pad=pad_replicate),
    "2d depthwise": Geometry((2, 1), ((1, 2), (2, 1)), (1, 2), groups=4, pad=pad_circular),
}
KERNEL, SPACE = (3, 2, 4), (7, 6, 8)


def name_of(value):
    return value.__name__ if callable(value) else value


def drawn(geometry, rng):
    """x (2, 3, c, *space) and W, for 4 channels in and 8 out."""
    dimensions, groups = len(geometry.stride), geometry.groups
    x = rng.standard_normal((2, 3, 4, *SPACE[:dimensions]))
    return x, rng.standard_normal((8, 4 // groups, *KERNEL[:dimensions]))


def make(geometry):
    def layer(x, W):
        return convolution(x, W, geometry=geometry)

    return lambda rng: Case(layer, drawn(geometry, rng))


@pytest.mark.parametrize("check", LAYER_CHECKS, ids=name_of)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution_passes(name, check, rng):
    check(make(GEOMETRIES[name]), rng)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution_runs_on(name, library, rng):
    check_library(make(GEOMETRIES[name]), rng, library.convert)


@pytest.mark.parametrize("check", LAYER_CHECKS, ids=name_of)
@pytest.mark.parametrize("pad", PADS, ids=name_of)
def test_padding_passes(pad, check, rng):
    def layer(x):
        return pad(x, ((2, 1), (0, 3)))

    check(lambda rng: Case(layer, (rng.standard_normal((2, 3, 5)),)), rng)


@pytest.mark.parametrize("pad", PADS, ids=name_of)
def test_padding_is_numpys(pad, rng):
    x = rng.standard_normal((2, 5, 4))
    expected = np.pad(x, ((0, 0), (2, 3), (1, 0)), mode=NUMPY_MODE[pad])
    assert_close(pad(x, ((2, 3), (1, 0)))[0], expected, "identical", "padded")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution_is_patches_times_flattened_kernels(name, rng):
    geometry = GEOMETRIES[name]
    x, W = drawn(geometry, rng)
    y = convolution(x, W, geometry=geometry)[0]
    P = patches(x, kernel=W.shape[2:], geometry=geometry)[0]
    kernels = W.reshape(geometry.groups, 8 // geometry.groups, -1)
    assert_close((P @ kernels.mT).mT.reshape(y.shape), y, "routes", "im2col")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_patches_have_the_transposed_derivative(name, rng):
    geometry = GEOMETRIES[name]

    def layer(x):
        return patches(x, kernel=KERNEL[: len(geometry.stride)], geometry=geometry)

    LAYER_CHECKS[0](lambda rng: Case(layer, drawn(geometry, rng)[:1]), rng)


def test_a_convolution_is_a_correlation_and_not_flipped():
    x, W = np.array([[1.0, 10, 100]]), np.array([[[1.0, 2]]])
    assert convolution(x, W, geometry=Geometry.uniform(1))[0].tolist() == [[21.0, 210.0]]


def test_the_ungrouped_kernel_does_what_the_groups_did(rng):
    geometry = GEOMETRIES["2d grouped"]
    x, W = drawn(geometry, rng)
    one = Geometry(geometry.stride, geometry.padding, geometry.dilation)
    y = convolution(x, ungrouped(W, 2), geometry=one)[0]
    assert_close(y, convolution(x, W, geometry=geometry)[0], "routes", "ungrouped")


@pytest.mark.parametrize("kernel", [(3,), (4,), (2, 5)])
def test_same_padding_keeps_the_size_at_stride_1(kernel):
    dilation = (2,) * len(kernel)
    geometry = Geometry((1,) * len(kernel), same_padding(kernel, dilation), dilation)
    space = (9, 6)[: len(kernel)]
    assert geometry.size(space, kernel) == space


def test_a_kernel_for_other_channels_is_named():
    x, W = np.ones((2, 5, 9)), np.ones((6, 2, 3))
    expected = r"convolution: x must be \(..., c, \*space\) with c = 4 .* got \(2, 5, 9\)"
    with pytest.raises(ShapeError, match=expected):
        convolution(x, W, geometry=Geometry.uniform(1, groups=2))


def test_an_input_smaller_than_the_kernel_is_named():
    with pytest.raises(ShapeError, match=r"at least as large as the kernel \(3,\).* got space"):
        convolution(np.ones((1, 2)), np.ones((1, 1, 3)), geometry=Geometry.uniform(1))


def test_patches_need_channels_that_the_groups_divide():
    expected = r"patches: x must be .* c = a multiple of groups = 2 .* got \(5, 9\)"
    with pytest.raises(ShapeError, match=expected):
        patches(np.ones((5, 9)), kernel=(3,), geometry=Geometry.uniform(1, groups=2))


def test_a_kernel_whose_outputs_the_groups_do_not_divide_is_named():
    expected = r"convolution: W must be .* multiple of groups = 2, got \(5, 3, 2\)"
    geometry = Geometry.uniform(1, groups=2)
    with pytest.raises(ShapeError, match=expected):
        convolution(np.ones((6, 9)), np.ones((5, 3, 2)), geometry=geometry)


def test_an_empty_kernel_is_named():
    with pytest.raises(ShapeError, match=r"convolution: W must be .* got \(4, 3, 0\)"):
        convolution(np.ones((3, 9)), np.ones((4, 3, 0)), geometry=Geometry.uniform(1))


def test_an_input_without_a_channel_axis_is_named():
    with pytest.raises(ShapeError, match=r"convolution: x must be .* 1 axes of space, got \(9,\)"):
        convolution(np.ones(9), np.ones((4, 3, 2)), geometry=Geometry.uniform(1))


def test_an_empty_axis_has_no_edge_to_repeat():
    with pytest.raises(ValueError, match="pad_replicate: widths of axis 1 must be zero at"):
        pad_replicate(np.ones((2, 0)), ((1, 0),))


def test_an_empty_batch_gives_an_empty_output_and_no_gradient(rng):
    W = rng.standard_normal((4, 3, 2))
    y, backward = convolution(np.ones((0, 3, 9)), W, geometry=Geometry.uniform(1))
    dx, dW = backward(y)
    assert (y.shape, dx.shape) == ((0, 4, 8), (0, 3, 9))
    assert np.array_equal(dW, np.zeros_like(W))


def test_circular_padding_goes_round_at_most_once():
    with pytest.raises(ValueError, match=r"pad_circular: widths of axis 0 must be at most .* 3"):
        pad_circular(np.ones(3), ((0, 4),))


def test_reflection_needs_an_axis_longer_than_its_width():
    with pytest.raises(ValueError, match=r"pad_reflect: widths of axis 1 must be below .* 3, got"):
        pad_reflect(np.ones((2, 3)), ((3, 0),))


@pytest.mark.parametrize(
    "fields",
    [
        ((1, 1), ((0, 0),), (1,)),
        ((0,), ((0, 0),), (1,)),
        ((1,), ((0, -1),), (1,)),
        ((1,), ((0, 0),), (1,), 0),
    ],
)
def test_a_geometry_that_is_none_is_refused(fields):
    with pytest.raises(ValueError, match="Geometry: "):
        Geometry(*fields)


@pytest.mark.peers
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pad", PADS, ids=name_of)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolution_is_pytorchs(dimensions, pad, groups, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    name = f"Conv{dimensions}d"
    mode = name_of(pad).removeprefix("pad_")
    stride, padding, dilation = ((2, 1, 3)[:dimensions], (1, 2, 1)[:dimensions], (1, 2, 1))
    kernel = KERNEL[:dimensions]
    theirs = getattr(torch.nn, name)(
        4,
        6,
        kernel,
        stride,
        padding,
        dilation[:dimensions],
        groups=groups,
        bias=False,
        padding_mode=mode,
        dtype=torch.float64,
    )
    x = torch.tensor(rng.standard_normal((2, 4, *SPACE[:dimensions])), requires_grad=True)
    y = theirs(x)
    dy = torch.tensor(rng.standard_normal(y.shape))
    y.backward(dy)
    pairs = tuple((p, p) for p in padding)
    geometry = Geometry(stride, pairs, dilation[:dimensions], groups, pad)
    mine, backward = convolution(
        x.detach().numpy(), theirs.weight.detach().numpy(), geometry=geometry
    )
    dx, dW = backward(dy.numpy())
    assert_close(mine, y, "golden", "y")
    assert_close(dx, x.grad, "golden", "dx")
    assert_close(dW, theirs.weight.grad, "golden", "dW")
