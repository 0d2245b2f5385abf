"""Bugs of identity: the update, or one factor, of another module.

Source: bug catalogue rows S16, S17 (two adapters combined: peft#1155, #2918), C8 (tied weights
updated through both uses: peft#2018, transformers#45127).
"""

from collections.abc import Iterator
from dataclasses import replace

from ...verdict.mistakes import names
from ..updates import LowRank, Part
from .hypothesis import Hypothesis, Suspect


def other_module(suspect: Suspect) -> Iterator[Hypothesis]:
    """The update of another module in place of this one's, or in addition to it."""
    for name, update in suspect.around.updates.items():
        if name == suspect.name or update.shape != suspect.pair.shape:
            continue
        what = f"W + ΔW of {update.module}"
        moved = replace(update, target=suspect.name)
        if not suspect.adapted:
            yield Hypothesis("adapted by mistake", f"{what}, where W", moved)
            continue
        yield Hypothesis(
            names.ANOTHER_UPDATE, f"{what}, where ΔW of {suspect.update.module}", moved
        )
        yield from _mixed_factors(suspect, update)
        ratio = update.scale / suspect.update.scale
        extra = tuple(Part(p.start, p.L * ratio, p.R) for p in update.parts)
        both = replace(suspect.update, parts=suspect.update.parts + extra)
        yield Hypothesis(names.ANOTHER_UPDATE_TOO, f"W + s·BA + ΔW of {update.module}", both)


def _mixed_factors(suspect: Suspect, other: LowRank) -> Iterator[Hypothesis]:
    """One factor of this module, one of another."""
    mine, its = suspect.update.parts[0], other.parts[0]
    if len(suspect.update.parts) > 1 or its.L.shape != mine.L.shape or its.R.shape != mine.R.shape:
        return
    left, right = suspect.update.left, suspect.update.right
    mixed = ((left, its.L, mine.R), (right, mine.L, its.R))
    for factor, L, R in mixed:
        formula = f"W + s·BA with {factor} of {other.module}"
        update = suspect.update.with_factors(L, R)
        yield Hypothesis(f"another module's {factor}", formula, update)
