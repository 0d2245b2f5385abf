"""BitFit: biases learn and weights do not; what the checks of all adapters cannot see."""

import numpy as np
import pytest

from lora_ref.adapters import BitFit
from lora_ref.layers import adapted_linear, affine
from lora_ref.shapes import ShapeError
from lora_ref.testing import gradcheck
from lora_ref.testing.tolerance import assert_close


@pytest.fixture
def problem(rng):
    """x (5, 7), W (11, 7), b and δ (11,)."""
    return tuple(rng.standard_normal(size) for size in ((5, 7), (11, 7), (11,), (11,)))


def test_the_layer_is_that_of_the_changed_bias(problem):
    x, W, b, delta = problem
    y, _ = adapted_linear(x, W, BitFit(delta), b)
    assert_close(y, x @ W.T + (b + delta), "libraries", "y")


def test_the_gradients_are_those_of_the_layer_with_its_bias(problem):
    x, W, b, delta = problem
    gradcheck(
        lambda x, adapter: adapted_linear(x, W, adapter, b),
        (x, BitFit(delta)),
        np.random.default_rng(3),
    )


def test_the_gradient_of_delta_is_that_of_the_bias(problem, rng):
    x, W, b, delta = problem
    dy = rng.standard_normal((5, 11))
    dadapter = adapted_linear(x, W, BitFit(delta), b)[1](dy)[1]
    db = affine(x, W, b + delta)[1](dy)[2]
    assert np.array_equal(dadapter.delta, db)


def test_it_starts_at_the_base_model(problem):
    _, W, b, _ = problem
    adapter = BitFit.init(b)
    assert np.array_equal(adapter.bias(b)[0], b)
    assert adapter.merge(W) is W


def test_the_bias_must_have_an_entry_for_each_output(problem):
    with pytest.raises(ShapeError, match=r"b must be \(m,\) with m = 11 from BitFit.delta"):
        BitFit(problem[3]).bias(np.ones(7))
