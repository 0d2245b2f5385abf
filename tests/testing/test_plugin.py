"""The pytest plugin, in sessions of its own: what it says, sends, writes, and that it is inert."""

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

# An inner session forgets what it is the first to import, and NumPy cannot be imported twice.
import_module("lora_ref.testing.matches")

# Verdicts made by hand: the inner test gives the worst error/bound instead of an array.
INNER = """
import pytest
import lora_ref.testing.matches as matches
from lora_ref.verdict.contract import BFLOAT16_CONTRACT
from lora_ref.verdict.findings import Diagnosis, Finding, Outcome, State, Status

STATUS = {0.0: Status.UNDECIDABLE, 0.99: Status.SUSPECT}

def judged(actual, oracle, contract, **options):
    findings = tuple(
        Finding(
            name,
            STATUS.get(ratio, Status.BUG if ratio > 1 else Status.ROUNDING),
            {0.0: "no bound", 0.99: "biased"}.get(ratio, ""),
            (2, 3), ratio=ratio, worst=(0, 1), actual=1.5, expected=float("nan"),
            bound=0.1, ulps=7.0, outside=int(ratio > 1), where=("row 0 of <all>",),
        )
        for name, ratio in actual.items()
    )
    worst = max(actual.values())
    state = State.PRESENT if worst > 1 else State.EXCLUDED
    diagnosis = Diagnosis("a<b", "y & more", state, min(worst, 1.0), 0.001, 90.0)
    return Outcome(contract, findings, (diagnosis,), audit=("tf32 <loads>",), power=())

@pytest.fixture(autouse=True, scope="session")
def hand_made_verdicts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matches, "judge", judged)
        yield
"""
PASSING = """
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

def test_kernel(lora_ref):
    lora_ref.assert_matches({"y": 0.82, "dA": 0.4}, None, BFLOAT16_CONTRACT)
"""
FAILING = """
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

def test_wrong(lora_ref):
    lora_ref.assert_matches({"y": 0.5, "dA": 31.0}, None, BFLOAT16_CONTRACT)
"""
MANY = """
from hypothesis import given, settings, strategies as st
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

@settings(max_examples=20, database=None, derandomize=True)
@given(ratio=st.sampled_from([0.25, 0.5, 0.75]))
def test_many(lora_ref, ratio):
    lora_ref.assert_matches({"y": ratio}, None, BFLOAT16_CONTRACT)
"""
UNDECIDED = """
from lora_ref.testing import assert_matches
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

def test_undecidable():
    assert_matches({"y": 0.0}, None, BFLOAT16_CONTRACT)

def test_suspect():
    assert_matches({"y": 0.99}, None, BFLOAT16_CONTRACT)
"""
LATE = """
import os, pytest
from lora_ref.testing import assert_matches
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

@pytest.fixture
def late(tmp_path):
    os.chdir(tmp_path)
    yield
    assert_matches({"y": 0.3}, None, BFLOAT16_CONTRACT)

def test_late(late): pass
"""
USELESS = "def test_nothing(): pass"
WEIRD = """
from dataclasses import replace
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

def test_weird(lora_ref):
    contract = replace(BFLOAT16_CONTRACT, name="a\\ud800b\\x1b[31m")
    lora_ref.assert_matches({"y\\x00\\ud800": RATIO}, None, contract)
"""
WIDE = """
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

def test_wide(lora_ref):
    ratios = {f"p{i}": 0.5 - i / 10000 for i in range(3000)}
    ratios |= {f"u{i}": 0.0 for i in range(30)} | {f"s{i}": 0.99 for i in range(40)}
    lora_ref.assert_matches(ratios, None, BFLOAT16_CONTRACT)
"""
LONG = """
import pytest
from lora_ref.verdict.contract import BFLOAT16_CONTRACT

@pytest.mark.parametrize("i", range(45))
def test_long(lora_ref, i):
    lora_ref.assert_matches({"y": 0.99 if i == 44 else 0.5}, None, BFLOAT16_CONTRACT)
"""


