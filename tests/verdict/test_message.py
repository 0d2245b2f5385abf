"""The message of a verdict: what a kernel author needs, on one screen."""

import math
from dataclasses import replace

import pytest

from lora_ref.verdict.contract import BFLOAT16_CONTRACT
from lora_ref.verdict.findings import Diagnosis, Finding, Outcome, State, Status
from lora_ref.verdict.message import message
from lora_ref.verdict.together import blind_spots_of

WRONG = Finding(
    "dB",
    Status.BUG,
    "",
    (5, 3),
    ratio=312.4,
    worst=(4, 2),
    actual=0.53,
    expected=0.17,
    bound=0.00115,
    ulps=1024.0,
    outside=15,
    where=("everywhere", "the error is a multiple of the value"),
)
RIGHT = Finding("y", Status.ROUNDING, "", (2, 3), ratio=0.8199)
PRESENT = Diagnosis("dB_no_scale", "dB = dyᵀ u", State.PRESENT, 1.00012, 0.00021, 4800.0)
EXCLUDED = Diagnosis("alpha_sqrt_r", "s = α/√r", State.EXCLUDED, 0.001, 0.002, 300.0)
FEW = "it stands out by 3.1 standard deviations, 8 are needed"
OPEN = Diagnosis("no_bias", "b left out", State.UNDECIDABLE, 0.4, 0.6, 3.1, FEW)
HIDDEN = replace(OPEN, name="no_scale", reason="another error hides it")


def said(*findings, **others):
    return message(Outcome(BFLOAT16_CONTRACT, findings, **others))


def test_the_message_of_a_typical_failure_in_full():
    text = said(
        WRONG,
        RIGHT,
        diagnoses=(PRESENT, EXCLUDED, OPEN, HIDDEN),
        audit=("accumulates in bfloat16, where float32 is claimed",),
        power=("no_bias: use regime BALANCED",),
    )
    assert text == (
        "bug: no evaluation that the contract admits gives these numbers (1 of 2 tensors)\n"
        "contract: bfloat16 (inputs bfloat16, intermediates bfloat16, accumulator float32, output "
        "bfloat16; blocks of 256); .explain() lists the roundings it admits\n"
        "  dB: bug, worst error/bound 312\n"
        "    worst at (4, 2): 0.53 where 0.17 is expected, bound 0.00115, off by 312 bounds and "
        "1,024 ulps\n"
        "    15 of 15 elements are outside their bounds; everywhere; the error is a multiple of "
        "the value\n"
        "  y: rounding, worst error/bound 0.82\n"
        "diagnosis: dB_no_scale PRESENT: dB = dyᵀ u (β = 1.0001 ± 0.0002 of the mistake is in the "
        "outputs)\n"
        "diagnosis: 1 known mistake is EXCLUDED; UNDECIDABLE: no_scale (another error hides it); "
        "1 UNDECIDABLE with these inputs, see power\n"
        "audit: accumulates in bfloat16, where float32 is claimed\n"
        "power: no_bias: use regime BALANCED"
    )


def test_a_typical_failure_of_a_layer_with_a_bias_fits_fifteen_lines():
    findings = [replace(WRONG, name=name) for name in ("y", "dA")]
    findings += [replace(RIGHT, name=name) for name in ("dx", "dB", "db")]
    text = said(*findings, diagnoses=(PRESENT, EXCLUDED, OPEN))
    assert len(text.splitlines()) <= 15


def test_of_many_wrong_tensors_the_worst_three_are_told_and_the_rest_listed():
    findings = [replace(WRONG, name=f"t{n}", ratio=float(n)) for n in range(2, 12)]
    text = said(*findings)
    assert text.count("worst at") == 3
    assert text.index("t11") < text.index("t10") < text.index("t2:")
    assert all(f"t{n}: bug" in text for n in range(2, 12))


def test_of_many_right_tensors_those_nearest_to_their_bounds_are_named():
    findings = [replace(RIGHT, name=f"t{n}", ratio=n / 100) for n in range(20)]
    text = said(WRONG, *findings)
    assert [name for name in ("t19:", "t18:", "t17:") if name not in text] == []
    assert "t16:" not in text
    assert "17 more pass, all further inside their bounds" in text


def test_a_bug_comes_before_a_suspect_of_any_ratio():
    suspect = Finding("y", Status.SUSPECT, "", (2, 3), ratio=0.99, max_z=7.1, rms_z=3.4)
    text = said(suspect, WRONG)
    assert text.index("dB: bug") < text.index("y: suspect")


