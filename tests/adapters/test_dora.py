"""What is special to DoRA: magnitude and direction, the detached norm, all forms, rows of zeros."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lora_ref.adapters import DoRA, FanInFanOut, LoRA, apply_merged
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import (
    ADAPTER_CHECKS,
    assert_trees_close,
    check_apply_gradient,
    check_library,
    check_weight_gradient,
)
from lora_ref.testing.examples import SCALE, Case, converted
from lora_ref.testing.gradient_check import gradcheck, random_like
from lora_ref.testing.strategies import adapter_cases
from lora_ref.testing.tolerance import TOLERANCE, Mismatch, assert_close

BOTH = pytest.mark.parametrize("detach_norm", [False, True], ids=["full", "detached"])
GRADIENT_CHECKS = (check_apply_gradient, check_weight_gradient)
module = importlib.import_module("lora_ref.adapters.dora")


def make_detached(rng, square=None):
    case = adapter_example(DoRA, rng, square)
    return Case(replace(case.target, detach_norm=True), case.args)


def drawn(rng, m=7, n=11, rank=3):
    """A LoRA and a weight, with rows of W far from those of s B A."""
    lora = LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), SCALE)
    return lora, rng.standard_normal((m, n))


def rows_of(t):
    return np.linalg.norm(t, axis=1)


def test_the_merged_rows_have_the_magnitudes_for_lengths(rng):
    case = adapter_example(DoRA, rng)
    merged = case.target.merge(case.args[1])
    assert_close(rows_of(merged), np.abs(case.target.m), "routes", "‖W'ᵢ‖ = |mᵢ|")


def test_the_merged_rows_have_the_directions_of_lora(rng):
    lora, W = drawn(rng)
    m = rng.standard_normal(7)
    expected = np.diag(m / rows_of(lora.merge(W))) @ lora.merge(W)
    assert_close(DoRA(lora.A, lora.B, m, lora.scale).merge(W), expected, "routes", "W'")


def test_around_a_lora_it_starts_as_that_lora(rng):
    lora, W = drawn(rng)
    dora = DoRA.around(lora, W)
    assert np.array_equal(dora.merge(W), lora.merge(W))
    assert_close(dora.m, rows_of(lora.merge(W)), "libraries", "m")


@BOTH
def test_training_starts_at_the_base_model(rng, detach_norm):
    W = rng.standard_normal((7, 11))
    dora = DoRA.init(W, rank=3, alpha=5, rng=rng, detach_norm=detach_norm)
    assert np.array_equal(dora.merge(W), W)
    assert dora.A.shape == (3, 11)
    assert 0.2 < np.max(np.abs(dora.A)) <= 11**-0.5
    assert dora.scale == 5 / 3
    assert dora.detach_norm is detach_norm


def test_the_full_gradient_is_the_default(rng):
    W = rng.standard_normal((7, 11))
    assert not DoRA.init(W, rank=3, alpha=5, rng=rng).detach_norm
    assert not DoRA(np.ones((3, 11)), np.ones((7, 3)), np.ones(7), 1.0).detach_norm


def test_detaching_the_norm_changes_no_value(rng):
    case = adapter_example(DoRA, rng)
    detached = replace(case.target, detach_norm=True)
    assert np.array_equal(detached.merge(case.args[1]), case.target.merge(case.args[1]))
    assert np.array_equal(detached.apply(*case.args)[0], case.target.apply(*case.args)[0])


def test_detaching_the_norm_changes_the_gradients_of_A_and_B_alone(rng):
    case = adapter_example(DoRA, rng)
    dy = rng.standard_normal((2, 3, 7))
    dx, d = case.target.apply(*case.args)[1](dy)
    dx_held, d_held = replace(case.target, detach_norm=True).apply(*case.args)[1](dy)
    assert np.array_equal(dx, dx_held)
    assert np.array_equal(d.m, d_held.m)
    assert not np.allclose(d.A, d_held.A, rtol=0.01)
    assert not np.allclose(d.B, d_held.B, rtol=0.01)


@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
@pytest.mark.parametrize(
    "check", [c for c in ADAPTER_CHECKS if c not in GRADIENT_CHECKS], ids=lambda c: c.__name__
)
def test_a_detached_norm_passes_what_is_no_check_of_the_derivative(check, square, library, rng):
    check(converted(lambda rng: make_detached(rng, square), library.convert), rng)


def test_a_detached_norm_gives_every_library_the_numbers_of_numpy(library, rng):
    check_library(make_detached, rng, library.convert)


@pytest.mark.parametrize("check", GRADIENT_CHECKS, ids=lambda c: c.__name__)
def test_a_detached_norm_is_not_the_gradient_of_the_map(check, rng):
    with pytest.raises(Mismatch, match="leaf A"):
        check(make_detached, rng)


@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
def test_a_detached_norm_is_the_gradient_of_the_map_whose_norms_stay_as_they_are(rng, square):
    case = make_detached(rng, square)
    x, W = case.args
    lora = LoRA(case.target.A, case.target.B, case.target.scale)
    c = rows_of(lora.merge(W))

    def held(x, dora):
        V = LoRA(dora.A, dora.B, dora.scale).merge(W)
        return x @ ((dora.m / c)[:, None] * V).T, dora_backward

    y, dora_backward = case.target.apply(x, W)
    assert_close(held(x, case.target)[0], y, "routes", "y")
    gradcheck(held, [x, case.target], rng)


def test_the_full_gradient_of_V_is_orthogonal_to_its_row(rng):
    """A longer row of V makes the same W'; with A the identity, dB is s dV."""
    W, B, m = rng.standard_normal((7, 5)), rng.standard_normal((7, 5)), rng.standard_normal(7)
    dora, dW = DoRA(np.eye(5), B, m, 0.5), rng.standard_normal((7, 5))
    V, dV = W + 0.5 * B, dora.weight(W)[1](dW).B / 0.5
    assert_close(1 + np.sum(dV * V, axis=1), np.ones(7), "routes", "1 + ⟨dV, V⟩")