@pytest.fixture
def inner(pytester, monkeypatch):
    """Runs pytest over a test file, with this plugin and no other that is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(INNER)

    def run(source, *options, plugins=("lora_ref.testing.plugin",)):
        pytester.makepyfile(test_inner=source)
        given = [option for plugin in plugins for option in ("-p", plugin)]
        return pytester.runpytest_inprocess(*given, *options)

    return run


def tensors_of(report):
    tests = json.loads(Path(report).read_text())["tests"]
    return {t["name"]: t for test in tests for j in test["judgements"] for t in j["tensors"]}


def test_a_line_per_tensor_is_printed_even_when_all_pass(inner):
    done = inner(PASSING)
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(
        [
            "*test_kernel [[]bfloat16]",
            "  y: rounding, worst error/bound 0.82",
            "  dA: rounding, worst error/bound 0.4",
        ]
    )


def test_a_session_that_judges_nothing_prints_nothing(inner):
    inner(USELESS).stdout.no_fnmatch_line("*= lora_ref =*")


def test_verdicts_are_printed_where_the_fixture_or_a_report_asks_for_them(inner):
    assert "error/bound" not in inner(UNDECIDED).stdout.str()
    done = inner(UNDECIDED, "--lora-ref-report=out.json")
    done.stdout.fnmatch_lines(
        ["*test_suspect [[]bfloat16]", "  y: suspect, worst error/bound 0.99*"]
    )


def test_a_bug_fails_the_test_with_the_message_and_names_the_mistake_in_the_summary(inner):
    done = inner(FAILING)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E*Mismatch: bug: *", "E*dA*error/bound 31*"])
    done.stdout.fnmatch_lines(["  diagnosis: a<b PRESENT: y & more"])


def test_the_traceback_ends_in_the_users_line(inner):
    done = inner(FAILING)
    assert "raise Mismatch" not in done.stdout.str()
    done.stdout.fnmatch_lines([">*lora_ref.assert_matches(*", "test_inner.py:*: Mismatch"])


def test_the_json_report_has_an_entry_per_test_and_tensor(inner, pytester):
    inner(PASSING + FAILING, "--lora-ref-report=out.json")
    fields = json.loads((pytester.path / "out.json").read_text())
    assert fields["schema"] == "lora-ref/verdicts"
    assert fields["verdict"] == "bug"
    assert fields["counts"] == {
        "exact": 0,
        "rounding": 3,
        "undecidable": 0,
        "suspect": 0,
        "bug": 1,
    }
    kernel, wrong = fields["tests"]
    assert (kernel["test"], kernel["passed"]) == ("test_inner.py::test_kernel", True)
    assert (wrong["passed"], wrong["verdict"]) == (False, "bug")
    judgement = wrong["judgements"][0]
    assert judgement["contract"].startswith("bfloat16 (inputs bfloat16")
    assert [t["name"] for t in judgement["tensors"]] == ["y", "dA"]
    assert judgement["diagnoses"][0]["state"] == "PRESENT"


def test_a_run_that_judges_nothing_has_no_verdict(inner, pytester):
    inner("def test_nothing(): pass", "--lora-ref-report=out.json")
    fields = json.loads((pytester.path / "out.json").read_text())
    assert (fields["verdict"], fields["tests"]) == (None, [])
    assert "no test judged anything" in (pytester.path / "out.html").read_text("utf-8")


def test_a_figure_that_json_cannot_hold_is_a_string(inner, pytester):
    inner(FAILING, "--lora-ref-report=out.json")
    assert tensors_of(pytester.path / "out.json")["dA"]["expected"] == "NaN"


def test_the_page_has_the_worst_test_first_and_escapes_what_comes_from_it(inner, pytester):
    inner(PASSING + FAILING, "--lora-ref-report=out.json")
    page = (pytester.path / "out.html").read_text()
    assert page.index("test_wrong") < page.index("test_kernel")
    assert "a&lt;b PRESENT" in page
    assert "y &amp; more" in page
    assert "row 0 of &lt;all&gt;" in page
    assert "sums of products: blocks of 256" in page
    assert '<span class="badge bug">bug</span>' in page
    assert "tf32 &lt;loads&gt;" in page
    assert "a<b" not in page


@pytest.mark.parametrize(
    ("report", "page"), [("out", "out.html"), ("out.txt", "out.html"), ("a.b.json", "a.b.html")]
)
def test_the_page_has_the_name_of_the_report_and_the_suffix_html(inner, pytester, report, page):
    inner(PASSING, f"--lora-ref-report={report}")
    assert tensors_of(pytester.path / report)["y"]["ratio"] == 0.82
    assert (pytester.path / page).exists()


def test_of_many_calls_the_worst_is_kept_and_all_are_counted(inner, pytester):
    plugins = ("lora_ref.testing.plugin", "_hypothesis_pytestplugin")  # refuses other scopes
    done = inner(MANY, "--lora-ref-report=out.json", plugins=plugins)
    done.assert_outcomes(passed=1)
    y = tensors_of(pytester.path / "out.json")["y"]
    assert y["ratio"] == 0.75
    assert y["calls"] >= 3
    done.stdout.fnmatch_lines([f"  y: rounding, worst error/bound 0.75 ({y['calls']} calls)"])


def test_workers_of_xdist_send_what_they_judged(inner, pytester):
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    plugins = ("lora_ref.testing.plugin", "xdist.plugin")
    done = inner(
        PASSING + MANY, "-n2", "--lora-ref-report=out.json", "--junitxml=o.xml", plugins=plugins
    )
    done.assert_outcomes(passed=2)
    assert {*tensors_of(pytester.path / "out.json")} == {"y", "dA"}
    done.stdout.fnmatch_lines(["*test_kernel [[]bfloat16]", "*test_many [[]bfloat16]"])
    assert ("lora_ref:dA", "dA: rounding, worst error/bound 0.4") in junit_properties(pytester)


def junit_properties(pytester):
    tree = ElementTree.parse(pytester.path / "o.xml")
    return [(p.get("name"), p.get("value")) for p in tree.iter("property")]


def test_junit_xml_has_one_property_per_tensor(inner, pytester):
    inner(FAILING, "--junitxml=o.xml")
    assert junit_properties(pytester) == [
        ("lora_ref:y", "y: rounding, worst error/bound 0.5"),
        ("lora_ref:dA", "dA: bug, worst error/bound 31"),
    ]


def test_reports_do_not_depend_on_the_order_of_the_tests(inner, pytester):
    one, two = (f"def test_{n}(lora_ref):\n    {PASSING.splitlines()[-1].strip()}\n" for n in "ab")
    head = PASSING.splitlines()[1] + "\n"
    inner(head + one + two, "--lora-ref-report=1.json")
    inner(head + two + one, "--lora-ref-report=2.json")
    first, second = ((pytester.path / f"{n}.json").read_bytes() for n in "12")
    assert first == second


def test_strict_fails_what_is_undecidable_or_suspect_and_the_default_does_not(inner):
    inner(UNDECIDED).assert_outcomes(passed=2)
    inner(UNDECIDED, "--lora-ref-strict").assert_outcomes(failed=2)


def test_what_a_teardown_judges_is_reported_where_the_run_was_started(inner, pytester):
    start = pytester.path
    inner(LATE, "--lora-ref-report=out.json").assert_outcomes(passed=1)
    assert tensors_of(start / "out.json")["y"]["ratio"] == 0.3


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ("no/out.json", "the directory of FILE must exist, got no/out.json"),
        ("out.html", "needs another suffix than .html"),
        ("directory", "directory is there already and no file"),
        ("/dev/null", "null is there already and no file"),
        ("/", "FILE must be the name of a file, got /"),
        ("..", "FILE must be the name of a file, got .."),
        ("x" * 300, "FILE cannot be written (File name too long), got xxx"),
        ("x" * 252, "FILE cannot be written (File name too long), got xxx"),  # with .html
        ("a\0b.json", r"FILE cannot be written (embedded null byte), got a\x00b.json"),
    ],
)
def test_a_report_that_cannot_be_written_is_a_usage_error_before_any_test(
    inner, pytester, report, said
):
    pytester.mkdir("directory")
    done = inner(PASSING, f"--lora-ref-report={report}")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "test_inner" not in done.stdout.str()
    done.stderr.fnmatch_lines([f"ERROR: --lora-ref-report: *{said}*"])


def test_a_report_in_a_directory_where_nobody_can_write_is_refused_before_any_test(inner):
    if not Path("/proc/self").exists():
        pytest.skip("no /proc, which admits no new file even of root")
    done = inner(PASSING, "--lora-ref-report=/proc/r.json")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "test_inner" not in done.stdout.str()
    done.stderr.fnmatch_lines(["ERROR: --lora-ref-report: FILE cannot be written (*"])


VANISHED = "def test_it():\n    import os; os.rmdir('there')\n"


def test_a_report_that_cannot_be_written_at_the_end_fails_a_run_that_passed(inner, pytester):
    pytester.mkdir("there")
    done = inner(VANISHED, "--lora-ref-report=there/out.json")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["ERROR: --lora-ref-report: cannot be written: *"])
    done.stdout.no_fnmatch_line("report: *")


def test_a_report_that_cannot_be_written_at_the_end_takes_no_failure_off_the_terminal(
    inner, pytester
):
    pytester.mkdir("there")
    done = inner(VANISHED + FAILING, "--lora-ref-report=there/out.json")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        [
            "test_inner.py:*: Mismatch",
            "ERROR: --lora-ref-report: cannot be written: *",
            "FAILED test_inner.py::test_wrong*",
        ]
    )


def test_without_a_summary_the_report_that_cannot_be_written_is_said_all_the_same(inner, pytester):
    pytester.mkdir("there")
    done = inner(VANISHED, "--lora-ref-report=there/out.json", "-pno:terminal")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --lora-ref-report: cannot be written: *"])


def test_of_thousands_of_tensors_the_worst_are_printed_and_all_are_in_the_report(inner, pytester):
    done = inner(WIDE, "--lora-ref-report=out.json")
    lines = done.stdout.lines
    start = next(i for i, line in enumerate(lines) if line.endswith("test_wide [bfloat16]"))
    assert lines[start + 1 : start + 12] == [
        *(f"  s{i}: suspect, worst error/bound 0.99: biased" for i in range(6)),
        "  64 more do not pass, none of them worse: 34 suspect, 30 undecidable",
        "  p0: rounding, worst error/bound 0.5",
        "  p1: rounding, worst error/bound 0.5",
        "  p2: rounding, worst error/bound 0.5",
        "  2,997 more pass, all further inside their bounds",
    ]
    assert len(tensors_of(pytester.path / "out.json")) == 3070


def test_of_many_tests_the_worst_are_printed_and_the_others_counted(inner):
    done = inner(LONG)
    printed = [line for line in done.stdout.lines if line.endswith("[bfloat16]")]
    assert len(printed) == 40
    assert "test_inner.py::test_long[44] [bfloat16]" in printed
    done.stdout.fnmatch_lines(["5 more tests, none of them worse: 5 rounding"])


def test_what_does_not_pass_is_printed_with_its_reason(inner):
    said = inner(UNDECIDED, "--lora-ref-report=out.json").stdout.str()
    assert "  y: undecidable, no bound\n" in said
    assert "  y: suspect, worst error/bound 0.99: biased\n" in said


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("ratio", "status"), [("0.5", "rounding"), ("31.0", "bug")])
def test_no_control_character_reaches_the_terminal_and_no_surrogate_ends_a_worker(
    inner, pytester, workers, ratio, status
):
    plugins, options = ("lora_ref.testing.plugin",), ()
    if workers:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
        plugins, options = (*plugins, "xdist.plugin"), (f"-n{workers}",)
    source = WEIRD.replace("RATIO", ratio)
    files = ("--lora-ref-report=out.json", "--junitxml=o.xml")
    done = inner(source, *options, *files, plugins=plugins)
    done.assert_outcomes(passed=int(status == "rounding"), failed=int(status == "bug"))
    said = done.stdout.str()
    assert not {"\x00", "\x1b", "\ud800"} & {*said}
    assert r"test_weird [a\ud800b\x1b[31m]" in said
    assert rf"  y\x00\ud800: {status}" in said
    assert {*tensors_of(pytester.path / "out.json")} == {"y\x00\\ud800"}
    assert r"lora_ref:y\x00\ud800" in dict(junit_properties(pytester))


def test_a_report_replaces_the_old_one_whole_and_leaves_no_partial_file(inner, pytester):
    (pytester.path / "out.json").write_text("old" * 10000)
    inner(PASSING, "--lora-ref-report=out.json")
    assert tensors_of(pytester.path / "out.json")["y"]["calls"] == 1
    assert list(pytester.path.glob(".lora_ref-*")) == []


def test_a_plain_test_run_with_the_plugin_loads_nothing_of_the_library(pytester):
    pytester.makepyfile(
        test_plain="""
        import sys
        def test_it():
            loaded = [m for m in sys.modules if m.startswith(("numpy", "hypothesis", "lora_ref"))]
            assert sorted(loaded) == [
                "lora_ref", "lora_ref.late", "lora_ref.testing", "lora_ref.testing.plugin",
                "lora_ref.testing.recorder", "lora_ref.testing.recording",
            ]
        """
    )
    command = [sys.executable, "-m", "pytest", "-p", "lora_ref.testing.plugin", "test_plain.py"]
    done = subprocess.run(
        command,
        cwd=pytester.path,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_entry_point_names_the_plugin():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module = import_module(project["entry-points"]["pytest11"]["lora_ref"])
    assert callable(module.pytest_addoption)
