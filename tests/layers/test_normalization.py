"""What is special to the norms: their invariances, ε, PyTorch's numbers."""

import numpy as np
import pytest

from lora_ref.layers import layer_norm, rms_norm
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.tolerance import assert_close


@pytest.fixture
def x(rng):
    return rng.standard_normal((3, 5, 7))


def test_layer_norm_gives_rows_of_mean_zero_and_variance_one(x):
    h, _ = layer_norm(x, np.ones(7), np.zeros(7), eps=0.0)
    assert_close(1 + h.mean(axis=-1), np.ones((3, 5)), "libraries", "1 + mean")
    assert_close((h * h).mean(axis=-1), np.ones((3, 5)), "libraries", "variance")


def test_layer_norm_forgets_shift_and_scale(x):
    g, b = np.arange(7.0), np.arange(7.0) - 2
    moved = layer_norm(3 * x + 5, g, b, eps=0.0)[0]
    assert_close(moved, layer_norm(x, g, b, eps=0.0)[0], "routes", "3 x + 5")


def test_rms_norm_is_layer_norm_without_the_mean(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    expected = layer_norm(x, np.arange(7.0), np.zeros(7), eps=1e-3)[0]
    assert_close(rms_norm(centred, np.arange(7.0), eps=1e-3)[0], expected, "routes", "rms")


def test_the_gradient_of_rms_norm_is_orthogonal_to_x_without_eps(x, rng):
    dx, _ = rms_norm(x, np.arange(1.0, 8.0), eps=0.0)[1](rng.standard_normal(x.shape))
    assert_close(1 + np.sum(dx * x, axis=-1), np.ones((3, 5)), "libraries", "1 + ⟨dx, x⟩")


def test_eps_is_added_to_the_mean_square_under_the_root():
    x = np.full((1, 4), 3.0)
    assert_close(rms_norm(x, np.ones(4), eps=16.0)[0], x / 5, "libraries", "3 / √(9 + 16)")


def test_a_constant_row_is_normalised_to_the_bias():
    y, _ = layer_norm(np.full((2, 4), 3.0), np.ones(4), np.arange(4.0))
    np.testing.assert_array_equal(y, [np.arange(4.0)] * 2)


@pytest.mark.peers
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_values_and_gradients_are_pytorchs(x, rng, eps):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    functional = torch.nn.functional
    g, b = rng.standard_normal((2, 7))
    dy = rng.standard_normal(x.shape)
    x_t, g_t, b_t = (torch.tensor(t, requires_grad=True) for t in (x, g, b))
    for ours, theirs, args, theirs_args in (
        (layer_norm, functional.layer_norm, (x, g, b), (x_t, g_t, b_t)),
        (rms_norm, functional.rms_norm, (x, g), (x_t, g_t)),
    ):
        y_t = theirs(x_t, (7,), *theirs_args[1:], eps=eps)
        gradients = torch.autograd.grad(y_t, theirs_args, torch.tensor(dy))
        y, backward = ours(*args, eps=eps)
        assert_trees_close((y, backward(dy)), (y_t, gradients), "golden", ours.__name__)
