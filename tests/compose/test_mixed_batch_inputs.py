"""What mixed batches refuse: choices, adapters and cotangents that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
from mixed_problems import CHOSEN, drawn, problem

from lora_ref.adapters import DoRA
from lora_ref.compose.mixed_batch import mixed_batch
from lora_ref.compose.mixed_gather import mixed_gather
from lora_ref.compose.mixed_grouped import mixed_grouped
from lora_ref.shapes import ShapeError
from lora_ref.trees import tree_map

ALGORITHMS = (mixed_gather, mixed_grouped)


@pytest.fixture(params=ALGORITHMS, ids=lambda f: f.__name__)
def algorithm(request):
    return request.param


@pytest.fixture(params=(mixed_batch, *ALGORITHMS), ids=lambda f: f.__name__)
def mixed(request):
    return request.param


@pytest.mark.parametrize("wrong", [-2, 3])
def test_a_number_that_is_no_adapters_is_refused(mixed, rng, wrong):
    x, W, adapters = problem(rng)
    chosen = np.where(CHOSEN == 2, wrong, CHOSEN)
    says = rf"{mixed.__name__}: chosen must hold integers from −1.* to 2, .* got {wrong}"
    with pytest.raises(ValueError, match=says):
        mixed(x, W, chosen, adapters)


def test_one_choice_for_each_row(mixed, rng):
    x, W, adapters = problem(rng)
    with pytest.raises(
        ShapeError, match=rf"{mixed.__name__}: chosen must be \(\*batch,\) with .* got \(2, 3\)"
    ):
        mixed(x, W, CHOSEN[:, :3], adapters)


def test_an_adapter_for_another_weight_is_named_though_no_row_has_it(algorithm, rng):
    x, W, adapters = problem(rng)
    bad = (adapters[0], drawn(rng, m=8)[0], adapters[2])
    says = rf"{algorithm.__name__}: adapters\[1\] must fit W .* \(7, 11\), got \(8, 11\)"
    with pytest.raises(ShapeError, match=says):
        algorithm(x, W, CHOSEN, bad)


def test_an_adapter_of_another_library_is_named_though_no_row_has_it(mixed, rng):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is in [test]")
    x, W, adapters = problem(rng)
    foreign = tree_map(strict.asarray, adapters[1])
    says = rf"{mixed.__name__}: adapters\[1\]\.A must be of one library with W, which is numpy"
    with pytest.raises(TypeError, match=says):
        mixed(x, W, CHOSEN, (adapters[0], foreign, adapters[2]))


@pytest.mark.parametrize("letter", "AB")
def test_factors_of_another_dtype_than_the_weight_are_named(mixed, rng, letter):
    x, W, adapters = problem(rng)
    x, W = x.astype(np.float32), W.astype(np.float32)
    adapters = tree_map(lambda t: t.astype(np.float32), adapters)
    other = replace(adapters[1], **{letter: getattr(adapters[1], letter).astype(np.float64)})
    says = rf"{mixed.__name__}: adapters\[1\]\.{letter} must have W's dtype float32, got float64"
    with pytest.raises(TypeError, match=says):
        mixed(x, W, CHOSEN, (adapters[0], other, adapters[2]))


def test_an_adapter_that_is_no_lora_is_refused(algorithm, rng):
    x, W, (lora, *_) = problem(rng)
    dora = DoRA(lora.A, lora.B, np.ones(7), 1.5)
    with pytest.raises(TypeError, match=r"adapters\[1\] must be of type LoRA, got DoRA"):
        algorithm(x, W, np.zeros_like(CHOSEN), (lora, dora))


def test_no_adapter_at_all_is_named(mixed, rng):
    x, W, (lora, *_) = problem(rng)
    says = rf"{mixed.__name__}: adapters\[1\] must be of type (LoRA|Adapter), got NoneType"
    with pytest.raises(TypeError, match=says):
        mixed(x, W, np.zeros_like(CHOSEN), (lora, None))


@pytest.mark.parametrize("shape", [(1, 7), (2, 3, 7), (2, 4, 1), (2, 4, 8), (8, 7)])
def test_a_cotangent_has_the_shape_of_the_output(mixed, rng, shape):
    x, W, adapters = problem(rng)
    _, backward = mixed(x, W, CHOSEN, adapters)
    got = ", ".join(map(str, shape))
    with pytest.raises(
        ShapeError, match=rf"{mixed.__name__}: dy must be \(2, 4, 7\), got \({got}\)"
    ):
        backward(np.ones(shape))


def test_a_cotangent_is_an_array(mixed, rng):
    x, W, adapters = problem(rng)
    with pytest.raises(TypeError, match=rf"{mixed.__name__}: dy must be an array, got list"):
        mixed(x, W, CHOSEN, adapters)[1]([1.0])
