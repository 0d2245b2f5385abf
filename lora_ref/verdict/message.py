"""A verdict in words: what is wrong, where, by how much, and which mistake would explain it.

Limits:
    The three worst tensors are told in full, the others by a line each, and of more than six that
    pass only the three that are nearest to their bounds: a verdict on a whole model fits a screen.
"""

import math
from collections.abc import Iterable, Iterator

from ..pages.printable import printable
from .findings import Diagnosis, Finding, Outcome, State, Status
from .together import by_reason, listed

TOLD = 3  # tensors that are described in full, or named where there are many
LISTED = 6  # tensors that pass and have a line of their own
NOTES = 4  # sentences on one tensor
_PASSES = (Status.EXACT, Status.ROUNDING)
_RISING = list(Status)


def message(outcome: Outcome) -> str:
    """The verdict on all tensors as a few lines for the author of a kernel."""
    failing = sorted((f for f in outcome.findings if f.status not in _PASSES), key=_severity)[::-1]
    passing = [f for f in outcome.findings if f.status in _PASSES]
    lines = [
        _headline(outcome, failing),
        f"contract: {outcome.contract}; .explain() lists the roundings it admits",
        *(line for finding in failing[:TOLD] for line in _described(finding)),
        *(_listed(finding) for finding in failing[TOLD:]),
        *_passed(passing),
        *_diagnosed(outcome),
        *(f"path gain: {gain}, where 1 is right" for gain in outcome.gains if gain.is_off()),
        *(f"audit: {text}" for text in outcome.audit),
        *(f"power: {text}" for text in outcome.power),
    ]
    return "\n".join(map(printable, lines))


def _headline(outcome: Outcome, failing: list[Finding]) -> str:
    count = len(outcome.findings)
    of_all = f"{len(failing)} of {count} tensor{'s' if count != 1 else ''}"
    said = {
        Status.BUG: "no evaluation that the contract admits gives these numbers",
        Status.SUSPECT: "within the bounds, but not what random roundings leave",
        Status.UNDECIDABLE: "nothing is wrong, but these inputs do not show all that could be",
    }.get(outcome.status)
    if said is None:
        return f"{outcome.status}: {f'all {count} tensors match' if count > 1 else 'it matches'}"
    return f"{outcome.status}: {said} ({of_all})"


def _described(finding: Finding) -> Iterator[str]:
    yield _listed(finding)
    if _has_worst(finding):
        yield (
            f"    worst at {_index(finding.worst)}: {finding.actual:.9g} where "
            f"{finding.expected:.9g} is expected, bound {finding.bound:.3g}, "
            f"{_off(finding)}"
        )
    counts = [*_counts(finding), *_statistics(finding)]
    if notes := "; ".join([*counts, *finding.where[:NOTES]]):
        yield f"    {notes}"


def _off(finding: Finding) -> str:
    if not math.isfinite(finding.ratio):
        return "not a number that rounding gives"
    ulps = f" and {_number(finding.ulps)} ulps" if finding.expected else ""  # 0 has none of use
    return f"off by {_number(finding.ratio)} bounds{ulps}"


def _listed(finding: Finding) -> str:
    if finding.reason:
        return f"  {finding.name} {_shape(finding)} {finding.status}: {finding.reason}"
    return f"  {finding.line()}"


def _counts(finding: Finding) -> Iterator[str]:
    size = math.prod(finding.shape)
    if finding.outside:
        verb = "is outside its bound" if finding.outside == 1 else "are outside their bounds"
        yield f"{finding.outside:,} of {size:,} elements {verb}"
    if finding.undecidable:
        verb = "is" if finding.undecidable == 1 else "are"
        yield f"{finding.undecidable:,} of {size:,} elements {verb} undecidable"


def _statistics(finding: Finding) -> Iterator[str]:
    if finding.status is Status.SUSPECT and finding.max_z is not None:
        yield f"max z {finding.max_z:.3g}"
    if finding.status is Status.SUSPECT and finding.rms_z is not None:
        yield f"rms z {finding.rms_z:.3g}, where honest rounding leaves 1"


def _passed(passing: list[Finding]) -> Iterator[str]:
    shown = passing
    if len(passing) > LISTED:
        shown = sorted(passing, key=lambda f: f.ratio)[::-1][:TOLD]
    yield from (f"  {finding.line()}" for finding in shown)
    if rest := len(passing) - len(shown):
        yield f"  {rest:,} more pass, all further inside their bounds"


def _diagnosed(outcome: Outcome) -> Iterator[str]:
    for diagnosis in outcome.present:
        fit = f"β = {_share(diagnosis)} of the mistake is in the outputs"
        yield f"diagnosis: {diagnosis.name} PRESENT: {diagnosis.formula} ({fit})"
    excluded = sum(d.state is State.EXCLUDED for d in outcome.diagnoses)
    open_ones = [d for d in outcome.diagnoses if d.state is State.UNDECIDABLE]
    blind = sum(d.is_blind for d in open_ones) if outcome.power else 0
    if blind:
        open_ones = [d for d in open_ones if not d.is_blind]
    counted = f"{excluded} known mistake{'s are' if excluded != 1 else ' is'} EXCLUDED"
    said = [counted] if excluded else []
    said += [f"UNDECIDABLE: {_named(open_ones)}"] if open_ones else []
    said += [f"{blind} UNDECIDABLE with these inputs, see power"] if blind else []
    if said:
        yield f"diagnosis: {'; '.join(said)}"


def _named(diagnoses: Iterable[Diagnosis]) -> str:
    """The mistakes of which nothing is decided, by what the reason is."""
    groups = by_reason(diagnoses)
    said = [f"{listed([d.name for d in g])} ({_why(reason, g)})" for reason, g in groups[:TOLD]]
    more = sum(len(group) for _, group in groups[TOLD:])
    return "; ".join([*said, *([f"{more} more"] if more else [])])


def _why(reason: str, group: list[Diagnosis]) -> str:
    return reason or f"would stand out by {group[0].signal:.2g} σ at most"


def _share(diagnosis: Diagnosis) -> str:
    """The share to the digits that its error allows: "0.998 ± 0.002".

    >>> _share(Diagnosis("", "", State.PRESENT, 1.00012, 0.00021, 4800.0))
    '1.0001 ± 0.0002'
    """
    error = f"{diagnosis.error:.1g}"
    digits = 1
    while digits < 9 and float(f"{diagnosis.error:.{digits}f}") != float(error):
        digits += 1
    return f"{diagnosis.share:.{digits}f} ± {error}"


def _severity(finding: Finding) -> tuple[int, float]:
    ratio = math.inf if math.isnan(finding.ratio) else finding.ratio
    return _RISING.index(finding.status), ratio


def _has_worst(finding: Finding) -> bool:
    """Whether an element is named: not where a tensor is missing or has the wrong shape."""
    return len(finding.worst) == len(finding.shape) and finding.ratio != 0


def _number(value: float) -> str:
    """Three digits, and no exponent where a count is what is meant.

    >>> _number(312.4), _number(0.8199), _number(20000.3)
    ('312', '0.82', '20,000')
    """
    return f"{value:,.0f}" if 100 <= value < 1e9 else f"{value:.3g}"


def _index(worst: tuple[int, ...]) -> str:
    return f"({', '.join(str(i) for i in worst)})"


def _shape(finding: Finding) -> str:
    return f"({', '.join(str(n) for n in finding.shape)})"
