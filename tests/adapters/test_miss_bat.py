"""What is special to Bat: an update that depends on the weight, by blocks."""

import importlib

import numpy as np
import pytest

from lora_ref.adapters import Bat, apply_merged
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.gradient_check import random_like
from lora_ref.testing.tolerance import assert_close

module = importlib.import_module("lora_ref.adapters.miss_bat")
SIZES = pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])


@SIZES
def test_every_block_is_multiplied_by_one_and_the_block_of_its_rows(rng, square):
    case = adapter_example(Bat, rng, square)
    M, W = case.target.M, case.args[1]
    g, r, _ = M.shape
    expected = W.copy()
    for a in range(g):
        for b in range(W.shape[1] // r):
            block = np.s_[a * r : a * r + r, b * r : b * r + r]
            expected[block] += W[block] @ M[a] + M[a]
    assert_close(case.target.merge(W), expected, "routes", "W'")


@SIZES
def test_all_forms_of_each_quantity_agree(rng, monkeypatch, square):
    counts = []

    def either(xp, *alternatives):
        first, *others = [alternative() for alternative in alternatives]
        counts.append(len(alternatives))
        for other in others:
            assert_close(other, first, "libraries", f"either {len(counts)}")
        return first

    monkeypatch.setattr(module, "either", either)
    case = adapter_example(Bat, rng, square)
    y, backward = case.target.apply(*case.args)
    backward(random_like(y, rng))
    assert counts == [2, 2, 2]  # y, dx, dM


@pytest.mark.parametrize("choice", [0, 1])
def test_code_that_takes_one_form_throughout_gets_the_same(rng, monkeypatch, choice):
    case = adapter_example(Bat, rng)
    dy = rng.standard_normal((2, 3, 6))
    y, backward = apply_merged(case.target, *case.args)
    expected = y, backward(dy)
    monkeypatch.setattr(module, "either", lambda xp, *forms: forms[choice]())
    y, backward = case.target.apply(*case.args)
    assert_trees_close((y, backward(dy)), expected, "routes", f"form {choice}")


@pytest.mark.parametrize("lead", [(), (4,), (2, 1, 3)])
def test_the_inputs_may_have_any_leading_axes(rng, lead):
    bat, W = adapter_example(Bat, rng).target, rng.standard_normal((6, 12))
    x, dy = rng.standard_normal((*lead, 12)), rng.standard_normal((*lead, 6))
    y, backward = bat.apply(x, W)
    expected, merged_backward = apply_merged(bat, x, W)
    assert_trees_close((y, backward(dy)), (expected, merged_backward(dy)), "routes", "apply")


def test_on_a_weight_of_zeros_it_lays_the_blocks_beside_each_other(rng):
    M = rng.standard_normal((2, 3, 3))
    expected = np.concatenate([np.concatenate([one] * 4, axis=1) for one in M])
    assert np.array_equal(Bat(M).merge(np.zeros((6, 12))), expected)


def test_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((6, 12)).astype(np.float32)
    bat = Bat.init(W, rank=3)
    assert np.array_equal(bat.merge(W), W)
    assert (bat.M.shape, bat.M.dtype) == ((2, 3, 3), np.float32)
    assert Bat.init(W, rank=1).M.shape == (6, 1, 1)


@pytest.mark.parametrize(("rank", "m", "n"), [(0, 6, 12), (4, 6, 12), (4, 12, 6), (-1, 6, 12)])
def test_a_rank_that_does_not_divide_both_sides_is_refused(rank, m, n):
    with pytest.raises(
        ValueError, match=f"rank must divide m = {m} and n = {n} from W, got {rank}"
    ):
        Bat.init(np.ones((m, n)), rank)


@pytest.mark.parametrize("method", ["apply", "weight"])
@pytest.mark.parametrize(("m", "n"), [(9, 12), (6, 10)])
def test_a_weight_that_the_blocks_do_not_cut_is_refused(method, m, n):
    args = (np.ones((4, n)), np.ones((m, n)))[method == "weight" :]
    with pytest.raises(ShapeError, match=rf"Bat.{method}: W must be \(g r, n\) with g r = 6"):
        getattr(Bat(np.ones((2, 3, 3))), method)(*args)


def test_blocks_that_are_not_square_are_refused():
    with pytest.raises(ShapeError, match=r"Bat: Bat.M must be \(g, r, r\), got \(2, 3, 4\)"):
        Bat(np.ones((2, 3, 4)))
