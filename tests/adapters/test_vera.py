"""What is special to VeRA: bases that are shared, and that nobody trains."""

import numpy as np
import pytest

from lora_ref.adapters import LoRA, VeRA
from lora_ref.adapters.vera import shared_bases
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import leaves, map_arrays, tree_map, zeros_like

SIZES = pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])


@SIZES
def test_the_update_is_a_lora_between_two_diagonal_matrices(rng, square):
    case = adapter_example(VeRA, rng, square)
    vera, W = case.target, case.args[1]
    lora = LoRA(np.diag(vera.lambda_d) @ vera.A, np.diag(vera.lambda_b) @ vera.B, 1.0)
    assert_close(vera.merge(W), lora.merge(W), "routes", "W'")


def test_only_the_two_vectors_are_trained(rng):
    case = adapter_example(VeRA, rng)
    assert [path for path, _ in leaves(case.target)] == ["lambda_b", "lambda_d"]
    gradient = case.target.apply(*case.args)[1](rng.standard_normal((2, 3, 11)))[1]
    assert [path for path, _ in leaves(gradient)] == ["lambda_b", "lambda_d"]


def test_an_update_leaves_the_bases_as_they_are(rng):
    vera = adapter_example(VeRA, rng).target
    stepped = tree_map(lambda t, d: t - 0.1 * d, vera, tree_map(np.ones_like, vera))
    assert stepped.A is vera.A
    assert stepped.B is vera.B
    assert not np.any(stepped.lambda_d == vera.lambda_d)
    assert zeros_like(vera).A is vera.A


def test_a_conversion_reaches_the_bases(rng):
    single = map_arrays(lambda t: t.astype(np.float32), adapter_example(VeRA, rng).target)
    assert {t.dtype for t in (single.A, single.B, single.lambda_b)} == {np.dtype(np.float32)}


def test_layers_share_the_memory_of_their_bases(rng):
    A, B = shared_bases(3, 11, 8, rng, np.ones(1))
    wide, tall = (VeRA.init(np.ones(shape), A, B) for shape in ((7, 8), (11, 5)))
    assert np.shares_memory(wide.A, tall.A)
    assert np.shares_memory(wide.B, tall.B)
    assert np.array_equal(tall.A, A[:, :5])
    assert np.array_equal(wide.B, B[:7])


def test_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((7, 8))
    A, B = shared_bases(3, 11, 9, rng, W)
    vera = VeRA.init(W, A, B)
    assert np.array_equal(vera.merge(W), W)
    assert np.array_equal(vera.lambda_d, np.full(3, 0.1))
    assert np.array_equal(vera.lambda_b, np.zeros(7))
    assert np.array_equal(VeRA.init(W, A, B, initial=1.5).lambda_d, np.full(3, 1.5))


def test_the_vectors_have_the_dtype_of_the_weight(rng):
    W = np.ones((7, 8), np.float32)
    vera = VeRA.init(W, *shared_bases(3, 7, 8, rng, W))
    assert {t.dtype for t in (vera.lambda_b, vera.lambda_d, vera.A, vera.B)} == {W.dtype}


def test_the_bases_are_uniform_with_a_variance_of_two_over_their_columns(rng):
    A, B = shared_bases(50, 120, 80, rng, np.ones(1, np.float32))
    assert (A.shape, B.shape, A.dtype) == ((50, 80), (120, 50), np.float32)
    for basis, columns in ((A, 80), (B, 50)):
        assert 0.95 < np.var(basis) * columns / 2 < 1.05
        limit = (6 / columns) ** 0.5
        assert -limit <= np.min(basis) < -0.99 * limit
        assert 0.99 * limit < np.max(basis) <= limit


def test_a_seed_makes_the_bases(rng):
    first, second = (shared_bases(3, 5, 4, np.random.default_rng(1), np.ones(1)) for _ in "ab")
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize("shape", [(7, 10), (12, 8)])
def test_bases_smaller_than_a_layer_are_refused(rng, shape):
    A, B = shared_bases(3, 11, 9, rng, np.ones(1))
    need = f"N at least {shape[1]} and M at least {shape[0]} from W"
    with pytest.raises(ShapeError, match=need):
        VeRA.init(np.ones(shape), A, B)


def test_bases_as_large_as_the_layer_are_taken_whole(rng):
    A, B = shared_bases(3, 11, 9, rng, np.ones(1))
    vera = VeRA.init(np.ones((11, 9)), A, B)
    assert np.array_equal(vera.A, A)
    assert np.array_equal(vera.B, B)


def test_bases_of_two_ranks_are_refused():
    with pytest.raises(ShapeError, match=r"VeRA.init: B must be \(M, r\) with r = 3"):
        VeRA.init(np.ones((5, 4)), np.ones((3, 4)), np.ones((5, 2)))
