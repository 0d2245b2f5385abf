"""The verdicts of a test run on the terminal: the worst in a line each, the others counted.

Names come from tests, so nothing reaches the terminal that could move its cursor.

Limits:
    At most 40 tests, and of each contract 6 tensors that do not pass and 6 that do: a run over a
    whole model fits a screen. The JSON report has all of them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..pages.printable import printable
from .recording import PASSES, SEVERITY, Fields, found, line, severity, worst_status

TESTS = 40  # tests that are told one by one
LISTED = 6  # tensors of one contract that have a line of their own, of either kind
NEAREST = 3  # tensors that are nearest to their bounds, where many pass


def said_of(judged: Mapping[str, list[Fields]]) -> Iterator[str]:
    """A line per tensor, also where it passes, and a line per diagnosis; by test."""
    worst = sorted(judged, key=lambda test: _worst(judged[test]), reverse=True)
    told = set(worst[:TESTS])
    for test in judged:
        if test in told:
            for judgement in judged[test]:
                yield printable(f"{test} [{judgement['name']}]")
                yield from (f"  {printable(said)}" for said in _summary(judgement))
    if len(judged) > len(told):
        counts = _counted(worst_status(judged[test]) for test in judged if test not in told)
        yield f"{len(judged) - len(told):,} more tests, none of them worse: {counts}"


def said_of_report(report: Path) -> str:
    """Where the reports are."""
    return printable(f"report: {report} and {report.with_suffix('.html').name}")


def said_of_error(error: str) -> str:
    """Why there is no report."""
    return printable(f"ERROR: --lora-ref-report: cannot be written: {error}")


def _summary(judgement: Fields) -> Iterator[str]:
    tensors = list(judgement["tensors"].values())
    passing = [t for t in tensors if t["status"] in PASSES]
    failing = [t for t in tensors if t["status"] not in PASSES]
    if len(failing) > LISTED:
        failing.sort(key=severity, reverse=True)
    yield from map(line, failing[:LISTED])
    if rest := failing[LISTED:]:
        counts = _counted(t["status"] for t in rest)
        yield f"{len(rest):,} more do not pass, none of them worse: {counts}"
    shown = passing
    if len(passing) > LISTED:
        shown = sorted(passing, key=severity, reverse=True)[:NEAREST]
    yield from map(line, shown)
    if more := len(passing) - len(shown):
        yield f"{more:,} more pass, all further inside their bounds"
    yield from _diagnosed(judgement)


def _diagnosed(judgement: Fields) -> Iterator[str]:
    present = found(judgement["diagnoses"].values())
    if present:
        # Small cases of one test may each fit several mistakes; the surest says which it is.
        surest, *others = present
        more = f"; {len(others)} more fit in some calls" if others else ""
        yield f"diagnosis: {surest['name']} PRESENT: {surest['formula']}{more}"


def _worst(judgements: Iterable[Fields]) -> tuple[int, float]:
    return max((severity(t) for j in judgements for t in j["tensors"].values()), default=(0, 0.0))


def _counted(statuses: Iterable[str]) -> str:
    """The most severe first: "2 bug, 1 suspect"."""
    counts = Counter(statuses)
    return ", ".join(f"{counts[s]:,} {s}" for s in reversed(SEVERITY) if counts[s])
