"""What honest implementations show as well is not held against an implementation."""

import numpy as np
import pytest

from lora_ref.verdict.bounds import bounds
from lora_ref.verdict.calibration import Emulations
from lora_ref.verdict.contract import BFLOAT16_CONTRACT
from lora_ref.verdict.doubts import doubted, doubted_gains
from lora_ref.verdict.findings import State
from lora_ref.verdict.grids import BFLOAT16
from lora_ref.verdict.matched_filter import diagnose
from lora_ref.verdict.mistakes.names import SCALE_LEFT_OUT
from lora_ref.verdict.oracles import lora_linear
from lora_ref.verdict.path_gains import path_gains
from lora_ref.verdict.statistics import CHANCE, independent, statistics
from lora_ref.verdict.view import view

SIZES = {"x": (24, 64), "W": (40, 64), "A": (3, 64), "B": (40, 3), "dy": (24, 40)}


def inputs_of(oracle):
    """What an oracle of LoRA was made of, but for its scale."""
    adapter = oracle.inputs["adapter"]
    named = {"x": oracle.inputs["x"], "W": oracle.static["W"], "A": adapter.A, "B": adapter.B}
    return named | {"dy": oracle.cotangent}


@pytest.fixture
def case(rng):
    """An oracle, what it would be with the scale left out, and its view of that."""
    t = {n: BFLOAT16.round(rng.standard_normal(s)) for n, s in SIZES.items()}
    oracle, wrong = (lora_linear(**t, scale=s) for s in (5 / 3, 1.0))
    outputs = {n: BFLOAT16.round(v * 1.0) for n, v in wrong.reference().items()}
    variance = {n: b.s for n, b in bounds(oracle, BFLOAT16_CONTRACT).items()}
    return oracle, outputs, view(oracle, BFLOAT16_CONTRACT, variance, outputs)


def test_a_mistake_that_no_honest_output_shows_stays_present(case):
    oracle, _, seen = case
    found = diagnose(seen)
    honest = Emulations(oracle, BFLOAT16_CONTRACT).outputs
    assert [d.name for d in found if d.state is State.PRESENT] == [SCALE_LEFT_OUT]
    assert doubted(found, seen, honest) == found


def test_a_mistake_that_an_honest_output_shows_as_well_is_undecidable(case):
    oracle, outputs, seen = case
    right = {n: oracle.reference()[n] for n in outputs}
    quarter = {n: right[n] + 0.26 * (t - right[n]) for n, t in outputs.items()}
    found, *_ = doubted(diagnose(seen), seen, [quarter])
    assert found.name == SCALE_LEFT_OUT
    assert found.state is State.UNDECIDABLE
    assert found.reason.startswith("honest rounding alone looks like 0.26")


def test_a_gain_that_honest_outputs_have_as_well_is_not_off(case):
    oracle, outputs, seen = case
    gains = path_gains(seen)
    assert [g.name for g in gains if g.is_off()] == ["update"]
    honest = Emulations(oracle, BFLOAT16_CONTRACT).outputs
    assert [g.name for g in doubted_gains(gains, seen, honest) if g.is_off()] == ["update"]
    assert not any(g.is_off() for g in doubted_gains(gains, seen, [outputs]))


def test_rounding_that_loses_a_path_does_not_turn_its_sign(case):
    """Honest outputs without the update say nothing about one that is subtracted."""
    oracle, _, _ = case
    right = oracle.reference()
    twice = lora_linear(**inputs_of(oracle), scale=2 * 5 / 3).reference()
    without, turned = ({n: right[n] - c * (twice[n] - right[n]) for n in right} for c in (1, 2))
    variance = {n: b.s for n, b in bounds(oracle, BFLOAT16_CONTRACT).items()}
    for outputs, is_off in ((without, False), (turned, True)):
        seen = view(oracle, BFLOAT16_CONTRACT, variance, outputs)
        update = doubted_gains(path_gains(seen), seen, [without])[1]
        assert (update.name, update.is_off()) == ("update", is_off)


@pytest.mark.parametrize(("shape", "roundings"), [((5, 7), 5), ((2, 3, 4), 4), ((9,), 9), ((), 1)])
def test_a_tensor_has_as_many_roundings_as_rows_or_columns_at_least(shape, roundings):
    assert independent(shape) == roundings


def test_errors_of_one_row_may_all_be_one_rounding(rng):
    """One rounding of 6 σ has a chance of δ; 100 rows of them have none."""
    one_row, rows = (statistics(np.full(s, 6.0), np.ones(s)) for s in ((1, 5), (100, 5)))
    assert not one_row.suspicion()
    assert rows.suspicion()
    assert np.mean(abs(rng.standard_normal(10_000)) > one_row.limit_rms) <= CHANCE
