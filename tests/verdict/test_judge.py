"""The verdict on small constructed outputs: each status, its counts, its reason, and refusals."""

import numpy as np
import pytest

from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    MERGED_BFLOAT16,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.findings import State, Status
from lora_ref.verdict.grids import BFLOAT16
from lora_ref.verdict.judge import judge
from lora_ref.verdict.oracle import Mistake, Oracle
from lora_ref.verdict.oracles import lora_linear, lora_merged
from lora_ref.verdict.statistics import LARGEST_RMS, statistics

ULP = 2.0**-7  # of bfloat16 at 1


def product(x, W):
    """x Wᵀ, of which the verdict is asked."""
    return x @ W.T, lambda dy: (dy @ W, dy.T @ x)


def oracle_of(rng, contract=BFLOAT16_CONTRACT, sizes=(4, 9, 7)):
    n, k, m = sizes
    x, W, dy = (contract.inputs.round(rng.standard_normal(s)) for s in ((n, k), (m, k), (n, m)))
    return Oracle(product, {"x": x, "W": W}, cotangent=dy)


def only(*finding):
    (found,) = finding
    return found


def one_finding(y, oracle, contract=BFLOAT16_CONTRACT):
    return only(*judge(y, oracle, contract).findings)


def sum_of(a, b):
    """Sums, whose bound is half an ulp: easy to be on either side of."""
    return Oracle(lambda a, b: (a + b, None), {"a": np.array(a), "b": np.array(b)})


# The five statuses.


def test_exact_is_the_correctly_rounded_value_everywhere(rng):
    oracle = oracle_of(rng)
    actual = {n: BFLOAT16.round(v) for n, v in oracle.reference().items()}
    outcome = judge(actual, oracle, BFLOAT16_CONTRACT)
    assert [f.status for f in outcome.findings] == [Status.EXACT] * 3
    assert outcome.status is Status.EXACT
    assert [f.name for f in outcome.findings] == ["y", "dx", "dW"]
    assert max(f.ratio for f in outcome.findings) <= 1


def test_rounding_is_within_the_bound_and_not_the_nearest_number(rng):
    oracle = oracle_of(rng, sizes=(40, 9, 30))
    actual = {n: BFLOAT16.round(v) for n, v in oracle.reference().items()}
    contract = BFLOAT16_CONTRACT.relax(accumulate=BFLOAT16_CONTRACT.accumulate)
    rounded_twice = sum_of([1.0, 2.0], [2.0**-9, 0.0])
    three = Oracle(lambda a, b: (a + b + b, None), rounded_twice.inputs)
    found = one_finding(np.array([1.0, 2.0]), three, contract)  # 1 + 2^−8 is a tie: exact
    assert found.status is Status.EXACT
    found = one_finding(np.array([1 + ULP, 2.0]), three, contract)
    assert (found.status, found.reason, found.outside) == (Status.ROUNDING, "", 0)
    assert 0 < found.ratio <= 1
    assert found.worst == (0,)
    assert (found.actual, found.expected) == (1 + ULP, 1 + ULP / 2)
    assert found.ulps == 0.5
    assert judge(actual, oracle, contract).status is Status.EXACT


def test_suspect_is_within_the_bound_with_errors_that_are_all_alike(rng):
    """Float32 sums of 200 terms may be off by 200 roundings; that all are off so far is odd."""
    oracle = oracle_of(rng, FLOAT32_CONTRACT, (30, 200, 20))
    oracle = Oracle(oracle.kernel, oracle.inputs)
    size = abs(oracle.inputs["x"]) @ abs(oracle.inputs["W"]).T
    y = FLOAT32_CONTRACT.output.round(oracle.reference()["y"] + 100 * 2.0**-24 * size)
    found = one_finding(y, oracle, FLOAT32_CONTRACT)
    assert found.status is Status.SUSPECT
    assert found.outside == 0
    assert found.ratio <= 1
    assert found.rms_z > LARGEST_RMS
    assert "standard deviations" in found.reason


def test_a_bug_is_an_element_outside_its_bound_and_is_counted_and_located(rng):
    oracle = oracle_of(rng)
    actual = {n: BFLOAT16.round(v) for n, v in oracle.reference().items()}
    actual["dW"][:, -1] = 0
    outcome = judge(actual, oracle, BFLOAT16_CONTRACT)
    assert outcome.status is Status.BUG
    assert [f.status for f in outcome.findings] == [Status.EXACT, Status.EXACT, Status.BUG]
    found = outcome.finding("dW")
    assert found.outside == 7
    assert found.worst[1] == 8
    assert found.actual == 0
    assert found.ratio > 1
    assert any("column" in text for text in found.where)


