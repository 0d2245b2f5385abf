"""Many diagnoses in few words: those of one reason are named together."""

import re
from collections.abc import Iterable, Sequence

from .findings import Diagnosis

NAMED = 4  # of one reason
CLAUSES = 3  # of advice in one sentence
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def by_reason(diagnoses: Iterable[Diagnosis]) -> list[tuple[str, list[Diagnosis]]]:
    """The reasons and whose they are, those that are nearly visible first.

    Reasons that differ in numbers alone are one, with the ranges of these.
    """
    groups: dict[str, list[Diagnosis]] = {}
    for d in sorted(diagnoses, key=lambda d: -d.signal):
        groups.setdefault(_NUMBER.sub("#", d.reason), []).append(d)
    return [(_ranged([d.reason for d in group]), group) for group in groups.values()]


def _ranged(reasons: Sequence[str]) -> str:
    """
    >>> _ranged(["it stands out by 3.1 σ, 8 are needed", "it stands out by 0.2 σ, 8 are needed"])
    'it stands out by 0.2 to 3.1 σ, 8 are needed'
    """
    columns = [sorted(set(c), key=float) for c in zip(*map(_NUMBER.findall, reasons), strict=True)]
    shown = iter([c[0] if len(c) == 1 else f"{c[0]} to {c[-1]}" for c in columns])
    return _NUMBER.sub(lambda _: next(shown), reasons[0])


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Some names, and how many more there are.

    >>> listed(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    if len(names) <= most:
        return " and ".join(t for t in (", ".join(names[:-1]), names[-1]) if t)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


def blind_spots_of(diagnoses: Iterable[Diagnosis]) -> tuple[str, ...]:
    """What the inputs could not have shown: a sentence for each reason, with the inputs that would.

    The advice is that of the mistakes that are named.
    """
    said = []
    for reason, group in by_reason(d for d in diagnoses if d.is_blind):
        advice = [c for d in group[:NAMED] for c in d.advice.split("; ") if c]
        ways = "; or ".join([*dict.fromkeys(advice)][:CLAUSES])
        names = listed([d.name for d in group])
        said.append(f"{names}: {reason}{f'; to see it: {ways}' if ways else ''}")
    return tuple(said)
