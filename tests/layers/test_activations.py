"""What is special to the activations: their limits, their symmetries, PyTorch's numbers."""

import numpy as np
import pytest

from lora_ref.layers import gelu, gelu_tanh, relu, silu
from lora_ref.testing.tolerance import assert_close

ACTIVATIONS = (relu, gelu, gelu_tanh, silu)
FAR = {
    np.float64: [1e2, 1e3, 1e5, 1e160, 1e308],
    np.float32: [1e2, 1e3, 1e5, 1e20, 3e38],
    np.float16: [1e2, 1e3, 6e4],
}
each = pytest.mark.parametrize("f", ACTIVATIONS, ids=lambda f: f.__name__)


@each
@pytest.mark.parametrize("dtype", FAR, ids=lambda t: t.__name__)
def test_far_from_0_it_is_0_or_the_identity(f, dtype):
    x = np.array([*FAR[dtype], np.inf], dtype=dtype)
    y, backward = f(np.concatenate([x, -x]))
    np.testing.assert_allclose(y, [*x, *np.zeros_like(x)], atol=1e-40)
    np.testing.assert_allclose(
        backward(np.ones_like(y)), [*np.ones_like(x), *np.zeros_like(x)], atol=1e-39
    )
    assert y.dtype == backward(y).dtype == dtype


@each
def test_nan_stays_nan(f):
    y, backward = f(np.array([np.nan, 1.0]))
    dx = backward(np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(np.isnan([y, dx]), [[True, False]] * 2)


@pytest.mark.parametrize("f", [gelu, gelu_tanh, silu], ids=lambda f: f.__name__)
def test_odd_part_is_half_of_x(f, rng):
    x = rng.standard_normal((3, 5))
    assert_close(f(x)[0] - f(-x)[0], x, "libraries", "f(x) − f(−x)")


def test_the_derivative_of_relu_at_0_is_0():
    np.testing.assert_array_equal(relu(np.array([-0.0, 0.0]))[1](np.ones(2)), [0, 0])


def test_gelu_and_its_tanh_form_are_two_functions(rng):
    x = rng.uniform(-3, 3, size=100)
    apart = np.abs(gelu(x)[0] - gelu_tanh(x)[0])
    assert 1e-4 < apart.max() < 1e-3


def test_silu_keeps_its_relative_precision_for_negative_x():
    assert_close(
        silu(np.array([-700.0]))[0], np.array([-700 * np.exp(-700.0)]), "libraries", "−700"
    )


@pytest.mark.peers
@each
def test_values_and_gradients_are_pytorchs(f, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    functional = torch.nn.functional
    theirs = {
        relu: functional.relu,
        gelu: functional.gelu,
        gelu_tanh: lambda t: functional.gelu(t, approximate="tanh"),
        silu: functional.silu,
    }[f]
    x = np.concatenate([3 * rng.standard_normal(50), [0.0, -0.0, 20.0, -20.0, 60.0, -60.0]])
    dy = rng.standard_normal(x.shape)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = theirs(x_torch)
    y_torch.backward(torch.tensor(dy))
    y, backward = f(x)
    assert_close(y, y_torch, "golden", "value")
    assert_close(backward(dy), x_torch.grad, "golden", "gradient")