def test_half_an_ulp_more_than_the_bound_is_a_bug():
    oracle = sum_of([1.0, 1.0], [2.0**-9, 0.0])
    assert one_finding(np.array([1.0, 1.0]), oracle).status is Status.EXACT
    found = one_finding(np.array([1 + ULP, 1.0]), oracle)
    assert (found.status, found.outside, found.worst) == (Status.BUG, 1, (0,))
    assert one_finding(np.array([1.0, 1 + ULP]), oracle).status is Status.BUG


def test_undecidable_counts_the_elements_that_may_overflow():
    oracle = sum_of([60000.0, 1.0, -60000.0], [8000.0, 1.0, -8000.0])
    for y in ([np.inf, 2.0, -np.inf], [65504.0, 2.0, -65504.0]):
        found = one_finding(np.array(y), oracle, FLOAT16_CONTRACT)
        assert (found.status, found.undecidable, found.outside) == (Status.UNDECIDABLE, 2, 0)
        assert "overflow float16" in found.reason
        assert found.line() == "y: undecidable, 2 elements may overflow float16, legally"


def test_a_bug_beside_elements_that_may_overflow_is_a_bug():
    oracle = sum_of([60000.0, 1.0], [8000.0, 1.0])
    found = one_finding(np.array([np.inf, 3.0]), oracle, FLOAT16_CONTRACT)
    assert (found.status, found.undecidable, found.outside) == (Status.BUG, 1, 1)


def test_total_cancellation_is_undecidable(rng):
    """(1 + t) − 1, of a t below half an ulp: 0 and ulps are both admitted."""
    one, t = np.ones(4), BFLOAT16.round(2.0**-10 * rng.uniform(1, 2, 4))
    oracle = Oracle(lambda one, t: ((one + t) * one - one, None), {"one": one, "t": t})
    found = one_finding(np.zeros(4), oracle)
    assert found.status is Status.UNDECIDABLE
    assert "cancellation" in found.reason


def test_an_update_that_a_merge_swamps_is_undecidable(rng):
    W = rng.standard_normal((24, 32)).astype(np.float32)
    A, B = (1e-5 * rng.standard_normal(s).astype(np.float32) for s in ((3, 32), (24, 3)))
    oracle = lora_merged(W, A, B, scale=1.0)
    value = emulate(oracle, MERGED_BFLOAT16)["y"]
    assert np.array_equal(value, BFLOAT16.round(W.astype(float)))  # the base itself
    found = one_finding(value, oracle, MERGED_BFLOAT16)
    assert found.status is Status.UNDECIDABLE
    assert "swamped" in found.reason
    without = only(*judge(value, oracle, MERGED_BFLOAT16, known_mistakes=False).findings)
    assert without.status in (Status.EXACT, Status.ROUNDING)


# Numbers that are no ordinary numbers.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_a_bug_where_nothing_overflows(bad, rng):
    oracle = oracle_of(rng)
    actual = {n: BFLOAT16.round(v) for n, v in oracle.reference().items()}
    actual["y"][1, 2] = bad
    found = judge(actual, oracle, BFLOAT16_CONTRACT).finding("y")
    assert (found.status, found.outside, found.worst) == (Status.BUG, 1, (1, 2))
    assert found.ratio == np.inf
    assert "1 NaN or infinite" in found.reason


def test_nan_after_a_legal_overflow_is_no_bug():
    oracle = Oracle(lambda a: (a * a - a * a, None), {"a": np.array([300.0, 2.0])})
    found = one_finding(np.array([np.nan, 0.0]), oracle, FLOAT16_CONTRACT)
    assert (found.status, found.undecidable) == (Status.UNDECIDABLE, 1)


def test_zeros_of_either_sign_are_equal():
    oracle = sum_of([1.0, 2.0], [-1.0, -2.0])
    found = one_finding(np.array([-0.0, 0.0]), oracle)
    assert (found.status, found.ratio) == (Status.EXACT, 0.0)


