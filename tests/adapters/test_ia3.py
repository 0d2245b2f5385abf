"""What is special to IA3: two forms, one of which moves the bias."""

import numpy as np
import pytest

from lora_ref.adapters import IA3, FanInFanOut, InputIA3, apply_merged
from lora_ref.layers.linear import adapted_linear, affine
from lora_ref.shapes import ShapeError
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close

FORMS = pytest.mark.parametrize("cls", [IA3, InputIA3])
SIZES = pytest.mark.parametrize(("m", "n"), [(7, 11), (5, 5)])


def drawn(rng, cls, m, n):
    adapter = cls(rng.standard_normal(m if cls is IA3 else n))
    return adapter, rng.standard_normal((2, 3, n)), rng.standard_normal((m, n))


@SIZES
def test_a_gain_of_the_outputs_multiplies_the_layers_output_with_its_bias(rng, m, n):
    adapter, x, W = drawn(rng, IA3, m, n)
    b = rng.standard_normal(m)
    expected = affine(x, W, b)[0] * adapter.l
    assert_close(adapted_linear(x, W, adapter, b)[0], expected, "routes", "y")
    merged = affine(x, adapter.merge(W), adapter.bias(b)[0])[0]
    assert_close(merged, expected, "routes", "the merged layer")


@SIZES
def test_a_gain_of_the_inputs_multiplies_them_and_leaves_the_bias(rng, m, n):
    adapter, x, W = drawn(rng, InputIA3, m, n)
    b = rng.standard_normal(m)
    expected = affine(x * adapter.l, W, b)[0]
    assert_close(adapted_linear(x, W, adapter, b)[0], expected, "routes", "y")
    assert adapter.bias(b)[0] is b
    assert not np.any(adapter.bias(b)[1](b).l)


@FORMS
@SIZES
def test_the_gradient_of_a_layer_with_a_bias_is_that_of_the_map(rng, cls, m, n):
    adapter, x, W = drawn(rng, cls, m, n)
    b = rng.standard_normal(m)
    gradcheck(lambda x, adapter: adapted_linear(x, W, adapter, b), [x, adapter], rng)


def test_the_two_forms_are_two_maps_on_a_square_weight(rng):
    gains, W = rng.standard_normal(5), rng.standard_normal((5, 5))
    assert_close(IA3(gains).merge(W), np.diag(gains) @ W, "routes", "diag(l) W")
    assert_close(InputIA3(gains).merge(W), W @ np.diag(gains), "routes", "W diag(l)")


def test_the_inputs_of_one_layer_are_the_outputs_of_the_one_before(rng):
    shapes = ((5,), (5, 7), (3, 5), (4, 7))
    gains, V, W, x = (rng.standard_normal(shape) for shape in shapes)
    behind = IA3(gains).apply(x, V)[0] @ W.T
    assert_close(InputIA3(gains).apply(x @ V.T, W)[0], behind, "routes", "y")


@FORMS
def test_training_starts_at_the_base_model(rng, cls):
    W, b = rng.standard_normal((7, 11)), rng.standard_normal(7)
    adapter = cls.init(W)
    assert adapter.l.shape == ((7,) if cls is IA3 else (11,))
    assert np.array_equal(adapter.merge(W), W)
    assert np.array_equal(adapter.bias(b)[0], b)


def test_a_weight_stored_inputs_first_has_its_outputs_and_its_bias_rescaled(rng):
    adapter, x, W = drawn(rng, IA3, 7, 11)
    stored = FanInFanOut(adapter)
    assert_close(stored.merge(W.T.copy()), adapter.merge(W).T, "routes", "V'")
    assert_close(apply_merged(stored, x, W.T)[0], adapter.apply(x, W)[0], "routes", "y")
    b = rng.standard_normal(7)
    assert np.array_equal(stored.bias(b)[0], adapter.l * b)


@FORMS
def test_a_gain_of_the_other_side_is_refused(rng, cls):
    adapter, x, W = drawn(rng, cls, 7, 11)
    with pytest.raises(ShapeError, match=f"{cls.__name__}.apply: "):
        adapter.apply(x, W.T)


def test_a_bias_of_other_outputs_is_refused(rng):
    with pytest.raises(ShapeError, match=r"IA3.bias: b must be \(m,\) with m = 7"):
        IA3(np.ones(7)).bias(np.ones(5))
