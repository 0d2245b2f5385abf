"""The exact tests flag no right implementation and every wrong one, whatever the precision."""

import ml_dtypes
import numpy as np
import pytest
from exact_table import MUTANTS, RIGHT, RUNS, to_float64

from lora_ref.verdict import exact
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32

PRECISIONS = {
    "bfloat16": (BFLOAT16, lambda t: t.astype(ml_dtypes.bfloat16)),
    "float16": (FLOAT16, lambda t: t.astype(np.float16)),
    "float32": (FLOAT32, lambda t: t.astype(np.float32)),
    "float64 on bfloat16's numbers": (BFLOAT16, to_float64),
    "float64 on float16's numbers": (FLOAT16, to_float64),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("kernel", "run", "mine"), RIGHT, ids=[kernel for kernel, *_ in RIGHT])
def test_a_right_implementation_passes(kernel, run, mine, precision):
    grid, adapt = PRECISIONS[precision]
    exact.assert_none(run(mine, grid, adapt=adapt))


@pytest.mark.parametrize(
    ("run", "mine"), [m[3:] for m in MUTANTS], ids=[f"{m[0]}-{m[2]}" for m in MUTANTS]
)
def test_a_wrong_implementation_is_caught(run, mine):
    assert run(mine, BFLOAT16)


@pytest.mark.parametrize("seed", [1, 5])
@pytest.mark.parametrize("kernel", ["linear", "mixed", "embedding", "fused", "merged", "dora"])
def test_mutants_are_caught_whatever_the_seed(kernel, seed):
    run, _, families = RUNS[kernel]
    mutants = {name: mine for family in families.values() for name, mine in family.items()}
    assert [name for name, mine in mutants.items() if not run(mine, BFLOAT16, seed=seed)] == []


def test_there_are_enough_mutants_of_each_family():
    counts = {family: sum(m[1] == family for m in MUTANTS) for _, family, *_ in MUTANTS}
    assert min(counts[f] for f in ("mask", "heads", "page", "scale", "bias", "layout")) >= 6
    assert sum(counts.values()) >= 60


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h % K for h // (H/K)", "k and v: h % K explains it"),
        ("h % K for v only", "v alone: h % K explains it"),
        ("h % K for k only", "k alone: h % K explains it"),
        ("one masked cell leaks", "the one cell (5, 33) is masked and leaks"),
        ("one allowed cell dropped", "the one cell (18, 4) is allowed and dropped"),
        ("one key ahead", "one key too long for every query"),
        ("first row of each tile sees one more", "one key too long for the queries 0, 16, 32"),
        ("itself excluded", "one key too short for every query"),
        ("window one key too long", "the window is one key too long"),
        ("first key dropped", "the first key is dropped"),
        ("batch entry 0 for all", "another batch entry"),
        ("value of the next key", "36 keys (of 37) further on"),
        ("last query stale", "query 36 alone"),
        ("scale missing", "no scale"),
        ("scale halved", "half as large"),
        ("scale squared", "scale applied twice"),
        ("A transposed if square", "A read transposed"),
        ("none is adapter 0", "gets adapter 0 where none is right"),
    ],
)
def test_the_message_names_the_bug(name, words):
    found = [run(mine, BFLOAT16) for _, _, n, run, mine in MUTANTS if n == name]
    assert any(words in str(failure) for failures in found for failure in failures)


@pytest.mark.parametrize("name", ["last head reads head 0", "k heads swapped", "no mask"])
def test_no_bug_is_named_that_explains_only_a_part(name):
    run, mine = next(m[3:] for m in MUTANTS if m[2] == name)
    says = run(mine, BFLOAT16)[0].says
    assert "reverse" not in says
    assert "off by one" not in says
    assert "h % K" not in says


def test_the_assertion_lists_every_failure():
    failures = RUNS["linear"][0](lambda *a: {"y": 0 * a[-1]}, BFLOAT16)
    with pytest.raises(exact.Mismatch, match="3 exact tests failed"):
        exact.assert_none(failures)


def test_an_unknown_output_is_refused_by_name():
    with pytest.raises(ValueError, match="outputs must be among y, dx, dA, dB, db, got 'dw'"):
        exact.lora_linear_tests(lambda x, *rest: {"dw": x}, BFLOAT16)


def test_a_wrong_shape_is_said_to_be_one():
    failures = exact.lora_linear_tests(lambda *a: a[-1].T, BFLOAT16)
    assert "y must have the shape (13, 11), got (11, 13)" in failures[0].says


def test_nan_is_not_the_exact_result():
    assert exact.lora_linear_tests(lambda *a: np.full_like(a[-1], np.nan), BFLOAT16)


def test_a_function_that_forgets_differs_from_run_to_run():
    calls = []

    def mine(x, W, b, A, B, s, dy):
        calls.append(x)
        return x @ W.T + s * (x @ A.T @ B.T) + b + 1e-30 * 2.0 ** (150 + len(calls))

    names = {failure.test for failure in exact.lora_linear_tests(mine, BFLOAT16)}
    assert "repeatable" in names


def test_the_base_must_be_the_base_bit_for_bit():
    right = RUNS["linear"][1]
    tests = exact.LORA_LINEAR_TESTS
    assert not exact.lora_linear_tests(
        right, BFLOAT16, base=lambda x, W, b: x @ W.T + b, tests=tests
    )
    failures = exact.lora_linear_tests(
        right, BFLOAT16, base=lambda x, W, b: x @ W.T + 2 * b, tests=tests
    )
    assert {f.test for f in failures} == {"update_of_zero"}
