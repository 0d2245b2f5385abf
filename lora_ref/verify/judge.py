"""The verdict on one tensor: exact, rounding, a bug and which, or undecidable.

exact        every element is the correctly rounded value of W + D*
rounding     a recipe explains every element, or every element is inside the rounding envelope
bug          neither; with the diagnosis that explains the data, if there is one
undecidable  the storage grid swallows the update: merged is right, and so would no merge be
"""

from dataclasses import dataclass, field

import numpy as np

from ..checkpoint.header import TensorInfo
from .catalogue import Surroundings, Suspect
from .catalogue.extent import spans
from .diagnose import Diagnosis, diagnose
from .fit import Envelope, Fit, envelope, fit
from .measure import Measure, Pair, holds_base, measure, row_blocks
from .updates import EVERY, Columns, Conventions, LowRank, Part, Replaced, Update

EXACT, ROUNDING, BUG, UNDECIDABLE = "exact", "rounding", "bug", "undecidable"
NO_CONVENTIONS = Conventions(1.0, 1, False, 1.0, 1)


@dataclass(frozen=True)
class Verdict:
    """What is said of one tensor; `measure` is None where nothing could be measured."""

    name: str
    status: str
    text: str
    module: str | None = None
    measure: Measure | None = None
    recipe: str | None = None
    diagnoses: list[Diagnosis] = field(default_factory=list)
    info: TensorInfo | None = None


def nothing(target: str, shape: tuple[int, int]) -> LowRank:
    """The update of a tensor that the adapter leaves alone."""
    part = Part(0, np.zeros((shape[0], 1)), np.zeros((1, shape[1])))
    return LowRank(target, "", shape, (part,), 0.0, NO_CONVENTIONS)


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
        return Verdict(name, EXACT, text)
    figures = measure(pair, update)
    if figures.not_finite:
        text = f"{figures.not_finite:,} NaN or inf where the reference is finite"
        found = [Diagnosis("not finite", text, 1.0, "counted")]
        return Verdict(name, BUG, text, module, figures, diagnoses=found)
    if isinstance(update, Replaced):
        return _judge_replaced(name, pair, update, figures, around, rng)
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
        return Verdict(name, UNDECIDABLE, text, module, figures, recipe)
    if figures.correctly_rounded == 1.0:
        zero = ", the update is zero" if update.is_zero else ""
        text = f"every element correctly rounded{zero}"
        return Verdict(name, EXACT, text, module, figures, recipe)
    return Verdict(name, ROUNDING, recipe, module, figures, recipe)


def _unexplained(suspect: Suspect, module: str | None, rng: np.random.Generator) -> Verdict:
    name, figures = suspect.name, suspect.measure
    bound = envelope(suspect.pair, suspect.update)
    found = diagnose(suspect, rng)
    proved = any(d.explained == 1.0 for d in found)
    if bound.holds and suspect.adapted:
        return _inside(suspect, module, found if proved else [])
    if not proved:
        found = _fallback(suspect, bound, found, rng)
    return Verdict(name, BUG, _said(found), module, figures, diagnoses=found)


def _inside(suspect: Suspect, module: str | None, found: list[Diagnosis]) -> Verdict:
    """Inside the envelope: an order of rounding that is not in the table, or too little to tell."""
    recipe = "no recipe known, inside the rounding envelope"
    if not found:
        return Verdict(suspect.name, ROUNDING, recipe, module, suspect.measure, recipe)
    text = f"an order of rounding that no recipe has, or {found[0].name}: too little shows to tell"
    return Verdict(suspect.name, UNDECIDABLE, text, module, suspect.measure)


def _fallback(
    suspect: Suspect, bound: Envelope, found: list[Diagnosis], rng: np.random.Generator
) -> list[Diagnosis]:
    """What is most likely when no hypothesis explains every element."""
    for tolerated, instead in ((FEW, []), (MANY, found)):
        if instead:
            return instead
        some = _some_elements(suspect, tolerated, rng)
        if some is not None and bound.outside:
            return [some]
    return [_undiagnosed(suspect, bound)]


FEW, MANY = 0.002, 0.3  # shares of a tensor that may be wrong while the rest is a right merge


def _some_elements(
    suspect: Suspect, tolerated: float, rng: np.random.Generator
) -> Diagnosis | None:
    """A right merge but for some elements, which are far off: where they are."""
    best = fit(suspect.pair, suspect.update, rng, tolerated=tolerated)
    if best is None or suspect.measure.worst_ulps < 4:
        return None
    rows, columns = _places(suspect)
    wrong = best.elements - best.inside
    formula = f"a right merge but for {wrong:,} elements in rows {rows}, columns {columns}"
    share = best.inside / best.elements
    return Diagnosis("some elements overwritten", formula, share, best.describe(suspect.update))