def test_an_empty_tensor_has_nothing_to_compare():
    oracle = Oracle(product, {"x": np.zeros((0, 3)), "W": np.ones((2, 3))})
    found = one_finding(np.zeros((0, 2)), oracle)
    assert (found.status, found.shape) == (Status.EXACT, (0, 2))
    assert "empty" in found.reason


def test_what_is_empty_hides_no_mistake(rng):
    x, W, A, B = (BFLOAT16.round(rng.standard_normal(s)) for s in ((0, 7), (5, 7), (3, 7), (5, 3)))
    outcome = judge(np.zeros((0, 5)), lora_linear(x, W, A, B, scale=5 / 3), BFLOAT16_CONTRACT)
    assert (outcome.status, outcome.diagnoses, outcome.power) == (Status.EXACT, (), ())


def test_a_number_without_axes_is_judged():
    oracle = Oracle(lambda a: (np.sum(a) if isinstance(a, np.ndarray) else a.xp.sum(a), None),
                    {"a": np.array([1.0, 2.0])})  # fmt: skip
    assert one_finding(np.array(3.0), oracle).status is Status.EXACT
    found = one_finding(np.array(4.0), oracle)
    assert (found.status, found.worst) == (Status.BUG, ())


# Arrays as they lie in memory.


def test_arrays_that_are_not_contiguous_are_read_by_their_values_and_it_is_said(rng):
    oracle = oracle_of(rng)
    oracle = Oracle(oracle.kernel, oracle.inputs)
    y = BFLOAT16.round(oracle.reference()["y"])
    turned = np.asfortranarray(y)
    spread = np.broadcast_to(y[:1], y.shape)
    found = one_finding(turned, oracle)
    assert found.status is Status.EXACT
    assert any("not contiguous" in note for note in found.where)
    found = one_finding(spread, oracle)
    assert found.status is Status.BUG
    assert any("zero stride along axis 0" in note for note in found.where)
    assert not one_finding(y, oracle).where[1:]


# Refusals.


def test_what_cannot_be_judged_is_refused_and_each_with_its_own_message(rng):
    oracle = oracle_of(rng)
    right = {n: BFLOAT16.round(v) for n, v in oracle.reference().items()}
    fine = {n: v.astype(np.float32) for n, v in oracle.reference().items()}
    cases = [
        (right | {"dW": right["dW"].T}, BFLOAT16_CONTRACT, "shape"),
        ({n: v for n, v in right.items() if n != "dx"}, BFLOAT16_CONTRACT, "dx must be given"),
        (right | {"db": right["y"]}, BFLOAT16_CONTRACT, "'db'"),
        (fine, BFLOAT16_CONTRACT, "must hold bfloat16"),
        ({n: v.astype(np.float16) for n, v in right.items()}, BFLOAT16_CONTRACT, "cannot hold"),
    ]
    for actual, contract, text in cases:
        with pytest.raises(ValueError, match=text):
            judge(actual, oracle, contract)
    with pytest.raises(TypeError, match="y must be an array"):
        judge(right | {"y": [1.0]}, oracle, BFLOAT16_CONTRACT)


def test_an_input_off_the_contract_s_grid_is_refused_by_its_name(rng):
    oracle = oracle_of(rng, FLOAT32_CONTRACT)
    right = {n: BFLOAT16.round(v) for n, v in oracle.reference().items()}
    with pytest.raises(ValueError, match="x must hold numbers of bfloat16"):
        judge(right, oracle, BFLOAT16_CONTRACT)


@pytest.mark.parametrize("name", ["A", "W", "dy"])
def test_weights_and_cotangents_are_on_the_grid_of_inputs_too(name, rng):
    sizes = {"x": (4, 9), "W": (7, 9), "A": (3, 9), "B": (7, 3), "dy": (4, 7)}
    t = {n: BFLOAT16.round(rng.standard_normal(s)) for n, s in sizes.items()}
    t[name] = t[name] + 2.0**-20
    oracle = lora_linear(t["x"], t["W"], t["A"], t["B"], scale=2.0, dy=t["dy"])
    with pytest.raises(ValueError, match=f"{name} must hold numbers of bfloat16"):
        judge(oracle.reference(), oracle, BFLOAT16_CONTRACT)


# What is asked for.


def test_an_output_that_is_left_out_is_not_judged(rng):
    oracle = oracle_of(rng)
    actual = {"y": BFLOAT16.round(oracle.reference()["y"])}
    outcome = judge(actual, oracle, BFLOAT16_CONTRACT, left_out=("dx", "dW"))
    assert [f.name for f in outcome.findings] == ["y"]
    assert outcome.status is Status.EXACT


