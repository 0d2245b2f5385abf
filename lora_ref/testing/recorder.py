"""The half of the pytest plugin that listens: from verdicts to the terminal and the reports.

A worker of pytest-xdist records its own tests and sends what it has with the report of each test's
end; the controller gathers reports only, with workers or without.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .recording import Fields, fold, found, line, listening, worst_status

_PROPERTY = "lora_ref:"


class Recorder:
    """Records the verdicts of one session, by test."""

    def __init__(self, report: Path | None, *, strict: bool) -> None:
        self.report, self.strict = report, strict
        self.current: list[Fields] = []  # the judgements of the test that runs here
        self.judged: dict[str, list[Fields]] = {}
        self.shown: set[str] = set()  # on the terminal: asked for by the fixture or a report
        self.failed: set[str] = set()

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

    def pytest_sessionfinish(self) -> None:
        """Write the reports, both or, if that fails, none that is half a file."""
        if self.report is None:
            return
        from .report import write_reports

        try:
            write_reports(self.report, self.tests(), strict=self.strict)
        except OSError as error:
            raise pytest.UsageError(f"--lora-ref-report: cannot be written: {error}") from error

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
        """A line per tensor, also where it passes, and a line per diagnosis."""
        if not self.shown and self.report is None:
            return
        terminalreporter.section("lora_ref")
        for test in sorted(self.shown):
            for judgement in self.judged[test]:
                terminalreporter.write_line(f"{test} [{judgement['name']}]")
                for said in _summary(judgement):
                    terminalreporter.write_line(f"  {said}")
        if self.report is not None:
            page = self.report.with_suffix(".html").name
            terminalreporter.write_line(f"report: {self.report} and {page}")


def _properties(judgements: list[Fields]) -> list[tuple[str, object]]:
    return [
        (f"{_PROPERTY}{tensor['name']}", line(tensor))
        for judgement in judgements
        for tensor in judgement["tensors"].values()
    ]


def _summary(judgement: Fields) -> Iterator[str]:
    yield from map(line, judgement["tensors"].values())
    present = found(judgement["diagnoses"].values())
    if present:
        # Small cases of one test may each fit several mistakes; the surest says which it is.
        surest, *others = present
        more = f"; {len(others)} more fit in some calls" if others else ""
        yield f"diagnosis: {surest['name']} PRESENT: {surest['formula']}{more}"
