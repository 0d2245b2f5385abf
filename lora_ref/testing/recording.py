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
PASSES = ("exact", "rounding")
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
    contract = _text(outcome.contract)
    known = next((j for j in judgements if j["contract"] == contract), None)
    if known is None:
        known = _judgement(outcome)
        judgements.append(known)
    known["calls"] += 1
    tensors, diagnoses = known["tensors"], known["diagnoses"]
    for tensor in map(_tensor, outcome.findings):
        tensors[tensor["name"]] = _worse(tensors.get(tensor["name"]), tensor)
    for new in map(_diagnosis, outcome.diagnoses):
        diagnoses[new["name"]] = max(diagnoses.get(new["name"], new), new, key=_evidence)
    for key, said in (("audit", outcome.audit), ("power", outcome.power)):
        known[key] += [text for text in map(_text, said) if text not in known[key]]


def worst_status(judgements: list[Fields]) -> str:
    """The most severe status of any tensor."""
    found = [t["status"] for j in judgements for t in j["tensors"].values()]
    return max(found, key=SEVERITY.index, default="exact")


def found(diagnoses: Iterable[Fields]) -> list[Fields]:
    """The mistakes that are PRESENT, the surest first."""
    present = [d for d in diagnoses if d["state"] == "PRESENT"]
    return sorted(present, key=_evidence, reverse=True)


def line(tensor: Fields) -> str:
    """One line for a tensor: "y: rounding, worst error/bound 0.82 (40 calls)", and why it fails."""
    calls = f" ({tensor['calls']:,} calls)" if tensor["calls"] > 1 else ""
    reason = "" if tensor["status"] in PASSES else tensor["reason"]
    told = not reason or reason in tensor["line"]
    return f"{tensor['line']}{calls}{'' if told else f': {reason}'}"


def _judgement(outcome: "Outcome") -> Fields:
    return {
        "contract": _text(outcome.contract),
        "name": _text(outcome.contract.name),
        "explanation": _text(outcome.contract.explain()),
        "calls": 0,
        "tensors": {},
        "diagnoses": {},
        "audit": [],
        "power": [],
    }


def _tensor(finding: "Finding") -> Fields:
    return {
        "name": _text(finding.name),
        "status": str(finding.status),
        "calls": 1,
        "line": _text(finding.line()),
        "reason": _text(finding.reason),
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
        "where": [_text(text) for text in finding.where],
    }


def _diagnosis(diagnosis: "Diagnosis") -> Fields:
    return {
        "name": _text(diagnosis.name),
        "formula": _text(diagnosis.formula),
        "state": str(diagnosis.state),
        "share": float(diagnosis.share),
        "error": float(diagnosis.error),
        "signal": float(diagnosis.signal),
    }


def _text(value: object) -> str:
    """Any text as UTF-8 can hold it: half a surrogate pair could not be sent to another process."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _worse(old: Fields | None, new: Fields) -> Fields:
    """The more severe of two, with the calls of both."""
    if old is None:
        return new
    worst = new if severity(new) > severity(old) else old
    return {**worst, "calls": old["calls"] + new["calls"]}


def severity(tensor: Fields) -> tuple[int, float]:
    """For sorting: the status, and within one the largest ratio; NaN is the largest."""
    ratio = tensor["ratio"]
    return SEVERITY.index(tensor["status"]), ratio if ratio == ratio else float("inf")


def _evidence(diagnosis: Fields) -> tuple[int, float]:
    return _DECIDED.index(diagnosis["state"]), diagnosis["signal"]
