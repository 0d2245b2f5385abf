"""One model under two sets of names: which tensor of one checkpoint is which of the other.

A checkpoint saved from a headless model lacks the prefix ("bert.", "model.") that one saved with a
head has, and an adapter's paths are those of the model it was trained in. All names of a
checkpoint shift together, so the shift that finds the most names is the one.

Source: transformers 5, modeling_utils.py (base_model_prefix); PEFT 0.21.2 names its modules by
their path in the model that it wraps.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shift:
    """Take `drop` off the front of a name and put `add` there."""

    drop: str = ""
    add: str = ""

    def __call__(self, name: str) -> str:
        """The shifted name; a name that does not begin with `drop` stays as it is."""
        if not name.startswith(self.drop):
            return name
        return self.add + name.removeprefix(self.drop)

    @property
    def inverse(self) -> "Shift":
        return Shift(self.add, self.drop)

    def __str__(self) -> str:
        if not self.drop and not self.add:
            return "the same names"
        taken = f"without {self.drop!r}" if self.drop else ""
        put = f"with {self.add!r} in front" if self.add else ""
        return ", ".join(filter(None, (taken, put)))


ASKED = 256  # names that vote on a shift, and fronts that are kept for one end


def find_shift(wanted: Iterable[str], known: Iterable[str]) -> Shift:
    """The shift that takes the most of `wanted` to names that are `known`; none if none helps.

    The last two parts of a name, a module's and its parameter's, are never dropped, and a number
    (of a layer) is never put in the place of another. Of many names a part is asked.

    >>> find_shift(["bert.a.weight", "bert.b.weight"], ["a.weight", "b.weight"])
    Shift(drop='bert.', add='')
    """
    wanted, have = list(wanted), set(known)
    wanted = wanted[:: max(1, len(wanted) // ASKED)]
    ends = {".".join(name.split(".")[i:]) for name in wanted for i in range(4)}
    by_end: dict[str, list[str]] = {}
    for name in have:
        parts = name.split(".")
        for i in range(1, min(len(parts) - 1, 4)):
            end = ".".join(parts[i:])
            if end in ends and len(by_end.setdefault(end, [])) < ASKED:
                by_end[end].append(".".join(parts[:i]) + ".")
    votes: Counter[Shift] = Counter()
    for name in wanted:
        parts = name.split(".")
        for i in range(min(len(parts) - 1, 4)):
            drop = "".join(f"{part}." for part in parts[:i])
            rest = name.removeprefix(drop)
            if rest in have:
                votes[Shift(drop, "")] += 1
            for add in by_end.get(rest, ()):
                if not drop or _numbers(drop) == _numbers(add):
                    votes[Shift(drop, add)] += 1
    if not votes:
        return Shift()
    most = max(votes.values())
    return min(
        (s for s, count in votes.items() if count == most), key=lambda s: len(s.drop) + len(s.add)
    )


def _numbers(prefix: str) -> list[str]:
    return [part for part in prefix.split(".") if part.isdecimal()]
