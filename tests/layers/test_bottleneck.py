"""Bottleneck adapters: what their checks as a layer cannot know."""

import numpy as np
import pytest

from lora_ref.layers import bottleneck, gelu, relu, silu
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close


@pytest.fixture
def arguments(rng):
    """h (2, 5, 11) and a bottleneck of width 3."""
    sizes = (2, 5, 11), (3, 11), (3,), (11, 3), (11,)
    return tuple(rng.standard_normal(size) for size in sizes)


@pytest.mark.parametrize("activation", [gelu, relu, silu])
def test_a_bottleneck_is_its_formula(arguments, activation):
    h, D, d, U, u = arguments
    y, _ = bottleneck(*arguments, activation=activation)
    expected = h + np.einsum("...r,nr->...n", activation(h @ D.T + d)[0], U) + u
    assert_close(y, expected, "libraries", "bottleneck")


def test_without_its_last_matrix_it_is_the_identity(arguments):
    h, D, d, U, u = arguments
    assert np.array_equal(bottleneck(h, D, d, 0 * U, 0 * u)[0], h)


def test_the_gradient_of_h_has_the_path_around_the_bottleneck(arguments):
    h, D, d, U, u = arguments
    dy = np.ones_like(h)
    assert np.array_equal(bottleneck(h, D, d, 0 * U, u)[1](dy)[0], dy)


def test_the_widths_of_both_matrices_must_agree(arguments):
    h, D, d, U, u = arguments
    with pytest.raises(ShapeError, match=r"U must be \(n, r\) with n = 11 from h, r = 3 from D"):
        bottleneck(h, D, d, U[:, :2], u)
