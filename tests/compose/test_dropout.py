"""Dropout around adapters: the definition, the algorithms, the two maps that are called DoRA's."""

from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import (
    ColumnDoRA,
    ConvDoRA,
    ConvLoRA,
    DoRA,
    DoubleLoRA,
    LoHa,
    LoRA,
    LoRASum,
)
from lora_ref.compose.dropout import (
    dropout_mask,
    dropped,
    dropped_apply,
    dropped_direction,
    dropped_lora,
)
from lora_ref.shapes import ShapeError
from lora_ref.testing import converted
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.examples import Case
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close

OF_SUMS = (LoRA, DoRA, ColumnDoRA, DoubleLoRA, LoRASum, LoHa, ConvLoRA, ConvDoRA)
FORMS = {
    "definition": (dropped, DoRA),
    "apply": (dropped_apply, DoRA),
    "lora": (dropped_lora, LoRA),
    "direction": (dropped_direction, DoRA),
}


def mask_of(x, rng, p=0.4):
    return dropout_mask(x, p, rng)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def problem(form, rng, square=None):
    f, cls = FORMS[form]
    case = adapter_example(cls, rng, square)
    return f, case.target, *case.args, mask_of(case.args[0], rng)


@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
def test_the_gradients_are_those_of_the_map(form, square, rng):
    f, adapter, x, W, mask = problem(form, rng, square)

    def target(x, adapter):
        return f(adapter, x, W, mask)

    gradcheck(target, [x, adapter], rng)


@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
def test_every_library_gives_the_numbers_of_numpy(form, square, library, rng):
    f, adapter, x, W, mask = problem(form, rng, square)
    dy = rng.standard_normal((*x.shape[:-1], W.shape[0]))
    y, backward = f(adapter, x, W, mask)
    there = converted(lambda rng: Case(adapter, (x, W, mask, dy)), library.convert)(rng)
    y_there, backward_there = f(there.target, *there.args[:3])
    found = y_there, backward_there(there.args[3])
    assert_trees_close(found, (y, backward(dy)), "libraries", library.name)


@pytest.mark.parametrize("cls", OF_SUMS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
def test_the_algorithm_agrees_with_the_definition_for_every_adapter(cls, square, rng):
    case = adapter_example(cls, rng, square)
    mask = mask_of(case.args[0], rng)
    y, backward = dropped(case.target, *case.args, mask)
    y_apply, backward_apply = dropped_apply(case.target, *case.args, mask)
    dy = rng.standard_normal(y.shape)
    assert_trees_close((y_apply, backward_apply(dy)), (y, backward(dy)), "routes", cls.__name__)


def test_loras_own_form_agrees_with_the_definition(rng):
    f, lora, x, W, mask = problem("lora", rng)
    y, backward = dropped(lora, x, W, mask)
    y_lora, backward_lora = f(lora, x, W, mask)
    dy = rng.standard_normal(y.shape)
    assert_trees_close((y_lora, backward_lora(dy)), (y, backward(dy)), "routes", "LoRA")


@pytest.mark.parametrize("detach_norm", [False, True])
def test_with_nothing_dropped_both_forms_of_dora_are_dora(detach_norm, rng):
    case = adapter_example(DoRA, rng)
    dora, (x, W) = replace(case.target, detach_norm=detach_norm), case.args
    y, backward = dora.apply(x, W)
    dy = rng.standard_normal(y.shape)
    for f in (dropped, dropped_apply, dropped_direction):
        y_kept, backward_kept = f(dora, x, W, np.ones(x.shape))
        assert_trees_close((y_kept, backward_kept(dy)), (y, backward(dy)), "routes", f.__name__)


def test_with_everything_dropped_the_update_is_gone_and_the_magnitude_only_in_the_first_form(rng):
    case = adapter_example(DoRA, rng)
    dora, (x, W) = case.target, case.args
    none = np.zeros(x.shape)
    assert_close(dropped_apply(dora, x, W, none)[0], x @ W.T, "routes", "the base")
    V = W + dora.scale * (dora.B @ dora.A)
    g = dora.m / np.linalg.norm(V, axis=1)
    assert_close(dropped_direction(dora, x, W, none)[0], g * (x @ W.T), "routes", "g ∘ base")


def test_the_two_forms_of_dora_differ_by_the_magnitude_of_what_is_dropped(rng):
    f, dora, x, W, mask = problem("direction", rng)
    V = W + dora.scale * (dora.B @ dora.A)
    g = dora.m / np.linalg.norm(V, axis=1)
    gap = f(dora, x, W, mask)[0] - dropped_apply(dora, x, W, mask)[0]
    assert_close(gap, (g - 1) * ((x - mask * x) @ W.T), "routes", "the gap")


def test_detaching_the_norm_changes_a_and_b_alone(rng):
    f, dora, x, W, mask = problem("direction", rng)
    dy = rng.standard_normal((*x.shape[:-1], W.shape[0]))
    dx, d = f(dora, x, W, mask)[1](dy)
    dx_held, held = f(replace(dora, detach_norm=True), x, W, mask)[1](dy)
    assert_close(dx_held, dx, "routes", "dx")
    assert_close(held.m, d.m, "routes", "dm")
    V = W + dora.scale * (dora.B @ dora.A)
    c = np.linalg.norm(V, axis=1)
    lora = LoRA(dora.A, dora.B, dora.scale)
    expected = dropped_lora(lora, x, W, mask)[1](dora.m / c * dy)[1]
    assert_close(held.A, expected.A, "routes", "dA")
    assert_close(held.B, expected.B, "routes", "dB")
    assert not np.allclose(d.A, held.A, rtol=0.01)
    assert not np.allclose(d.B, held.B, rtol=0.01)


def test_one_mask_may_serve_all_rows(rng):
    f, dora, x, W, _ = problem("apply", rng)
    for mask in (mask_of(x[0, 0], rng), mask_of(x[:, :1], rng)):
        wide = np.broadcast_to(mask, x.shape)
        assert_close(f(dora, x, W, mask)[0], f(dora, x, W, wide)[0], "routes", "y")


@pytest.mark.parametrize("shape", [(2, 3, 99), (1, 2, 3, 1), (5,), (3, 2, 1)])
def test_a_mask_that_does_not_broadcast_to_x_is_refused(form, shape, rng):
    f, adapter, x, W, _ = problem(form, rng)
    with pytest.raises(ShapeError, match=r"mask must broadcast to x, \(2, 3, \d+\), got"):
        f(adapter, x, W, np.ones(shape))


def test_a_mask_has_zeros_at_the_rate_and_a_mean_of_one(rng):
    mask = dropout_mask(np.ones((200, 200)), 0.25, rng)
    assert set(np.unique(mask)) == {0.0, 1 / 0.75}
    assert abs(np.mean(mask == 0) - 0.25) < 0.01
    assert np.all(dropout_mask(np.ones((3, 5)), 0.0, rng) == 1)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_rate_outside_of_zero_to_one_is_refused(p, rng):
    with pytest.raises(ValueError, match=r"dropout_mask: p must be in \[0, 1\), got"):
        dropout_mask(np.ones(3), p, rng)
