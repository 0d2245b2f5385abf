"""The three maps from an adapter and a strength to a weight: where they agree, where they part."""

from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import ColumnDoRA, DoRA, LoRA
from lora_ref.compose.strength import gain_scaled, interpolated, rescaled
from lora_ref.testing import converted
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.examples import Case
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close

FORMS = (interpolated, rescaled, gain_scaled)
DORAS = (DoRA, ColumnDoRA)


@pytest.fixture(params=DORAS, ids=lambda cls: cls.__name__)
def case(request, rng):
    found = adapter_example(request.param, rng)
    return Case(found.target, (found.args[1],))


@pytest.fixture(params=FORMS, ids=lambda f: f.__name__)
def form(request):
    return request.param


def parts(case):
    """V and g, so that it broadcasts to V."""
    dora, W = case.target, case.args[0]
    V = W + dora.scale * (dora.B @ dora.A)
    by_row = isinstance(dora, DoRA)
    c = np.linalg.norm(V, axis=1 if by_row else 0)
    return V, (dora.m / c)[:, None] if by_row else dora.m / c


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, -0.5, 2.0])
def test_the_gradients_are_those_of_the_map(case, form, strength, rng):
    gradcheck(lambda dora: form(dora, case.args[0], strength), [case.target], rng)


def test_all_of_an_adapter_is_its_merge(case, form):
    assert_close(
        form(case.target, case.args[0], 1.0)[0], case.target.merge(*case.args), "routes", "W'"
    )


def test_none_of_an_adapter_is_the_base_for_one_form_only(case):
    dora, W = case.target, case.args[0]
    V = parts(case)[0]
    bare = replace(dora, scale=0.0)
    assert np.array_equal(interpolated(dora, W, 0.0)[0], W)
    assert_close(rescaled(dora, W, 0.0)[0], bare.merge(W), "routes", "m W / ‖W‖")
    assert np.linalg.norm(bare.merge(W) - W) > 0.1 * np.linalg.norm(W)
    assert np.array_equal(gain_scaled(dora, W, 0.0)[0], V)
    assert np.linalg.norm(V - W) > 0.1 * np.linalg.norm(W)


def test_half_of_an_adapter_is_three_weights(case):
    dora, W = case.target, case.args[0]
    V, g = parts(case)
    assert_close(interpolated(dora, W, 0.5)[0], (W + g * V) / 2, "routes", "interpolated")
    half = replace(dora, scale=dora.scale / 2)
    assert_close(rescaled(dora, W, 0.5)[0], half.merge(W), "routes", "rescaled")
    assert_close(gain_scaled(dora, W, 0.5)[0], (1 + 0.5 * (g - 1)) * V, "routes", "gain_scaled")


def test_for_lora_a_strength_is_a_scale(rng):
    case = adapter_example(LoRA, rng)
    lora, W = case.target, case.args[1]
    expected = replace(lora, scale=0.3 * lora.scale).merge(W)
    assert_close(interpolated(lora, W, 0.3)[0], expected, "routes", "W'")


def test_a_gradient_is_an_adapter_of_the_same_scale(case, form, rng):
    dW = rng.standard_normal(case.args[0].shape)
    d = form(case.target, case.args[0], 0.3)[1](dW)
    assert (type(d), d.scale) == (type(case.target), case.target.scale)


def test_every_library_gives_the_numbers_of_numpy(case, form, library, rng):
    dW = rng.standard_normal(case.args[0].shape)
    there = converted(lambda rng: Case(case.target, (*case.args, dW)), library.convert)(rng)
    W_there, backward_there = form(there.target, there.args[0], 0.3)
    W_k, backward = form(case.target, case.args[0], 0.3)
    found = W_there, backward_there(there.args[1])
    assert_trees_close(found, (W_k, backward(dW)), "libraries", library.name)
