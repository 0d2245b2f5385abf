"""The power benchmark: its right implementations are right, its mutants not, its rules as told."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KINDS = ("lora_linear", "lora_merged", "dora_linear", "attention")
TORCH = ("implementations", "implementations_dora", "implementations_attention")
PEERS = ("torch", "peft")
FEW_SEEDS = (3, 4)  # planted cases, in regimes in which errors have a size to be compared with

pytestmark = pytest.mark.peers


@pytest.fixture
def study(monkeypatch):
    """A module of the benchmark's package, which lies beside the library."""
    for package in PEERS:
        pytest.importorskip(package, reason=f"{package} is in the [peers] extra")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"power_study.{name}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_correct_implementations_raise_no_alarm(study, kind, dtype):
    unit = study("measure").Unit("sound", kind, dtype, 1_000_003, TORCH)
    record = study("measure").measure(unit)
    assert record["runs"]
    assert [run for run in record["runs"] if run["bug"] or run["suspect"]] == []


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("lora_linear", 3_000_024),
        ("lora_linear", 3_000_060),
        ("dora_linear", 3_000_135),
        ("dora_linear", 3_000_172),
        ("dora_linear", 3_000_228),
    ],
)
def test_roundings_that_elements_share_raise_no_alarm(study, kind, seed):
    """27 suspects among 121,354 right tensors of an earlier sweep: growth of sums of one sign,
    the norm of a row, a number loaded as float8."""
    modules = (*TORCH, "implementations_emulated")
    runs = study("measure").measure(study("measure").Unit("sound", kind, "bfloat16", seed, modules))
    assert runs["runs"]
    assert [run for run in runs["runs"] if run["bug"] or run["suspect"] or run["present"]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_correct_implementation_is_a_few_roundings_of_the_largest_element(
    study, kind
):
    draw, exact = study("cases").draw, study("dtypes").exact
    for case in (draw(kind, "bfloat16", seed, planted=True) for seed in FEW_SEEDS):
        right = study("oracles").reference(case)
        for one in study("implementations_all").siblings(case):
            for name, found in one.run(case).items():
                error = np.abs(exact(found) - right[name]).max()
                assert error <= 64 * 2.0**-8 * np.abs(right[name]).max(), (one.name, name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutant_differs_from_its_sibling_and_keeps_to_its_dtype(study, kind):
    case = study("cases").draw(kind, "bfloat16", 3, planted=True)
    sibling = study("implementations_all").eager(case)
    right = sibling.run(case)
    changed = set()
    for mutant in study("mutants").MUTANTS:
        found = mutant.planted(case, sibling)
        if found is not None and study("mutant").changes(found, right):
            changed.add(mutant.name)
            assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in right.items()}
    assert len(changed) >= 15


def test_the_names_of_mutants_are_those_of_the_catalogue(study):
    from lora_ref.verdict.mistakes import names

    known = {value for value in vars(names).values() if isinstance(value, str)}
    mutants = study("mutants").MUTANTS
    used = {name for mutant in mutants for name in (*mutant.names, *mutant.akin)}
    assert used <= known
    assert len({mutant.name for mutant in mutants}) == len(mutants)


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_determined_by_its_seed(study, kind):
    one, other = (study("cases").draw(kind, "float16", 5) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one.arrays)


def test_a_rival_is_tuned_to_the_largest_severity_of_the_training_seeds(study):
    run = {"severity": {"y": {"NMSE 5e-4": 0.5}, "dA": {"NMSE 5e-4": 2.0}}}
    train = [{"dtype": "bfloat16", "kind": "lora_linear", "runs": [run]}]
    overall, by_tensor = study("tables").thresholds(train, "NMSE 5e-4")
    assert overall == {"bfloat16": 2.0}
    assert by_tensor["bfloat16", "lora_linear", "y"] == 0.5


@pytest.mark.parametrize(
    ("rival", "factor", "alarm"),
    [
        ("torch assert_close", 1.01, False),
        ("torch assert_close", 1.02, True),
        ("cosine .999", 1.5, False),
        ("NMSE 5e-4", 1.02, False),
        ("NMSE 5e-4", 1.03, True),
        ("array-api-tests .25/1", 0.0, False),
        ("flash 2×/3×", 1.01, False),
        ("flash 2×/3×", 1.03, True),
    ],
)
def test_a_rival_s_rule_is_the_published_one(study, rival, factor, alarm):
    r = np.array([0.5, 0.25])
    tensor = study("rivals").Tensor("y", "bfloat16", factor * r, r, 1.01 * r)
    assert (study("rivals").RIVALS[rival](tensor) > 1) is alarm


def test_a_sweep_goes_on_where_it_was_stopped(study, tmp_path, monkeypatch):
    sweep, calls = study("sweep"), []

    def measured(unit):
        calls.append(unit.key)
        return {"key": unit.key, "role": unit.role, "runs": [{"elements": 10}]}

    monkeypatch.setattr(sweep, "measure", measured)
    plan = sweep.Plan(7, 8, 20, 60.0, ("float16",))
    first = sweep.sweep(plan, tmp_path / "power.jsonl")
    measured_once = list(calls)
    again = sweep.sweep(plan, tmp_path / "power.jsonl")
    assert len(first) == len(again) == len(measured_once)
    assert calls == measured_once