class Alternatives:
    """Evaluates every alternative of `either`, and keeps how far from the first they are."""

    def __init__(self):
        self.counts = []

    def __call__(self, xp, *alternatives):
        first, *others = [alternative() for alternative in alternatives]
        self.counts.append(len(alternatives))
        for i, other in enumerate(others, start=1):
            assert_close(other, first, "libraries", f"either {len(self.counts)}, form {i}")
        return first


@BOTH
@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
def test_all_forms_of_each_quantity_agree(rng, monkeypatch, detach_norm, square):
    either = Alternatives()
    monkeypatch.setattr(module, "either", either)
    case = adapter_example(DoRA, rng, square)
    dora = replace(case.target, detach_norm=detach_norm)
    for route in (dora.apply, lambda x, W: apply_merged(dora, x, W)):
        y, backward = route(*case.args)
        backward(random_like(y, rng))
    assert either.counts == [2, 2, 2, 2, 2, 2]  # y, dbase, dx, dm; W', dm of the definition


@given(adapter_cases(DoRA, regimes=("normal", "with zeros"), detach_norm=st.booleans()))
def test_apply_is_the_layer_with_the_merged_weight_at_every_size(case):
    dora, (x, W) = case.target, case.args
    update = dora.scale * (dora.B @ dora.A)
    terms = rows_of(np.abs(W) + np.abs(update))
    assume(np.all(rows_of(W + update) > 0.01 * terms))  # at a row of zeros there is no W'
    y, merged = dora.apply(x, W)[0], apply_merged(dora, x, W)[0]
    g = np.abs(dora.m) / rows_of(W + update)
    size = g * (np.abs(x) @ (np.abs(W) + abs(dora.scale) * np.abs(dora.B) @ np.abs(dora.A)).T)
    assert np.all(np.abs(y - merged) <= TOLERANCE["routes"] * size)


@BOTH
@pytest.mark.parametrize("choice", [0, 1])
def test_code_that_takes_one_form_throughout_gets_the_same(rng, monkeypatch, detach_norm, choice):
    case = adapter_example(DoRA, rng)
    dora = replace(case.target, detach_norm=detach_norm)
    dy = rng.standard_normal((2, 3, 7))
    y, backward = apply_merged(dora, *case.args)
    expected = y, backward(dy)
    monkeypatch.setattr(module, "either", lambda xp, *forms: forms[choice]())
    y, backward = dora.apply(*case.args)
    assert_trees_close((y, backward(dy)), expected, "routes", f"form {choice}")


