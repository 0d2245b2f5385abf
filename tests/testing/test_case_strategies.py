"""Whole cases and small arrays: on their grids, pasteable, and shrinking to what shows a bug."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import lora_ref.testing.oracle_cases as oracle_cases
import lora_ref.testing.regimes as regimes
from lora_ref.testing.array_strategies import grid_numbers, grid_values, small_arrays
from lora_ref.testing.case_strategies import (
    attention_cases,
    dora_cases,
    lora_cases,
    merged_cases,
)
from lora_ref.testing.matches import assert_matches
from lora_ref.testing.oracle_cases import AttentionCase, LoraCase, MergedCase
from lora_ref.testing.regimes import BALANCED, LARGE, REGIMES, TINY
from lora_ref.testing.tolerance import Mismatch, assert_close
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    MERGED_BFLOAT16,
    PRESETS,
)
from lora_ref.verdict.grids import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16, FLOAT32

CONTRACTS = (FLOAT32_CONTRACT, BFLOAT16_CONTRACT, FLOAT16_CONTRACT)
ANY_CASE = st.one_of(
    lora_cases(*CONTRACTS),
    dora_cases(*CONTRACTS),
    merged_cases(MERGED_BFLOAT16),
    attention_cases(*CONTRACTS),
)
GRIDS = [BFLOAT16, FLOAT16, FLOAT32, FLOAT8_E4M3, FLOAT8_E5M2]
QUICK = settings(max_examples=300, database=None, derandomize=True, deadline=None)


def shrunk(strategy, condition):
    return find(strategy, condition, settings=settings(QUICK, max_examples=2000))


@given(case=ANY_CASE)
def test_inputs_are_finite_numbers_of_the_contracts_grid(case):
    for t in case.arrays.values():
        assert np.isfinite(t).all()
        assert case.contract.inputs.holds(t).all()


@given(case=ANY_CASE)
def test_the_oracle_computes_the_value_and_a_gradient_of_every_trained_input(case):
    outputs = case.oracle.reference()
    assert outputs["y"].shape == expected_shape(case)
    assert {"dA", "dB"} <= outputs.keys() or {"dq", "dk", "dv"} <= outputs.keys()
    assert ("db" in outputs) == getattr(case, "bias", False)


def expected_shape(case):
    if isinstance(case, AttentionCase):
        return (case.heads, case.T, case.e)
    return (getattr(case, "T", case.m), case.m if hasattr(case, "T") else case.n)


@given(case=ANY_CASE)
def test_the_repr_of_a_case_makes_the_same_numbers_again(case):
    names = {**vars(oracle_cases), **vars(regimes), "PRESETS": PRESETS}
    again = eval(repr(case), names)
    assert again == case
    assert all((again.arrays[name] == t).all() for name, t in case.arrays.items())


def test_hypothesis_reports_a_failing_case_by_short_names_that_can_be_pasted():
    @settings(QUICK, print_blob=False)
    @given(case=lora_cases(BFLOAT16_CONTRACT))
    def fails(case):
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        fails()
    said = " ".join("\n".join(caught.value.__notes__).split())
    assert "regime=BALANCED" in said
    assert "contract=PRESETS['bfloat16']" in said


def test_a_relaxed_contract_is_spelled_out_in_the_repr():
    relaxed = BFLOAT16_CONTRACT.relax(exp_ulps=20.0)
    sizes = {"T": 1, "n": 1, "m": 1, "r": 1}
    case = LoraCase(seed=0, **sizes, alpha=1.0, bias=False, regime=BALANCED, contract=relaxed)
    assert "PRESETS" not in repr(case)
    assert "exp_ulps=20.0" in repr(case)


def test_another_seed_gives_other_numbers():
    sizes = {"T": 2, "n": 7, "m": 11, "r": 3}
    case = LoraCase(
        seed=0, **sizes, alpha=5.0, bias=True, regime=BALANCED, contract=FLOAT32_CONTRACT
    )
    assert not np.array_equal(replace(case, seed=1).arrays["x"], case.arrays["x"])


def test_the_arrays_of_a_case_cannot_be_written_to():
    case = shrunk(lora_cases(FLOAT32_CONTRACT), lambda case: True)
    with pytest.raises(ValueError, match="read-only"):
        case.arrays["x"][0] = 1


def differs(case, y):
    return bool(np.abs(y - case.oracle.reference()["y"]).max() > 1e-2 * np.abs(y).max())


def rank_stabilised(case):
    """y at α/√r where α/r is right."""
    t = case.arrays
    s = case.alpha / case.r**0.5
    return t["x"] @ t["W"].T + s * (t["x"] @ t["A"].T) @ t["B"].T + t.get("b", 0.0)


def test_a_scale_of_alpha_over_root_r_shrinks_to_rank_two_and_all_else_one():
    case = shrunk(
        lora_cases(BFLOAT16_CONTRACT, FLOAT32_CONTRACT), lambda c: differs(c, rank_stabilised(c))
    )
    assert (case.T, case.n, case.m, case.r) == (1, 1, 1, 2)
    assert (case.regime, case.contract, case.bias) == (BALANCED, BFLOAT16_CONTRACT, False)
    assert (case.seed, case.alpha) == (0, 1.0)


def test_a_bfloat16_kernel_at_alpha_over_root_r_is_judged_wrong_first_at_rank_two():
    def is_judged_wrong(case):
        y = case.contract.output.round(rank_stabilised(case))
        gradients = case.oracle.reference().keys() - {"y"}
        try:
            assert_matches(y, case.oracle, case.contract, left_out=gradients, known_mistakes=False)
        except Mismatch:
            return True
        return False

    case = shrunk(lora_cases(BFLOAT16_CONTRACT), is_judged_wrong)
    assert (case.T, case.n, case.m, case.r) == (1, 1, 1, 2)


@given(case=ANY_CASE)
def test_the_correctly_rounded_outputs_of_any_case_are_no_bug(case):
    right = {name: case.contract.output.round(t) for name, t in case.oracle.reference().items()}
    assert_matches(right, case.oracle, case.contract, known_mistakes=False)


def test_a_forgotten_bias_shrinks_to_one_number_with_a_bias():
    def forgotten(case):
        t = case.arrays
        y = t["x"] @ t["W"].T + case.scale * (t["x"] @ t["A"].T) @ t["B"].T
        return differs(case, y)

    case = shrunk(lora_cases(FLOAT32_CONTRACT), forgotten)
    assert (case.T, case.n, case.m, case.r, case.bias) == (1, 1, 1, 1, True)


def test_heads_taken_modulo_shrink_to_two_key_heads_in_groups_of_two():
    """Head h of q uses head h mod K of k, where ⌊h / (H/K)⌋ is right: the same for K = 1."""
    case = shrunk(
        attention_cases(FLOAT32_CONTRACT),
        lambda c: any(h % c.kv_heads != h // (c.heads // c.kv_heads) for h in range(c.heads)),
    )
    assert (case.heads, case.kv_heads, case.T, case.S, case.d, case.e) == (4, 2, 1, 1, 1, 1)


@pytest.mark.parametrize("strategy", [lora_cases, dora_cases, merged_cases])
def test_a_strategy_without_a_contract_says_what_it_needs(strategy):
    with pytest.raises(TypeError, match=rf"{strategy.__name__}: needs the contract"):
        strategy()


# Regimes.


def drawn(regime, grid=FLOAT32, n=256):
    return regime.linear(np.random.default_rng(0), T=64, n=n, m=128, r=8, scale=2.0, grid=grid)


@pytest.mark.parametrize(("regime", "share"), [(regimes.TRAINED, 0.04), (TINY, 0.002)])
def test_the_update_has_the_stated_size_beside_the_base_weight(regime, share):
    t = drawn(regime)
    found = np.linalg.norm(2.0 * t["B"] @ t["A"]) / np.linalg.norm(t["W"])
    assert found == pytest.approx(share, rel=0.1)


def test_cancelling_products_end_far_below_their_terms():
    t = drawn(regimes.CANCELLING)
    terms = np.abs(t["x"]) @ np.abs(t["W"]).T
    assert np.median(np.abs(t["x"] @ t["W"].T) / terms) < 0.002


def test_peaky_attention_gives_most_of_the_weight_to_one_key():
    t = regimes.PEAKY.attention(np.random.default_rng(0), T=64, S=64, d=16)
    z = t["q"][0] @ t["k"][0].T / 4
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    assert np.median((p / p.sum(axis=-1, keepdims=True)).max(axis=-1)) > 0.5


def test_one_channel_in_64_of_the_outlier_regime_is_thirty_times_the_others():
    sizes = np.sort(np.linalg.norm(drawn(regimes.OUTLIER_CHANNELS)["x"], axis=0))
    assert sizes[-4] / sizes[-5] > 15
    assert sizes[-5] / sizes[0] < 2


def test_the_uniform_regime_never_cancels():
    t = drawn(regimes.UNIFORM)
    assert all(t[name].min() >= 0 for name in ("x", "W", "A", "B", "dy"))


def test_the_heavy_tailed_regime_has_a_far_larger_number_than_a_normal_one():
    assert np.abs(drawn(regimes.HEAVY_TAILED)["x"]).max() > 8


def test_a_scale_of_zero_still_draws_finite_factors():
    t = BALANCED.linear(np.random.default_rng(0), T=2, n=7, m=11, r=3, scale=0.0)
    assert np.isfinite(t["B"]).all()


def test_a_merged_case_is_the_weight_and_the_scaled_product():
    sizes = {"n": 7, "m": 11, "r": 3, "alpha": 5.0}
    case = MergedCase(seed=0, **sizes, regime=BALANCED, contract=MERGED_BFLOAT16)
    t = case.arrays
    expected = t["W"] + 5 / 3 * t["B"] @ t["A"]
    assert_close(case.oracle.reference()["y"], expected, "routes", "y")


def test_the_first_query_of_a_causal_case_sees_the_first_key_alone():
    sizes = {"T": 4, "S": 5, "d": 3, "e": 2, "heads": 2, "kv_heads": 1, "causal": True}
    case = AttentionCase(seed=0, **sizes, regime=BALANCED, contract=FLOAT32_CONTRACT)
    y = case.oracle.reference()["y"]
    assert_close(y[:, 0], np.repeat(case.arrays["v"][:, 0], 2, axis=0), "routes", "y")


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
@pytest.mark.parametrize("regime", REGIMES, ids=repr)
def test_no_regime_overflows_on_a_narrow_grid(regime, grid):
    for t in drawn(regime, grid, n=64).values():
        assert np.isfinite(t).all()
        assert grid.holds(t).all()


def test_scales_reach_ten_to_the_twelve_where_the_grid_does():
    assert np.abs(drawn(LARGE, FLOAT32)["x"]).max() > 1e12
    assert np.abs(drawn(LARGE, FLOAT16)["x"]).max() < FLOAT16.largest


def test_a_regime_with_another_update_names_itself():
    assert repr(BALANCED.with_update(0.5)) == "BALANCED.with_update(0.5)"
    assert_close(drawn(BALANCED.with_update(0.5))["B"] * 2, drawn(BALANCED)["B"], "identical", "B")


# Small arrays.


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_small_arrays_hold_values_of_their_grid(grid):
    @QUICK
    @given(t=small_arrays(grid, (2, 3)))
    def holds(t):
        assert t.shape == (2, 3)
        assert t.dtype == np.float64
        assert grid.holds(t).all()
        assert grid.has_inf or not np.isinf(t).any()

    holds()


@pytest.mark.parametrize(
    "wanted",
    [
        lambda v: v == 0 and math.copysign(1, v) < 0,
        lambda v: v == FLOAT16.smallest,
        lambda v: 0 < abs(v) < 2.0**-14,
        lambda v: v == FLOAT16.largest,
        lambda v: v == 2.0**-11,
        math.isinf,
        math.isnan,
    ],
    ids=["-0", "smallest", "subnormal", "largest", "half an ulp of 1", "inf", "NaN"],
)
def test_every_kind_of_special_value_is_drawn(wanted):
    assert wanted(shrunk(grid_values(FLOAT16), wanted))


@QUICK
@given(v=grid_numbers(FLOAT8_E4M3))
def test_grid_numbers_are_finite(v):
    assert math.isfinite(v)


def test_a_small_array_shrinks_to_zeros():
    t = shrunk(small_arrays(BFLOAT16, (2, 2)), lambda t: True)
    assert (t == 0).all()


def test_the_shape_of_a_small_array_may_be_drawn():
    shapes = st.tuples(st.integers(1, 2), st.integers(1, 4))
    assert shrunk(small_arrays(BFLOAT16, shapes), lambda t: t.size > 2).size == 3


def test_an_array_of_more_than_eight_elements_is_refused():
    with pytest.raises(ValueError, match=r"small_arrays: shape must have at most 8 .* \(3, 3\)"):
        small_arrays(BFLOAT16, (3, 3))


@pytest.mark.parametrize("name", ["case_strategies", "array_strategies", "strategies"])
def test_without_hypothesis_the_error_says_what_to_install(name):
    code = f"import sys; sys.modules['hypothesis'] = None; import lora_ref.testing.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = f"lora_ref.testing.{name}: needs Hypothesis; pip install hypothesis"
    assert expected in done.stderr


def test_the_outputs_but_one_are_named_without_being_computed():
    sizes = {"T": 2, "n": 5, "m": 3, "r": 2, "alpha": 4.0, "bias": True}
    oracle = LoraCase(seed=0, **sizes, regime=BALANCED, contract=BFLOAT16_CONTRACT).oracle
    assert {*oracle.outputs_but("y")} == oracle.reference().keys() - {"y"}
    with pytest.raises(ValueError, match="must be among y, dx, dA, dB, db, got 'dW'"):
        oracle.outputs_but("dW")
