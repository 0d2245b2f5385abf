"""What mistakes, gains, lost elements and unbounded ones do to the verdict on each tensor."""

from dataclasses import replace

import numpy as np
import pytest

from lora_ref.testing.regimes import BALANCED, TRAINED
from lora_ref.verdict import honest
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT16_FLOAT32_INTERMEDIATES,
    FLOAT32_CONTRACT,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.findings import State, Status
from lora_ref.verdict.grids import BFLOAT16, FLOAT16
from lora_ref.verdict.judge import judge
from lora_ref.verdict.mistakes import names
from lora_ref.verdict.oracle import Mistake, Oracle
from lora_ref.verdict.oracles import dora_linear, lora_linear

FINE = (Status.EXACT, Status.ROUNDING)


def product(x, W):
    return x @ W.T, lambda dy: (dy @ W, dy.T @ x)


def product_with(outputs, rng):
    x, W, dy = (
        FLOAT32_CONTRACT.inputs.round(rng.standard_normal(s))
        for s in ((30, 200), (20, 200), (30, 20))
    )
    return Oracle(
        product, {"x": x, "W": W}, cotangent=dy, mistakes=(Mistake("grown", "", outputs),)
    )


def trained(rng, scale=1.5):
    """LoRA at bfloat16 with a bias and all gradients."""
    t = TRAINED.linear(rng, T=16, n=128, m=96, r=8, scale=1.5, grid=BFLOAT16)
    b = BFLOAT16.round(rng.standard_normal(96))
    return lora_linear(t["x"], t["W"], t["A"], t["B"], scale=scale, b=b, dy=t["dy"])


# Which tensors a mistake makes suspect.


def grown_y(oracle):
    return {"y": oracle.reference()["y"] * (1 + 2.0**-19)}


def grown_y_among_all(oracle):
    return oracle.reference() | grown_y(oracle)


def grown_y_among_all_summed_otherwise(oracle):
    """Float64's own roundings are no change."""
    return {n: t * (1 + 2.0**-52) for n, t in grown_y_among_all(oracle).items()}


@pytest.mark.parametrize(
    "outputs", [grown_y, grown_y_among_all, grown_y_among_all_summed_otherwise]
)
def test_only_outputs_that_a_mistake_changes_are_suspect(outputs, rng):
    oracle = product_with(outputs, rng)
    actual = {n: t.astype(np.float32) for n, t in grown_y_among_all(oracle).items()}
    outcome = judge(actual, oracle, FLOAT32_CONTRACT)
    (present,) = outcome.present
    assert (present.name, present.outputs) == ("grown", ("y",))
    assert outcome.finding("y").status is Status.SUSPECT
    assert "fits: grown" in outcome.finding("y").reason
    assert outcome.finding("dx").status in FINE
    assert outcome.finding("dW").status in FINE


def test_only_outputs_that_a_weak_path_is_in_are_suspect():
    oracle, weak = (trained(np.random.default_rng(0), scale) for scale in (1.5, 1.48))
    actual = {n: emulate(weak, BFLOAT16_CONTRACT)[n] for n in ("y", "dx", "db")}
    outcome = judge(actual, oracle, BFLOAT16_CONTRACT, left_out=("dA", "dB"))
    (off,) = (gain for gain in outcome.gains if gain.is_off())
    assert (off.name, off.outputs) == ("update", ("y", "dx"))
    assert {f.name for f in outcome.findings if f.status is Status.SUSPECT} == {"y", "dx"}
    assert outcome.finding("db").status in FINE


def weak_y(oracle):
    """y with an update that is 0.8 % too small."""
    adapter, x = oracle.inputs["adapter"], oracle.inputs["x"]
    return {"y": oracle.reference()["y"] - 0.008 * adapter.scale * (x @ adapter.A.T) @ adapter.B.T}


def test_a_mistake_in_y_does_not_make_the_path_suspect_in_dx():
    """That the gain pooled over both is off is then no news."""
    rng = np.random.default_rng(0)
    t = TRAINED.linear(rng, T=16, n=24, m=400, r=8, scale=1.5, grid=BFLOAT16)
    oracle = lora_linear(t["x"], t["W"], t["A"], t["B"], scale=1.5, dy=t["dy"])
    oracle = replace(oracle, mistakes=(Mistake("weak", "", weak_y),))
    actual = {"dx": emulate(oracle, BFLOAT16_CONTRACT)["dx"]}
    actual |= {n: BFLOAT16.round(t) for n, t in weak_y(oracle).items()}
    outcome = judge(actual, oracle, BFLOAT16_CONTRACT, left_out=("dA", "dB"))
    assert [d.name for d in outcome.present] == ["weak"]
    assert [(g.name, g.outputs) for g in outcome.gains if g.is_off()] == [("update", ("y", "dx"))]
    assert {f.name for f in outcome.findings if f.status is Status.SUSPECT} == {"y"}
    assert outcome.finding("dx").status in FINE


# One element that is no number.