def _places(suspect: Suspect) -> tuple[str, str]:
    """The rows and the columns that hold elements more than two ulps off."""
    bad_rows = np.zeros(suspect.pair.shape[0], dtype=bool)
    bad_columns = np.zeros(suspect.pair.shape[1], dtype=bool)
    for rows in row_blocks(suspect.pair.shape):
        W = suspect.pair.base(rows, EVERY)
        wanted = W + suspect.update.delta(rows)
        ulp = suspect.pair.grid.ulp(np.maximum(np.abs(W), np.abs(wanted)))
        off = np.abs(suspect.pair.merged(rows, EVERY) - wanted) > 2 * ulp
        bad_rows[rows] = off.any(axis=1)
        bad_columns |= off.any(axis=0)
    return spans(bad_rows), spans(bad_columns)


def _undiagnosed(suspect: Suspect, bound: Envelope) -> Diagnosis:
    """What can still be said when nothing in the catalogue explains the tensor."""
    figures = suspect.measure
    if not suspect.adapted:
        share = 1 - figures.correctly_rounded
        text = f"{share:.1%} of the elements changed, which no entry of the catalogue explains"
        return Diagnosis("changed that should not", text, 0.0, "unexplained")
    if bound.outside == 0:
        text = f"W + {1 + bound.beta:.5g}·s·BA (± {bound.beta_error:.1g})"
        return Diagnosis("scale", text, 1.0, "regression of what rounding leaves over")
    c, spread = figures.c or 0.0, (figures.rho or 0.0) / figures.elements**0.5
    rest = (figures.rho or 0.0) * figures.relative_update
    if abs(c - 1) < 6 * spread + 0.05 and (figures.rho or 0.0) > 0.5:
        text = f"merged − s·BA differs from W by {rest:.2%} of ‖W‖ (c = {c:.3g})"
        return Diagnosis("another base", text, 0.0, "the update is there, the base is not")
    captured = _low_rank_share(suspect)
    if captured > 0.9:
        text = f"W and another update of rank at most {suspect.update.rank} (c = {c:.3g})"
        return Diagnosis("another adapter", text, captured, f"{captured:.1%} of ‖merged − base‖²")
    text = f"merged − base is not this update: c = {c:.3g}, ρ = {figures.rho or 0.0:.3g}"
    return Diagnosis("another base or adapter", text, 0.0, "unexplained")


def _low_rank_share(suspect: Suspect) -> float:
    """The share of ‖merged − base‖² in its best rank-r approximation, by a randomized SVD."""
    rng = np.random.default_rng(0)
    r = min(suspect.update.rank, *suspect.pair.shape)
    probe = rng.standard_normal((suspect.pair.shape[1], r + 6))
    blocks = list(row_blocks(suspect.pair.shape))

    def done(rows: np.ndarray) -> np.ndarray:
        return suspect.pair.merged(rows, EVERY) - suspect.pair.base(rows, EVERY)

    Q = np.linalg.qr(np.concatenate([done(rows) @ probe for rows in blocks]))[0]
    small, whole = np.zeros((Q.shape[1], suspect.pair.shape[1])), 0.0
    for rows in blocks:
        D = done(rows)
        small += Q[rows].T @ D
        whole += float(np.vdot(D, D))
    top = np.linalg.svd(small, compute_uv=False)[:r]
    return float((top**2).sum() / whole) if whole > 0 else 0.0


def _said(found: list[Diagnosis]) -> str:
    first = found[0]
    also = f"; the same data also fit: {', '.join(d.name for d in found[1:])}" if found[1:] else ""
    return f"{first.name}: {first.formula} [{first.how}]{also}"


def _judge_replaced(
    name: str,
    pair: Pair,
    update: Replaced,
    figures: Measure,
    around: Surroundings,
    rng: np.random.Generator,
) -> Verdict:
    """A tensor, or rows of one, that the adapter carries whole: merged must hold them."""
    zero = nothing(name, pair.shape)

    def wanted(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return update.merged(pair.base(rows, EVERY), rows)[:, columns]

    best = fit(pair, zero, rng, wanted)
    if best is not None:
        exact = figures.correctly_rounded == 1.0
        text = "the adapter's copy" if exact else f"the adapter's copy, {best.describe(zero)}"
        return Verdict(name, EXACT if exact else ROUNDING, text, update.module, figures, text)
    if fit(pair, zero, rng) is not None:
        found = Diagnosis("adapter's copy ignored", "W, where the adapter's copy", 1.0, "all of it")
        return Verdict(name, BUG, _said([found]), update.module, figures, diagnoses=[found])
    suspect = Suspect(name, pair, zero, figures, around)
    found_all = diagnose(suspect, rng)
    if not found_all:
        share = 1 - figures.correctly_rounded
        text = f"{share:.1%} of the elements are neither the base's nor the adapter's copy"
        found_all = [Diagnosis("not the adapter's copy", text, 0.0, "unexplained")]
    return Verdict(name, BUG, _said(found_all), update.module, figures, diagnoses=found_all)
