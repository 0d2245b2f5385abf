"""Many verdicts folded into one entry for each tensor and mistake of a test."""

import json
from dataclasses import replace

import pytest

from lora_ref.testing.recording import fold, found, listening, record
from lora_ref.testing.report import write_reports
from lora_ref.verdict.contract import BFLOAT16_CONTRACT, FLOAT16_CONTRACT
from lora_ref.verdict.findings import Diagnosis, Finding, Outcome, State, Status


def verdict(status=Status.ROUNDING, ratio=0.5, state=State.EXCLUDED, signal=90.0, **others):
    finding = Finding("y", status, "", (2,), ratio=ratio, worst=(1,))
    diagnosis = Diagnosis("no bias", "b left out", state, 0.0, 0.1, signal)
    return Outcome(others.get("contract", BFLOAT16_CONTRACT), (finding,), (diagnosis,))


def folded(*verdicts):
    judgements = []
    for outcome in verdicts:
        fold(judgements, outcome)
    return judgements


@pytest.mark.parametrize("ratios", [(0.25, 0.75, 0.5), (0.75, 0.5, 0.25), (0.5, 0.25, 0.75)])
def test_the_largest_ratio_is_kept_in_any_order(ratios):
    (judgement,) = folded(*(verdict(ratio=ratio) for ratio in ratios))
    assert judgement["tensors"]["y"]["ratio"] == 0.75
    assert judgement["tensors"]["y"]["calls"] == judgement["calls"] == 3


def test_a_more_severe_status_counts_before_a_larger_ratio():
    (judgement,) = folded(verdict(Status.UNDECIDABLE, 0.1), verdict(Status.ROUNDING, 0.9))
    assert judgement["tensors"]["y"]["status"] == "undecidable"


def test_a_ratio_that_is_nan_is_the_worst():
    (judgement,) = folded(verdict(Status.BUG, float("nan")), verdict(Status.BUG, 9.0))
    assert judgement["tensors"]["y"]["ratio"] != judgement["tensors"]["y"]["ratio"]


@pytest.mark.parametrize("first", [0, 1])
def test_what_one_call_decides_is_decided(first):
    calls = [verdict(state=State.EXCLUDED), verdict(state=State.UNDECIDABLE, signal=3.0)]
    (judgement,) = folded(calls[first], calls[1 - first])
    assert judgement["diagnoses"]["no bias"]["state"] == "EXCLUDED"


def test_present_mistakes_come_with_the_surest_first():
    rows = [{"name": n, "state": "PRESENT", "signal": s} for n, s in (("a", 9.0), ("b", 80.0))]
    rows.append({"name": "c", "state": "EXCLUDED", "signal": 500.0})
    assert [d["name"] for d in found(rows)] == ["b", "a"]


def test_half_a_surrogate_pair_is_written_out_wherever_it_comes_from():
    odd = "a\ud800"
    contract = replace(BFLOAT16_CONTRACT, name=odd)
    finding = Finding(odd, Status.UNDECIDABLE, odd, (2,), where=(odd,))
    diagnosis = Diagnosis(odd, odd, State.PRESENT, 1.0, 0.1, 90.0)
    outcome = Outcome(contract, (finding,), (diagnosis,), audit=(odd,), power=(odd,))
    judgements = folded(outcome, outcome)
    assert "ud800" in repr(judgements).encode("utf-8").decode()
    (judgement,) = judgements
    assert judgement["calls"] == 2
    assert (judgement["name"], judgement["audit"]) == ("a\\ud800", ["a\\ud800"])
    assert {*judgement["tensors"]} == {*judgement["diagnoses"]} == {"a\\ud800"}
    json.dumps(judgements, ensure_ascii=False).encode("utf-8")


def test_two_contracts_of_one_test_are_two_judgements():
    judgements = folded(verdict(), verdict(contract=FLOAT16_CONTRACT), verdict())
    assert [(j["name"], j["calls"]) for j in judgements] == [("bfloat16", 2), ("float16", 1)]


def test_the_innermost_listener_alone_hears_of_a_verdict_and_says_whether_it_is_strict():
    outer, inner = [], []
    with listening(outer.append), listening(inner.append, strict=True):
        assert record(verdict()) is True
    assert (len(outer), len(inner)) == (0, 1)


def test_without_a_listener_a_verdict_goes_nowhere(monkeypatch):
    monkeypatch.setattr("lora_ref.testing.recording._listeners", [])
    assert record(verdict()) is False


def test_a_report_that_cannot_be_put_in_place_leaves_the_old_one_and_no_partial_file(
    tmp_path, monkeypatch
):
    report = tmp_path / "out.json"
    report.write_text("old")

    def refuse(source, target):
        raise OSError("no space")

    monkeypatch.setattr("lora_ref.testing.report.os.replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_reports(report, [], strict=False)
    assert report.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