def test_one_nan_does_not_cost_the_diagnosis():
    oracle = trained(np.random.default_rng(0))
    for scale, expected in ((1.5, []), (1.5 * 8**0.5, [names.ROOT_FOR_RANK])):
        actual = emulate(trained(np.random.default_rng(0), scale), BFLOAT16_CONTRACT)
        actual["y"][3, 5] = np.nan
        actual["dA"][1, 2] = np.inf
        outcome = judge(actual, oracle, BFLOAT16_CONTRACT)
        assert outcome.status is Status.BUG
        assert [d.name for d in outcome.present] == expected
        assert {d.state for d in outcome.diagnoses} <= {State.PRESENT, State.EXCLUDED}
        assert all(np.isfinite(gain.error) for gain in outcome.gains)


def test_where_nearly_all_is_nan_that_is_the_reason_and_not_the_inputs():
    oracle = trained(np.random.default_rng(0))
    actual = {n: t * np.nan for n, t in emulate(oracle, BFLOAT16_CONTRACT).items()}
    outcome = judge(actual, oracle, BFLOAT16_CONTRACT)
    assert {d.state for d in outcome.diagnoses} == {State.UNDECIDABLE}
    assert all("NaN or infinite" in d.reason for d in outcome.diagnoses)
    assert outcome.power == ()


def test_a_mistake_in_y_is_not_said_to_be_in_the_forward_alone_if_a_gradient_is_lost():
    rng = np.random.default_rng(0)
    oracle = trained(rng)
    actual = emulate(oracle, BFLOAT16_CONTRACT)
    unscaled = trained(np.random.default_rng(0), 1.5 * 8**0.5)
    actual["y"] = emulate(unscaled, BFLOAT16_CONTRACT)["y"]
    alone = judge(actual, oracle, BFLOAT16_CONTRACT).present
    assert [d.name for d in alone] == [f"{names.ROOT_FOR_RANK}, in the forward alone"]
    actual["dx"] = actual["dx"] * np.nan
    assert judge(actual, oracle, BFLOAT16_CONTRACT).present == ()


# Elements without a bound.


def reason_of(f, contract, *inputs):
    oracle = Oracle(f, {f"x{i}": np.array(t) for i, t in enumerate(inputs)})
    y = contract.output.round(np.nan_to_num(oracle.reference()["y"]))
    found = judge(y, oracle, contract).finding("y")
    assert found.status is Status.UNDECIDABLE
    return found.reason


def test_a_divisor_that_may_be_zero_is_not_called_an_overflow():
    """(1 + t) − 1 is 0 if 1 + t is rounded to bfloat16, and t if it is not."""
    said = reason_of(
        lambda one, t: (one / ((one + t) - one), None),
        BFLOAT16_CONTRACT,
        [1.0, 1.0],
        [0.5, 2.0**-10],
    )
    assert said.startswith("1 element without a bound")
    assert "a divisor" in said


def test_a_result_that_leaves_the_range_of_its_grid_is_an_overflow_of_that_grid():
    for contract in (FLOAT16_CONTRACT, FLOAT16_FLOAT32_INTERMEDIATES):
        said = reason_of(lambda a, b: (a + b, None), contract, [60000.0, 1.0], [8000.0, 1.0])
        assert said == "1 element may overflow float16, legally"


def test_of_an_intermediate_the_smallest_grid_is_named():
    said = reason_of(lambda a: (a * a / a, None), FLOAT16_CONTRACT, [300.0, 2.0])
    assert "an intermediate may overflow float16" in said


def test_a_reference_that_is_not_finite_is_said_to_be_so():
    def halves(a):
        with np.errstate(divide="ignore"):
            return 1.0 / a, None

    said = reason_of(halves, FLOAT32_CONTRACT, [0.0, 2.0])
    assert said == "the reference of 1 element is itself not finite"


# All at once.


@pytest.mark.parametrize("tokens", [4, 4000])
@pytest.mark.parametrize("contract", [FLOAT16_CONTRACT, FLOAT16_FLOAT32_INTERMEDIATES])
def test_a_legal_overflow_is_judged_with_known_mistakes_and_without_a_warning(contract, tokens):
    """Warnings are errors here. Of 4,000 tokens a sample is looked at first."""
    rng = np.random.default_rng(0)
    t = BALANCED.linear(rng, T=tokens, n=32, m=24, r=8, scale=2.0, grid=FLOAT16)
    x = np.concatenate([t["x"][: tokens // 4] * 2.0**13, t["x"][tokens // 4 :]])
    m = FLOAT16.round(16 * np.linalg.norm(t["W"], axis=1))
    arrays = (x, 16 * t["W"], t["A"], t["B"])
    for oracle in (
        lora_linear(*arrays, scale=2.0, dy=t["dy"]),
        dora_linear(*arrays, m, scale=2.0, dy=t["dy"]),
    ):
        outcome = judge(emulate(oracle, contract), oracle, contract)
        assert outcome.finding("y").undecidable > 0
        assert outcome.status is not Status.BUG
        assert not outcome.present


def test_what_honest_kernels_do_is_computed_once_for_diagnosis_and_gains(monkeypatch):
    calls = []
    original = honest.noises_of

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr("lora_ref.verdict.view.noises_of", counted)
    oracle = trained(np.random.default_rng(0))
    outcome = judge(emulate(oracle, BFLOAT16_CONTRACT), oracle, BFLOAT16_CONTRACT)
    assert outcome.diagnoses
    assert outcome.gains
    assert len(calls) == 1
