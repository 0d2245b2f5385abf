"""What a report says as a whole: one verdict, the diagnoses over tensors, what is undecidable.

Every form of the report (terminal, JSON, page) takes its words from here, so that they agree.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..verdict.findings import Status
from ..verdict.mistakes.names import NOT_APPLIED
from .judge import Verdict
from .measure import Measure
from .verify import Report

STATUSES = (Status.EXACT, Status.ROUNDING, Status.UNDECIDABLE, Status.BUG)  # from best to worst
NAMED = 6  # groups of names that are said before the rest is counted


@dataclass(frozen=True)
class Case:
    """Tensors of one diagnosis and one formula; `also` is what fits their data as well."""

    formula: str
    how: tuple[str, ...]
    also: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A diagnosis and its tensors, by formula."""

    name: str
    cases: tuple[Case, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for case in self.cases for name in case.names)


@dataclass(frozen=True)
class Swallowed:
    """Elements of updated tensors in which the right merge has the base's value."""

    elements: int
    of: int
    tensors: int  # updated tensors of which no element is moved


def overall(report: Report) -> Status:
    """The worst status of any tensor."""
    return next((s for s in reversed(STATUSES) if report.count(s)), Status.EXACT)


def exit_status(report: Report, strict: bool) -> int:
    """0 for a right merge, 1 for a bug; what cannot be decided is 1 if `strict`."""
    return int(report.has_bug or (strict and report.count(Status.UNDECIDABLE) > 0))


def touched(verdict: Verdict) -> bool:
    """Whether the adapter changes the tensor, or should."""
    return verdict.module is not None


def short(verdict: Verdict) -> str:
    """The recipe, or the names of the diagnoses, whose formulas are said by `groups`."""
    if verdict.status != Status.BUG or not verdict.diagnoses:
        return verdict.text
    return " or ".join(d.name for d in verdict.diagnoses)


def groups(report: Report) -> list[Group]:
    """The bugs by diagnosis and formula, in the order of their first tensors."""
    found: dict[str, dict[str, list[Verdict]]] = {}
    for verdict in report.verdicts:
        if verdict.status == Status.BUG and verdict.diagnoses:
            first = verdict.diagnoses[0]
            found.setdefault(first.name, {}).setdefault(first.formula, []).append(verdict)
    return [
        Group(name, tuple(_case(formula, bugs) for formula, bugs in cases.items()))
        for name, cases in found.items()
    ]


def _case(formula: str, bugs: list[Verdict]) -> Case:
    how = dict.fromkeys(v.diagnoses[0].how for v in bugs)
    also = dict.fromkeys(d.name for v in bugs for d in v.diagnoses[1:])
    return Case(formula, tuple(how), tuple(also), tuple(v.name for v in bugs))


def headline(report: Report, group: Group) -> str:
    """The diagnosis and how many tensors it is of.

    >>> verdicts = [Verdict("a", Status.BUG, "", "a"), Verdict("b", Status.EXACT, "", "b")]
    >>> one = Group("not applied", (Case("W", ("bit for bit",), (), ("a",)),))
    >>> headline(Report("", "", "", verdicts), one)
    'not applied: 1 of 2 adapted tensors'
    """
    adapted = {v.name for v in report.verdicts if touched(v)}
    count = len(group.names)
    if not adapted.issuperset(group.names):
        return f"{group.name}: {_counted(count)}"
    if count == len(adapted) and count > 1:
        only = group.name == NOT_APPLIED and report.count(Status.BUG) == count
        meaning = "; everything else is right, so MERGED is BASE" if only else ""
        return f"{group.name}: all {count} adapted tensors{meaning}"
    return f"{group.name}: {count} of {_counted(len(adapted), 'adapted tensor')}"


def swallowed(report: Report) -> Swallowed:
    """How much of the update the storage grids cannot show."""
    figures = [v.measure for v in report.verdicts if touched(v) and v.measure is not None]
    with_update = [m for m in figures if m.c is not None]
    return Swallowed(
        sum(m.elements - m.decidable for m in with_update),
        sum(m.elements for m in with_update),
        sum(m.decidable == 0 for m in with_update),
    )


def swallowed_text(report: Report) -> str:
    """One sentence on what the storage grid swallows; empty if it shows the whole update."""
    found = swallowed(report)
    if not found.elements:
        return ""
    whole = f", in {_counted(found.tensors)} everywhere" if found.tensors else ""
    return (
        f"In {found.elements:,} of {found.of:,} adapted elements "
        f"({found.elements / found.of:.2%}){whole} the right merge keeps the base's value: the "
        "storage grid swallows the update, or it is zero."
    )


def conclusion(report: Report, strict: bool) -> str:
    """The verdict on the whole and the exit status that says it."""
    total, status = _counted(len(report.verdicts)), exit_status(report, strict)
    bugs, open_ = report.count(Status.BUG), report.count(Status.UNDECIDABLE)
    if bugs:
        text = f"bug in {bugs} of {total}"
    elif open_:
        text = f"undecidable in {open_} of {total}, no bug in the others"
    elif report.count(Status.ROUNDING):
        text = f"rounding in {report.count(Status.ROUNDING)} of {total}, the others exact: no bug"
    else:
        text = f"exact: all {total}" if len(report.verdicts) > 1 else f"exact: {total}"
    why = " under --strict" if status and not bugs else ""
    return f"{text} (exit status {status}{why})"


def figures(measure: Measure | None) -> tuple[str, str, str, str]:
    """c, ρ, the worst error in ulps and the share correctly rounded, for a table; "" if not known.

    A share is cut, not rounded: 100% is all of them.
    """
    if measure is None:
        return "", "", "", ""
    c = "" if measure.c is None else f"{measure.c:.4f}"
    rho = "" if measure.rho is None else f"{measure.rho:.4f}"
    share = math.floor(measure.correctly_rounded * 10_000) / 100
    return c, rho, ulps_text(measure.worst_ulps), f"{share:.2f}%"


def ulps_text(ulps: float) -> str:
    """An error in ulps, three digits and readable.

    >>> [ulps_text(u) for u in (0.4999, 3.14159, 5317.2, 2.5e7, math.inf)]
    ['0.5', '3.14', '5,320', '2.5e+07', 'inf']
    """
    short = f"{ulps:.3g}"
    return f"{float(short):,.0f}" if 1000 <= ulps < 1e6 else short


def compressed(names: Iterable[str]) -> list[str]:
    """Names that differ in their first number only, as one.

    >>> compressed(["h.0.q", "h.0.v", "h.1.q", "h.2.q", "norm"])
    ['h.{0-2}.q', 'h.0.v', 'norm']
    """
    found: dict[tuple[str, str], list[int]] = {}
    for name in names:
        parts = name.split(".")
        place = next((i for i, p in enumerate(parts) if p.isdecimal() and p.isascii()), None)
        if place is None or len(parts[place]) > 9 or str(int(parts[place])) != parts[place]:
            found.setdefault((name, ""), [])
            continue
        ends = ".".join(parts[:place]), ".".join(parts[place + 1 :])
        key = f"{ends[0]}." if ends[0] else "", f".{ends[1]}" if ends[1] else ""
        found.setdefault(key, []).append(int(parts[place]))
    return [
        f"{front}{_ranges(numbers)}{back}" if numbers else front
        for (front, back), numbers in found.items()
    ]


def listed(names: Iterable[str]) -> str:
    """`compressed` names in one clause, the first few in full and the rest counted."""
    found = compressed(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    said = [f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    text = ", ".join(said)
    return text if text.isdecimal() else f"{{{text}}}"


def _counted(count: int, what: str = "tensor") -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