def test_a_bare_array_is_the_value(rng):
    oracle = oracle_of(rng)
    oracle = Oracle(oracle.kernel, oracle.inputs)
    y = BFLOAT16.round(oracle.reference()["y"])
    assert (
        judge(y, oracle, BFLOAT16_CONTRACT).findings
        == judge({"y": y}, oracle, BFLOAT16_CONTRACT).findings
    )


def test_a_known_mistake_is_named_unless_it_is_not_asked_for(rng):
    oracle = oracle_of(rng, sizes=(20, 9, 16))
    inputs = oracle.inputs

    def doubled(oracle):
        return {"y": 2 * oracle.inputs["x"] @ oracle.inputs["W"].T}

    oracle = Oracle(product, inputs, mistakes=(Mistake("doubled", "y = 2 x Wᵀ", doubled),))
    right = oracle.reference()["y"]
    wrong, right = BFLOAT16.round(2 * right), BFLOAT16.round(right)
    (diagnosis,) = judge(wrong, oracle, BFLOAT16_CONTRACT).diagnoses
    assert (diagnosis.name, diagnosis.state) == ("doubled", State.PRESENT)
    (diagnosis,) = judge(right, oracle, BFLOAT16_CONTRACT).diagnoses
    assert diagnosis.state is State.EXCLUDED
    outcome = judge(wrong, oracle, BFLOAT16_CONTRACT, known_mistakes=False)
    assert outcome.status is Status.BUG
    assert outcome.diagnoses == ()


def test_the_outcome_has_the_status_of_its_worst_tensor(rng):
    oracle = oracle_of(rng)
    actual = {n: BFLOAT16.round(v) for n, v in oracle.reference().items()}
    actual["dx"] = actual["dx"] * 2
    assert judge(actual, oracle, BFLOAT16_CONTRACT).status is Status.BUG


# Tier 2 alone.


def test_standard_deviations_are_counted_where_they_are_known():
    error = np.array([1.0, -6.0, 3.0, np.nan])
    found = statistics(error, np.array([1.0, 4.0, 0.0, 1.0]))
    assert (found.count, found.max_z) == (2, 3.0)
    assert found.rms_z == pytest.approx(5**0.5, rel=1e-12)


@pytest.mark.parametrize("count", [1, 1000, 10**6])
def test_the_limit_of_the_largest_error_is_twice_that_of_gaussian_ones(count):
    error = np.zeros(count)
    limit = statistics(error, np.ones(count)).limit
    assert limit == pytest.approx(2 * np.sqrt(2 * np.log(2 * count / 1e-9)), rel=1e-12)
    error[0] = limit * 1.01
    spread = statistics(error, np.ones(count))
    assert "limit" in spread.suspicion()
    error[0] = limit * 0.99
    assert "limit" not in statistics(error, np.ones(count)).suspicion()


@pytest.mark.parametrize("known_mistakes", [False, True])
def test_a_bias_that_the_oracle_was_not_given_is_asked_for(known_mistakes, rng):
    x, W, A, B, b = (
        BFLOAT16.round(rng.standard_normal(s)) for s in ((9, 7), (11, 7), (3, 7), (11, 3), 11)
    )
    with_bias = emulate(lora_linear(x, W, A, B, scale=1.25, b=b), BFLOAT16_CONTRACT)
    bare = lora_linear(x, W, A, B, scale=1.25)
    found = judge(with_bias, bare, BFLOAT16_CONTRACT, known_mistakes=known_mistakes).finding("y")
    assert found.status is Status.BUG
    assert found.where[0].startswith("a constant per column: a bias that the oracle does not have")


def test_an_error_that_is_another_in_each_row_is_no_bias(rng):
    x, W, A, B = (
        BFLOAT16.round(rng.standard_normal(s)) for s in ((9, 7), (11, 7), (3, 7), (11, 3))
    )
    wrong = emulate(lora_linear(x, W, A, B, scale=2.5), BFLOAT16_CONTRACT)
    found = judge(wrong, lora_linear(x, W, A, B, scale=1.25), BFLOAT16_CONTRACT).finding("y")
    assert found.status is Status.BUG
    assert not any("bias" in text for text in found.where)
