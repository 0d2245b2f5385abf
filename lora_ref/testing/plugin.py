"""The pytest plugin: every verdict of a run on the terminal, in JSON, on a page and in JUnit's XML.

Installed with the package (entry point `pytest11`) and inert until a test judges something: it
imports nothing but pytest then, changes no setting of Hypothesis, and adds the options

    --lora-ref-report=FILE   FILE as JSON, and beside it the same as one HTML page
    --lora-ref-strict        `assert_matches` also fails on "suspect" and "undecidable"

and the fixture `lora_ref`, of session scope because Hypothesis refuses others under @given:

    @given(case=lora_cases())
    def test_kernel(lora_ref, case):
        lora_ref.assert_matches(my_kernel(case), case.oracle, case.contract)

A verdict is kept for the test that runs: the worst of all calls for each tensor. Workers of
pytest-xdist send theirs with the report of the test's end, so the controller has all of them.
"""

import stat
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import pytest

from .recorder import Recorder

if TYPE_CHECKING:
    from ..verdict.contract import Contract
    from ..verdict.findings import Outcome
    from ..verdict.oracle import Oracle


class Judge:
    """What the fixture `lora_ref` gives."""

    def assert_matches(
        self, actual: Any, oracle: "Oracle", contract: "Contract", **options: Any
    ) -> "Outcome":
        """`lora_ref.testing.assert_matches`, with its options."""
        from .matches import assert_matches

        __tracebackhide__ = True
        return assert_matches(actual, oracle, contract, **options)


@pytest.fixture(scope="session")
def lora_ref() -> Judge:
    """Judges outputs by `lora_ref.assert_matches(actual, oracle, contract)`."""
    return Judge()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("lora_ref", "verdicts of lora_ref")
    group.addoption(
        "--lora-ref-report",
        metavar="FILE",
        help="write every verdict to FILE as JSON, and as a page to FILE with the suffix .html",
    )
    group.addoption(
        "--lora-ref-strict",
        action="store_true",
        help="fail on what is no proof of a bug too: suspect and undecidable",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start to record; a report that could not be written is refused now, not at the end."""
    given = config.getoption("--lora-ref-report")
    report = None
    if given is not None and not hasattr(config, "workerinput"):
        report = config.invocation_params.dir / given
        if said := _refusal(report):
            from ..pages.printable import printable

            raise pytest.UsageError(printable(f"--lora-ref-report: {said}, got {given}"))
    recorder = Recorder(report, strict=config.getoption("--lora-ref-strict"))
    config.pluginmanager.register(recorder, "lora_ref recorder")


def _refusal(report: Path) -> str | None:
    """Why the two files could not be written, if that can be known before the run."""
    if report.name in ("", ".."):
        return "FILE must be the name of a file"
    page = report.with_suffix(".html")
    if report == page:
        return "FILE is the JSON report and needs another suffix than .html, as its page has that"
    try:
        if not report.parent.is_dir():
            return "the directory of FILE must exist"
        for path in (report, page):
            if _is_no_file(path):
                return f"{path.name} is there already and no file"
        with NamedTemporaryFile(dir=report.parent, prefix=".lora_ref-", suffix=".partial"):
            return None
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL in it
        return f"FILE cannot be written ({getattr(error, 'strerror', None) or error})"


def _is_no_file(path: Path) -> bool:
    """Whether something else is there; an error if nothing can be called so."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