@BOTH
def test_a_weight_stored_inputs_first_is_normalised_along_its_inputs(rng, detach_norm):
    case = adapter_example(DoRA, rng, square=4)
    dora, (x, W) = replace(case.target, detach_norm=detach_norm), case.args
    stored = FanInFanOut(dora)
    dy = rng.standard_normal((2, 3, 4))
    assert_close(stored.merge(W.T.copy()), dora.merge(W).T, "routes", "V'")
    found = stored.apply(x, W.T.copy())[1](dy)[1].inner
    assert_trees_close(found, dora.apply(x, W)[1](dy)[1], "routes", "dθ")


def zero_row(rng):
    """A DoRA at its start, over a weight whose row 2 is zero."""
    W = rng.standard_normal((7, 11))
    W[2] = 0
    return DoRA.init(W, rank=3, alpha=5, rng=rng), W


def test_a_row_of_zeros_is_nan_and_spoils_no_other_value(rng):
    dora, W = zero_row(rng)
    x, others = rng.standard_normal((4, 11)), np.arange(7) != 2
    with np.errstate(divide="ignore", invalid="ignore"):
        y, merged = dora.apply(x, W)[0], dora.merge(W)
    assert np.all(np.isnan(merged[2]))
    assert np.all(np.isnan(y[:, 2]))
    assert np.array_equal(merged[others], W[others])
    assert_close(y[:, others], x @ W[others].T, "routes", "the other outputs")


@pytest.mark.peers
def test_a_row_of_zeros_is_nan_in_peft_as_well(rng):
    reason = "PEFT and PyTorch are in the [peers] extra"
    torch, peft = (pytest.importorskip(name, reason=reason) for name in ("torch", "peft"))
    _, W = zero_row(rng)
    net = torch.nn.Sequential(torch.nn.Linear(11, 7, bias=False, dtype=torch.float64))
    net[0].weight.data = torch.tensor(W)
    config = peft.LoraConfig(r=3, target_modules=["0"], use_dora=True)
    model = peft.get_peft_model(net, config).eval()
    y = model(torch.ones((1, 11), dtype=torch.float64))
    merged = model.merge_and_unload()[0].weight
    assert torch.isnan(y[0]).tolist() == [i == 2 for i in range(7)]
    assert torch.isnan(merged).any(dim=1).tolist() == [i == 2 for i in range(7)]


def test_near_a_row_of_zeros_the_map_magnifies_the_rounding_of_V(rng):
    """float32 is off by ‖Wᵢ‖ / ‖Vᵢ‖ times more than where nothing cancels."""
    errors = []
    for gap in (1.0, 1e-4):
        W, rest = rng.standard_normal((2, 7, 11))
        lora = LoRA(np.eye(11), gap * rest - W, 1.0)  # V = gap · rest
        dora = DoRA(lora.A, lora.B, np.ones(7), 1.0)
        single = DoRA(*(t.astype(np.float32) for t in (lora.A, lora.B, dora.m)), 1.0)
        error = single.merge(W.astype(np.float32)) - dora.merge(W)
        errors.append(np.linalg.norm(error))
    assert 1e2 < errors[1] / errors[0] < 1e6


def test_a_magnitude_for_each_input_is_refused():
    wanted = r"DoRA: DoRA.m must be \(m,\) with m = 7 from DoRA.B, got \(11,\)"
    with pytest.raises(ShapeError, match=wanted):
        DoRA(np.ones((3, 11)), np.ones((7, 3)), np.ones(11), 1.0)


def test_a_weight_of_another_shape_is_refused(rng):
    dora = adapter_example(DoRA, rng).target
    with pytest.raises(ShapeError, match=r"DoRA.apply: W must be .* got \(11, 7\)"):
        dora.apply(np.ones((2, 11)), np.ones((11, 7)))


def test_a_rank_below_one_is_refused(rng):
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        DoRA.init(np.ones((7, 11)), rank=0, alpha=5, rng=rng)
