"""What is special to DoubleLoRA: it is one LoRA of the sum of the ranks."""

import importlib

import numpy as np
import pytest

from lora_ref.adapters import DoubleLoRA, LoRA, LoRASum
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.tolerance import assert_close


def test_it_is_one_lora_of_the_sum_of_the_ranks_with_the_same_gradients(rng):
    case = adapter_example(DoubleLoRA, rng)
    double, (x, W) = case.target, case.args
    lora, r = double.as_lora(), double.A1.shape[0]
    assert lora.A.shape[0] == r + double.A2.shape[0]
    (y, backward), (y_one, backward_one) = double.apply(x, W), lora.apply(x, W)
    dy = rng.standard_normal(y.shape)
    (dx, d), (dx_one, d_one) = backward(dy), backward_one(dy)
    assert_close(y, y_one, "routes", "y")
    assert_close(dx, dx_one, "routes", "dx")
    assert_close(np.concatenate([d.A1, d.A2]), d_one.A, "routes", "dA")
    assert_close(np.concatenate([d.B1, d.B2], axis=1), d_one.B, "routes", "dB")


def test_it_is_the_sum_of_two_loras_at_one_scale(rng):
    case = adapter_example(DoubleLoRA, rng)
    double, (_, W) = case.target, case.args
    one = LoRA(double.A1, double.B1, double.scale)
    two = LoRA(double.A2, double.B2, double.scale)
    assert_close(double.merge(W), LoRASum((one, two)).merge(W), "routes", "W'")


def test_training_starts_at_the_base_model_with_two_different_pairs(rng):
    W = rng.standard_normal((7, 11))
    double = DoubleLoRA.init(W, rank=3, alpha=5, rng=rng)
    assert np.array_equal(double.merge(W), W)
    assert double.scale == 5 / 3
    assert double.A1.shape == double.A2.shape == (3, 11)
    assert not np.any(double.A1 == double.A2)
    assert double.B1.shape == double.B2.shape == (7, 3)


def test_a_pair_that_does_not_fit_is_refused(rng):
    A, B = rng.standard_normal((3, 11)), rng.standard_normal((7, 3))
    with pytest.raises(ShapeError, match=r"DoubleLoRA: DoubleLoRA.B2 must be \(m, r2\)"):
        DoubleLoRA(A, B, A[:2], B, 1.0)


def test_a_rank_below_one_is_refused(rng):
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        DoubleLoRA.init(np.ones((7, 11)), rank=0, alpha=5, rng=rng)


@pytest.mark.parametrize("choice", [0, 1])
def test_both_orders_of_the_sum_give_the_same(choice, rng, monkeypatch):
    module = importlib.import_module("lora_ref.adapters.double_lora")
    case = adapter_example(DoubleLoRA, rng)
    expected = case.target.as_lora().apply(*case.args)[0]
    monkeypatch.setattr(module, "either", lambda xp, *forms: forms[choice]())
    assert_close(case.target.apply(*case.args)[0], expected, "routes", "y")
