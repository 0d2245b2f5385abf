"""What is special to the smaller variants: bias, transposed storage, embeddings, experts, sums."""

import numpy as np
import pytest

from lora_ref.adapters import (
    BiasedLoRA,
    EmbeddingLoRA,
    ExpertLoRA,
    FanInFanOut,
    LoRA,
    LoRASum,
)
from lora_ref.adapters.experts import (
    from_expert_slowest,
    from_peft,
    to_expert_slowest,
    to_peft,
)
from lora_ref.adapters.lora_sum import cat
from lora_ref.layers.linear import adapted_linear, affine
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import ADAPTER_CHECKS, assert_trees_close
from lora_ref.testing.examples import Case
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import leaves


def drawn(rng, m=7, n=11, rank=3, scale=5 / 3):
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


def test_the_bias_has_the_transposed_derivative(rng):
    adapter = BiasedLoRA(drawn(rng), rng.standard_normal(7))
    b = rng.standard_normal(7)
    gradcheck(lambda adapter: adapter.bias(b), [adapter], rng)


def test_a_layer_with_the_merged_weight_and_bias_is_the_adapted_layer(rng):
    adapter = BiasedLoRA(drawn(rng), rng.standard_normal(7))
    x, W, b = (rng.standard_normal(shape) for shape in ((4, 11), (7, 11), 7))
    expected = affine(x, adapter.merge(W), adapter.bias(b)[0])[0]
    assert_close(adapted_linear(x, W, adapter, b)[0], expected, "routes", "y")


def test_beta_learns_through_the_adapted_layer(rng):
    adapter = BiasedLoRA(drawn(rng), rng.standard_normal(7))
    x, W, b = (rng.standard_normal(shape) for shape in ((4, 11), (7, 11), 7))
    gradcheck(lambda x, adapter: adapted_linear(x, W, adapter, b), [x, adapter], rng)


def test_a_bias_that_starts_at_zero_changes_nothing(rng):
    adapter, b = BiasedLoRA.around(drawn(rng)), rng.standard_normal(7)
    assert np.array_equal(adapter.bias(b)[0], b)


def test_a_bias_of_another_length_is_named(rng):
    with pytest.raises(ShapeError, match=r"BiasedLoRA.beta must be \(m,\) with m = 7 .* \(8,\)"):
        BiasedLoRA(drawn(rng), np.ones(8))


def test_fan_in_fan_out_transposes_the_update_and_not_the_factors(rng):
    lora, V = drawn(rng, m=7, n=7), rng.standard_normal((7, 7))
    expected = V + 5 / 3 * (lora.B @ lora.A).T
    assert_close(FanInFanOut(lora).merge(V), expected, "routes", "V'")


def test_fan_in_fan_out_hands_the_bias_through(rng):
    adapter = FanInFanOut(BiasedLoRA(drawn(rng), rng.standard_normal(7)))
    b, db = rng.standard_normal((2, 7))
    b_adapted, backward = adapter.bias(b)
    assert_close(b_adapted, b + 5 / 3 * adapter.inner.beta, "routes", "b'")
    assert_close(backward(db).inner.beta, 5 / 3 * db, "routes", "dbeta")


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda f: f.__name__)
def test_transposed_experts_pass(check, rng):
    def make(rng):
        case = adapter_example(ExpertLoRA, rng)
        x, W = case.args
        return Case(FanInFanOut(case.target), (x, W.mT.copy()))

    check(make, rng)


def test_a_token_that_repeats_collects_all_its_gradients(rng):
    lora = EmbeddingLoRA(rng.standard_normal((3, 13)), rng.standard_normal((7, 3)), 5 / 3)
    E, dy = rng.standard_normal((13, 7)), rng.standard_normal((3, 7))
    dA = lora.apply(np.array([4, 9, 4]), E)[1](dy)[1].A
    assert_close(dA[:, 4], 5 / 3 * lora.B.T @ (dy[0] + dy[2]), "routes", "twice")
    assert np.array_equal(np.flatnonzero(np.any(dA != 0, axis=0)), [4, 9])


def test_a_scaled_embedding_scales_the_adapter_as_well(rng):
    lora = EmbeddingLoRA(rng.standard_normal((3, 13)), rng.standard_normal((7, 3)), 5 / 3)
    E, ids = rng.standard_normal((13, 7)), np.array([[4, 9, 0]])
    merged = lora.merge(E)
    assert_close(7**0.5 * lora.apply(ids, E)[0], 7**0.5 * merged[ids], "routes", "scaled")


def test_an_embedding_starts_with_A_at_zero(rng):
    E = rng.standard_normal((13, 7))
    lora = EmbeddingLoRA.init(E, rank=3, alpha=5, rng=rng)
    assert np.array_equal(lora.merge(E), E)
    assert np.all(lora.A == 0)
    assert np.all(lora.B != 0)
    assert lora.scale == 5 / 3


