"""The half of the pytest plugin that listens: from verdicts to the terminal and the reports.

A worker of pytest-xdist records its own tests and sends what it has with the report of each test's
end; the controller gathers reports only, with workers or without.
"""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from .recording import Fields, fold, line, listening, worst_status

_PROPERTY = "lora_ref:"


class Recorder:
    """Records the verdicts of one session, by test."""

    def __init__(self, report: Path | None, *, strict: bool) -> None:
        self.report, self.strict = report, strict
        self.current: list[Fields] = []  # the judgements of the test that runs here
        self.judged: dict[str, list[Fields]] = {}
        self.shown: set[str] = set()  # on the terminal: asked for by the fixture or a report
        self.failed: set[str] = set()
        self.error: str | None = None  # why there is no report, until it has been said

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Keep the verdicts of one test together, its setup and teardown included."""
        judgements: list[Fields] = []
        self.current = judgements
        with listening(lambda outcome: fold(judgements, outcome), strict=self.strict):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A property for each tensor, for JUnit's XML; the whole with a test's last report."""
        if self.current:
            others = [p for p in item.user_properties if not p[0].startswith(_PROPERTY)]
            item.user_properties[:] = [*others, *_properties(self.current)]
        report = yield
        if self.current and report.when == "teardown":
            report.lora_ref = self.current  # type: ignore[attr-defined]
            asked = "lora_ref" in getattr(item, "fixturenames", ())
            report.lora_ref_asked = asked  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather whether a test failed and, with its last report, what it judged."""
        if report.failed:
            self.failed.add(report.nodeid)
        if judgements := getattr(report, "lora_ref", None):
            self.judged[report.nodeid] = judgements
            if self.report is not None or getattr(report, "lora_ref_asked", False):
                self.shown.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports, both or, if that fails, none that is half a file.

        An exception here would take the whole terminal summary with it, tracebacks included. So
        the run fails by its exit status, and the summary says why.
        """
        if self.report is None:
            return
        from .report import write_reports

        try:
            write_reports(self.report, self.tests(), strict=self.strict)
        except OSError as error:
            self.error = str(error)
            if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def tests(self) -> list[Fields]:
        """Every test that judged something, by its id, in the order of ids."""
        return [
            {
                "test": test,
                "passed": test not in self.failed,
                "verdict": worst_status(judgements),
                "judgements": judgements,
            }
            for test, judgements in sorted(self.judged.items())
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The verdicts of tests that asked for it, and where the report is or why it is not."""
        if not self.shown and self.report is None:
            return
        from .summary import said_of, said_of_error, said_of_report

        terminalreporter.section("lora_ref")
        for said in said_of({test: self.judged[test] for test in sorted(self.shown)}):
            terminalreporter.write_line(said)
        if self.error is not None:
            terminalreporter.write_line(said_of_error(self.error), red=True)
            self.error = None
        elif self.report is not None:
            terminalreporter.write_line(said_of_report(self.report))

    def pytest_unconfigure(self) -> None:
        """Where there is no summary, as with -p no:terminal, the error is said all the same."""
        if self.error is not None:
            from .summary import said_of_error

            sys.stderr.write(f"{said_of_error(self.error)}\n")


def _properties(judgements: list[Fields]) -> list[tuple[str, object]]:
    """The names are printable here because pytest escapes values only, and XML has no NUL."""
    from ..pages.printable import printable

    return [
        (f"{_PROPERTY}{printable(tensor['name'])}", line(tensor))
        for judgement in judgements
        for tensor in judgement["tensors"].values()
    ]