def test_a_suspect_shows_its_statistics():
    text = said(Finding("y", Status.SUSPECT, "", (2, 3), ratio=0.9, max_z=7.1, rms_z=3.4))
    assert text.startswith("suspect: within the bounds, but not what random roundings leave")
    assert "max z 7.1; rms z 3.4, where honest rounding leaves 1" in text


def test_an_undecidable_tensor_says_how_much_of_it_and_why():
    reason = "the sum may overflow float16"
    text = said(Finding("y", Status.UNDECIDABLE, reason, (2, 3), undecidable=4))
    assert "y (2, 3) undecidable: the sum may overflow float16" in text
    assert "4 of 6 elements are undecidable" in text


def test_a_tensor_of_the_wrong_shape_has_a_reason_and_no_worst_element():
    text = said(Finding("y", Status.BUG, "must have shape (2, 3), got (3, 2)", (2, 3), math.inf))
    assert "y (2, 3) bug: must have shape (2, 3), got (3, 2)" in text
    assert "worst at" not in text


def test_a_scalar_has_an_empty_index():
    finding = Finding("y", Status.BUG, "", (), ratio=2.0, actual=3.0, expected=1.0, bound=1.0)
    assert "worst at (): 3 where 1 is expected" in said(finding)


def test_a_scalar_that_nothing_is_known_of_has_no_worst_element():
    assert "worst at" not in said(Finding("y", Status.UNDECIDABLE, "may overflow", ()))


def test_undecidable_mistakes_are_named_by_reason_and_those_nearly_visible_first():
    blind = [replace(OPEN, name=f"m{n}", signal=float(n)) for n in range(6)]
    part = "0.685 of it is there: not this mistake as it is known"
    text = said(WRONG, diagnoses=(*blind, replace(OPEN, signal=50.0, reason=part), HIDDEN))
    assert text.endswith(
        f"UNDECIDABLE: no_bias ({part}); m5, m4, m3, m2 and 2 more ({FEW}); "
        "no_scale (another error hides it)"
    )


def test_reasons_that_differ_in_numbers_alone_are_told_once_with_their_range():
    other = replace(OPEN, name="later", reason=FEW.replace("3.1", "0.25"), signal=0.25)
    assert said(WRONG, diagnoses=(OPEN, other)).endswith(
        "no_bias and later (it stands out by 0.25 to 3.1 standard deviations, 8 are needed)"
    )


def test_a_wall_of_blind_spots_is_a_line_for_each_reason_with_the_advice_of_those_it_names():
    swamped = replace(OPEN, reason="swamped", advice="a larger update; s not 1")
    many = [replace(swamped, name=f"m{n}", signal=50.0 - n) for n in range(27)]
    first, second = blind_spots_of([*many, OPEN, HIDDEN])
    assert first == ("m0, m1, m2, m3 and 23 more: swamped; to see it: a larger update; or s not 1")
    assert second == f"no_bias: {FEW}"


def test_ulps_are_not_told_where_zero_is_expected():
    text = said(replace(WRONG, expected=0.0, ulps=1.26e39))
    assert "where 0 is expected, bound 0.00115, off by 312 bounds\n" in text
    assert "ulps" not in text


def test_a_line_has_no_ratio_where_all_is_exact_and_the_reason_where_nothing_is_decided():
    assert replace(RIGHT, status=Status.EXACT, ratio=1.0).line() == "y: exact"
    open_one = replace(RIGHT, status=Status.UNDECIDABLE, reason="the update is swamped")
    assert open_one.line() == "y: undecidable, the update is swamped"


def test_nan_where_a_number_is_expected_is_shown_and_comes_first():
    lost = replace(WRONG, name="dA", ratio=math.nan, actual=math.nan)
    for text in (said(WRONG, lost), said(lost, WRONG)):
        assert "nan where 0.17 is expected" in text
        assert text.index("dA: bug") < text.index("dB: bug")


def test_an_outcome_without_a_failure_is_one_headline_and_a_line_per_tensor():
    lines = said(RIGHT, replace(RIGHT, name="dA")).splitlines()
    assert lines[0] == "rounding: all 2 tensors match"
    assert lines[2:] == [
        "  y: rounding, worst error/bound 0.82",
        "  dA: rounding, worst error/bound 0.82",
    ]


@pytest.mark.parametrize(
    ("share", "error", "shown"),
    [(0.9876, 0.02, "0.99 ± 0.02"), (1.0, 0.5, "1.0 ± 0.5"), (1.0, 0.0, "1.0 ± 0")],
)
def test_a_share_has_the_digits_of_its_error(share, error, shown):
    diagnosis = replace(PRESENT, share=share, error=error)
    assert f"β = {shown} of" in said(WRONG, diagnoses=(diagnosis,))
