"""What was judged in a test run: the worst of many verdicts, as plain data.

Hypothesis calls a test many times, and pytest-xdist runs it in another process. So each verdict is
folded at once into a `Judgement` of dictionaries, lists, strings and numbers, one for each test
and contract. This module imports nothing, so that pytest may always load it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..verdict.findings import Diagnosis, Finding, Outcome

Fields = dict[str, Any]

SEVERITY = ("exact", "rounding", "undecidable", "suspect", "bug")
_DECIDED = ("UNDECIDABLE", "EXCLUDED", "PRESENT")

# Those who want to know of verdicts, the innermost last: a test run may contain another.
_listeners: list[tuple[Callable[["Outcome"], None], bool]] = []


@contextmanager
def listening(listener: Callable[["Outcome"], None], *, strict: bool = False) -> Iterator[None]:
    """Send every verdict of `assert_matches` in the block to `listener`; `strict` holds there."""
    _listeners.append((listener, strict))
    try:
        yield
    finally:
        _listeners.pop()


def record(outcome: "Outcome") -> bool:
    """Tell the innermost listener, if there is one, of a verdict; whether it is strict."""
    if not _listeners:
        return False
    listener, strict = _listeners[-1]
    listener(outcome)
    return strict


def fold(judgements: list[Fields], outcome: "Outcome") -> None:
    """Add a verdict to the judgements of its test: worst tensors, most decided diagnoses."""
    contract = str(outcome.contract)
    known = next((j for j in judgements if j["contract"] == contract), None)
    if known is None:
        known = _judgement(outcome)
        judgements.append(known)
    known["calls"] += 1
    tensors, diagnoses = known["tensors"], known["diagnoses"]
    for finding in outcome.findings:
        tensors[finding.name] = _worse(tensors.get(finding.name), _tensor(finding))
    for diagnosis in outcome.diagnoses:
        new = _diagnosis(diagnosis)
        diagnoses[diagnosis.name] = max(diagnoses.get(diagnosis.name, new), new, key=_evidence)
    for key, said in (("audit", outcome.audit), ("power", outcome.power)):
        known[key] += [text for text in said if text not in known[key]]


def worst_status(judgements: list[Fields]) -> str:
    """The most severe status of any tensor."""
    found = [t["status"] for j in judgements for t in j["tensors"].values()]
    return max(found, key=SEVERITY.index, default="exact")


def found(diagnoses: Iterable[Fields]) -> list[Fields]:
    """The mistakes that are PRESENT, the surest first."""
    present = [d for d in diagnoses if d["state"] == "PRESENT"]
    return sorted(present, key=_evidence, reverse=True)


def line(tensor: Fields) -> str:
    """One line for a tensor: "y: rounding, worst error/bound 0.82 (40 calls)"."""
    calls = f" ({tensor['calls']:,} calls)" if tensor["calls"] > 1 else ""
    return f"{tensor['line']}{calls}"


def _judgement(outcome: "Outcome") -> Fields:
    return {
        "contract": str(outcome.contract),
        "name": outcome.contract.name,
        "explanation": outcome.contract.explain(),
        "calls": 0,
        "tensors": {},
        "diagnoses": {},
        "audit": [],
        "power": [],
    }


def _tensor(finding: "Finding") -> Fields:
    return {
        "name": finding.name,
        "status": str(finding.status),
        "calls": 1,
        "line": finding.line(),
        "reason": finding.reason,
        "shape": [int(n) for n in finding.shape],
        "ratio": float(finding.ratio),
        "worst": [int(i) for i in finding.worst],
        "actual": float(finding.actual),
        "expected": float(finding.expected),
        "bound": float(finding.bound),
        "ulps": float(finding.ulps),
        "outside": int(finding.outside),
        "undecidable": int(finding.undecidable),
        "max_z": None if finding.max_z is None else float(finding.max_z),
        "rms_z": None if finding.rms_z is None else float(finding.rms_z),
        "where": [str(text) for text in finding.where],
    }


def _diagnosis(diagnosis: "Diagnosis") -> Fields:
    return {
        "name": diagnosis.name,
        "formula": diagnosis.formula,
        "state": str(diagnosis.state),
        "share": float(diagnosis.share),
        "error": float(diagnosis.error),
        "signal": float(diagnosis.signal),
    }


def _worse(old: Fields | None, new: Fields) -> Fields:
    """The more severe of two, with the calls of both."""
    if old is None:
        return new
    worst = new if _severity(new) > _severity(old) else old
    return {**worst, "calls": old["calls"] + new["calls"]}


def _severity(tensor: Fields) -> tuple[int, float]:
    ratio = tensor["ratio"]
    return SEVERITY.index(tensor["status"]), ratio if ratio == ratio else float("inf")


def _evidence(diagnosis: Fields) -> tuple[int, float]:
    return _DECIDED.index(diagnosis["state"]), diagnosis["signal"]
