"""The verdict on one tensor: exact, rounding, a bug and which, or undecidable (see `verdict`)."""

import numpy as np

from ..verdict.findings import Status
from .catalogue import Surroundings, Suspect
from .diagnose import Diagnosis, diagnose
from .envelope import Envelope, envelope
from .fallback import fallback
from .fit import Fit, fit
from .measure import Measure, Pair, holds_base, measure
from .replaced import judge_replaced
from .updates import LowRank, Replaced, Update, nothing
from .verdict import Verdict, said

FEW = 32  # elements not correctly rounded, which chance may make any bug explain

__all__ = ["Verdict", "judge"]


def judge(
    name: str,
    pair: Pair,
    update: Update | None,
    around: Surroundings,
    rng: np.random.Generator,
) -> Verdict:
    """The verdict on one floating tensor of both checkpoints, given what should be done to it."""
    module = update.module if update is not None else None
    if update is None and holds_base(pair):
        same = pair.grid == pair.base_grid
        text = "unchanged" if same else f"unchanged but for rounding to {pair.grid.name}"
        return Verdict(name, Status.EXACT, text)
    figures = measure(pair, update)
    if figures.not_finite:
        text = f"{figures.not_finite:,} NaN or inf where the reference is finite"
        found = [Diagnosis("not finite", text, 1.0, "counted")]
        return Verdict(name, Status.BUG, text, module, figures, diagnoses=found)
    if isinstance(update, Replaced):
        return judge_replaced(name, pair, update, figures, around, rng)
    low_rank = update or nothing(name, pair.shape)
    best = fit(pair, low_rank, rng)
    if best is not None:
        return _explained(name, module, low_rank, figures, best)
    suspect = Suspect(name, pair, low_rank, figures, around)
    return _unexplained(suspect, module, rng)


def _explained(
    name: str, module: str | None, update: LowRank, figures: Measure, best: Fit
) -> Verdict:
    recipe = best.describe(update)
    if figures.unchanged and not update.is_zero:
        text = "the storage grid swallows the update: merged equals base, as it should"
        return Verdict(name, Status.UNDECIDABLE, text, module, figures, recipe)
    if figures.correctly_rounded == 1.0:
        zero = ", the update is zero" if update.is_zero else ""
        text = f"every element correctly rounded{zero}"
        return Verdict(name, Status.EXACT, text, module, figures, recipe)
    return Verdict(name, Status.ROUNDING, recipe, module, figures, recipe)


def _unexplained(suspect: Suspect, module: str | None, rng: np.random.Generator) -> Verdict:
    name, figures = suspect.name, suspect.measure
    bound = envelope(suspect.pair, suspect.update)
    found = diagnose(suspect, rng)
    if bound.holds and suspect.adapted:
        odd = figures.elements * (1 - figures.correctly_rounded)
        better = [d for d in found if d.proved and figures.elements * (1 - d.explained) < odd / 20]
        if not better or odd < FEW or bound.is_blind:
            return _inside(suspect, module, bound, better)
    elif not any(d.explained == 1.0 for d in found):
        found = fallback(suspect, bound, found, rng)
    return Verdict(name, Status.BUG, said(found), module, figures, diagnoses=found)


def _inside(
    suspect: Suspect, module: str | None, bound: Envelope, found: list[Diagnosis]
) -> Verdict:
    """Inside the envelope: an order of rounding that is not in the table, or too little to tell."""
    recipe = f"no recipe known, within the bounds of {bound.contract}"
    if not found:
        return Verdict(suspect.name, Status.ROUNDING, recipe, module, suspect.measure, recipe)
    text = f"an order of rounding that no recipe has, or {found[0].name}: too little shows to tell"
    return Verdict(suspect.name, Status.UNDECIDABLE, text, module, suspect.measure)