def test_ids_that_are_no_integers_are_refused(rng):
    lora = EmbeddingLoRA(np.ones((3, 13)), np.ones((7, 3)), 1.0)
    with pytest.raises(TypeError, match=r"EmbeddingLoRA\.apply: x must hold integral numbers"):
        lora.apply(np.ones(3), np.ones((13, 7)))


def test_each_expert_is_a_lora_of_its_own(rng):
    case = adapter_example(ExpertLoRA, rng)
    lora, (x, W) = case.target, case.args
    y = lora.apply(x, W)[0]
    for e in range(W.shape[0]):
        own = LoRA(lora.A[e], lora.B[e], lora.scale)
        assert_close(y[..., e, :, :], own.apply(x[..., e, :, :], W[e])[0], "routes", f"expert {e}")


def test_pefts_flattened_A_counts_experts_slowest_and_B_fastest(rng):
    A, B = rng.standard_normal((6, 11)), rng.standard_normal((7, 6))
    lora = from_peft(A, B, experts=2, scale=1.0)
    for e in range(2):
        for rho in range(3):
            assert np.array_equal(lora.A[e, rho], A[e * 3 + rho])
            assert np.array_equal(lora.B[e, :, rho], B[:, rho * 2 + e])


def test_the_other_layout_counts_experts_slowest_in_both(rng):
    A, B = rng.standard_normal((6, 11)), rng.standard_normal((7, 6))
    lora = from_expert_slowest(A, B, experts=2, scale=1.0)
    for e in range(2):
        assert np.array_equal(lora.A[e], A[3 * e : 3 * e + 3])
        assert np.array_equal(lora.B[e], B[:, 3 * e : 3 * e + 3])


@pytest.mark.parametrize(
    ("read", "write"), [(from_peft, to_peft), (from_expert_slowest, to_expert_slowest)]
)
def test_flattened_experts_come_back_bit_for_bit(read, write, rng):
    A, B = rng.standard_normal((6, 11)), rng.standard_normal((7, 6))
    lora = read(A, B, experts=2, scale=1.0)
    assert_trees_close(write(lora), (A, B), "identical", "round trip")


def test_the_two_layouts_of_experts_differ_in_B_alone(rng):
    lora = adapter_example(ExpertLoRA, rng, square=4).target
    (A_peft, B_peft), (A, B) = to_peft(lora), to_expert_slowest(lora)
    assert np.array_equal(A_peft, A)
    assert B_peft.shape == B.shape
    assert np.max(np.abs(B_peft - B)) > 0.1


def test_a_count_of_experts_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="from_peft: experts must divide r·E = 6 from A, got 4"):
        from_peft(np.ones((6, 11)), np.ones((7, 6)), experts=4, scale=1.0)


def test_experts_start_at_the_base_model(rng):
    W = rng.standard_normal((5, 7, 11))
    lora = ExpertLoRA.init(W, rank=3, alpha=5, rng=rng)
    assert np.array_equal(lora.merge(W), W)
    assert lora.A.shape == (5, 3, 11)
    assert 0.2 < np.max(np.abs(lora.A)) <= 11**-0.5
    assert lora.scale == 5 / 3


def test_cat_is_the_sum_exactly(rng):
    parts = (drawn(rng, rank=3), drawn(rng, rank=2, scale=-4.0), drawn(rng, rank=1, scale=0.5))
    W = rng.standard_normal((7, 11))
    joined = cat(parts)
    assert joined.A.shape == (6, 11)
    assert joined.scale == 1.0
    assert_close(joined.merge(W), LoRASum(parts).merge(W), "routes", "cat")


def test_adding_the_factors_instead_adds_cross_terms(rng):
    a, b = drawn(rng), drawn(rng)
    W = rng.standard_normal((7, 11))
    added = LoRA(a.A + b.A, a.B + b.B, 5 / 3).merge(W)
    cross = 5 / 3 * (a.B @ b.A + b.B @ a.A)
    assert_close(added - LoRASum((a, b)).merge(W), cross, "routes", "cross terms")


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="LoRASum: parts must hold at least one LoRA"):
        LoRASum(())


def test_parts_for_different_weights_are_named(rng):
    with pytest.raises(ShapeError, match=r"parts\[1\] must fit W .* \(7, 11\) .* got \(8, 11\)"):
        LoRASum((drawn(rng), drawn(rng, m=8)))


def test_no_gradient_holds_a_leaf_that_its_adapter_lacks(rng):
    case = adapter_example(BiasedLoRA, rng)
    gradient = case.target.apply(*case.args)[1](np.ones((2, 3, 7)))[1]
    assert [path for path, _ in leaves(gradient)] == ["lora.A", "lora.B", "beta"]
