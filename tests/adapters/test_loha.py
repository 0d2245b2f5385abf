"""What is special to LoHa: the rank of a Hadamard product, and the LoRA that it is."""

import numpy as np
import pytest

from lora_ref.adapters import LoHa, LoRA
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.examples import SCALE
from lora_ref.testing.tolerance import assert_close

SIZES = pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])


@SIZES
def test_the_update_is_the_product_of_two_updates_element_by_element(rng, square):
    case = adapter_example(LoHa, rng, square)
    loha, W = case.target, case.args[1]
    update = LoRA(loha.A1, loha.B1, 1.0).delta() * LoRA(loha.A2, loha.B2, 1.0).delta()
    assert_close(loha.merge(W), W + loha.scale * update, "routes", "W'")


@SIZES
def test_it_is_a_lora_of_the_rank_squared(rng, square):
    case = adapter_example(LoHa, rng, square)
    lora = case.target.as_lora()
    assert lora.A.shape[0] == case.target.A1.shape[0] ** 2
    assert_close(lora.merge(case.args[1]), case.target.merge(case.args[1]), "routes", "W'")
    dy = rng.standard_normal(case.target.apply(*case.args)[0].shape)
    (y, backward), (expected, lora_backward) = (a.apply(*case.args) for a in (case.target, lora))
    assert_close(y, expected, "routes", "y")
    assert_close(backward(dy)[0], lora_backward(dy)[0], "routes", "dx")


def test_the_gradient_of_a_factor_is_that_of_the_lora_summed_over_the_other(rng):
    """B A with row i r + j of A being A1[i] ∘ A2[j]: dA1[i] is the sum of dA[i r + j] ∘ A2[j]."""
    loha = LoHa(*(rng.standard_normal(shape) for shape in ((3, 11), (7, 3)) * 2), SCALE)
    x, W, dy = (rng.standard_normal(shape) for shape in ((2, 11), (7, 11), (2, 7)))
    d, lora = loha.apply(x, W)[1](dy)[1], loha.as_lora()
    dlora = lora.apply(x, W)[1](dy)[1]
    dA, dB = dlora.A.reshape(3, 3, 11), dlora.B.reshape(7, 3, 3)
    expected = LoHa(
        np.einsum("ijn,jn->in", dA, loha.A2),
        np.einsum("mij,mj->mi", dB, loha.B2),
        np.einsum("ijn,in->jn", dA, loha.A1),
        np.einsum("mij,mi->mj", dB, loha.B1),
        loha.scale,
    )
    assert_trees_close(d, expected, "routes", "dθ")


def test_two_of_rank_r_reach_rank_r_squared(rng):
    factors = [rng.standard_normal(shape) for shape in ((3, 13), (11, 3)) * 2]
    assert np.linalg.matrix_rank(LoHa(*factors, SCALE).merge(np.zeros((11, 13)))) == 9


def test_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((11, 7))
    loha = LoHa.init(W, rank=3, alpha=5, rng=rng)
    assert np.array_equal(loha.merge(W), W)
    assert loha.scale == 5 / 3
    assert not np.any(loha.A2)
    for factor, columns in ((loha.A1, 7), (loha.B1, 3), (loha.B2, 3)):
        assert factor.shape[1] == columns
        assert 0.7 < np.max(factor) * columns**0.5 <= 1
        assert -1 <= np.min(factor) * columns**0.5 < -0.7
    assert loha.A1.shape[0] == 3
    assert {loha.B1.shape[0], loha.B2.shape[0]} == {11}


def test_two_ranks_are_refused(rng):
    shapes = ((3, 7), (11, 3), (2, 7), (11, 2))
    with pytest.raises(ShapeError, match=r"LoHa: LoHa.A2 must be \(r, n\) with r = 3"):
        LoHa(*(np.ones(shape) for shape in shapes), 1.0)
