"""What is most likely when no hypothesis of the catalogue explains every element of a tensor.

A right merge with some elements overwritten; the update at a scale that no convention gives; or
what is left over is looked at for its rank, for a merge of another adapter leaves r directions
and a change of the base all of them.

Math:
    D = M − W.  D has rank at most r, up to rounding:                       another adapter
    D − s BA has rank at most 2r:                                           another update besides
    D − s BA has full rank, and ⟨D, s BA⟩ ≈ ‖s BA‖²:                        another base
    Rounding is allowed the energy Σ ulp² / 3 (½ ulp at most, and twice), and 1 % of ‖D‖².
"""

import numpy as np

from .catalogue import Suspect
from .catalogue.extent import spans
from .diagnose import Diagnosis
from .envelope import Envelope
from .fit import fit
from .measure import Pair, Take, row_blocks
from .updates import EVERY, Columns

FEW, MANY = 0.002, 0.3  # shares of a tensor that may be wrong while the rest is a right merge
MOSTLY = 0.9  # of what c s BA leaves must be of low rank, too, to be another adapter's
SPARE = 8  # directions of the randomized SVD beyond the rank asked for


def fallback(
    suspect: Suspect, bound: Envelope, found: list[Diagnosis], rng: np.random.Generator
) -> list[Diagnosis]:
    """What to say: the nearest hypotheses `found`, or what this module sees."""
    whole = _other_inputs(suspect, rng)
    if whole is not None:
        return [whole]
    for tolerated, instead in ((FEW, []), (MANY, found)):
        if instead:
            return instead
        some = _some_elements(suspect, tolerated, rng)
        if some is not None and bound.outside:
            return [some]
    return [_undiagnosed(suspect, bound)]


def _other_inputs(suspect: Suspect, rng: np.random.Generator) -> Diagnosis | None:
    """The merge is right and BASE is not what it started from: exchanged, or rounded since."""
    pair, update = suspect.pair, suspect.update
    if suspect.adapted and fit(Pair(pair.M, pair.W, pair.grid, pair.base_grid), update, rng):
        formula = "BASE = MERGED + s·BA: exchange --base and --merged"
        name, how = "BASE and MERGED exchanged", "element by element"
        return Diagnosis(name, formula, 1.0, how, proved=True)
    if pair.grid.precision <= pair.base_grid.precision:
        return None
    for rows in row_blocks(pair.shape):
        W, D = pair.base(rows, EVERY), update.delta(rows)
        allowed = pair.base_grid.ulp(W) / 2 + 2 * pair.grid.ulp(np.abs(W) + np.abs(D))
        if not (np.abs(pair.merged(rows, EVERY) - D - W) <= allowed).all():
            return None
    formula = f"the base that was merged is finer, and BASE is it rounded to {pair.base_grid.name}"
    return Diagnosis("BASE is rounded", formula, 1.0, "merged − s·BA is within ½ ulp of BASE")


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
        text = f"{share:.1%} of the elements are not the base's, and no entry of the catalogue fits"
        return Diagnosis("changed that should not", text, 0.0, "unexplained")
    if bound.outside == 0:
        text = f"W + {1 + bound.beta:.5g}·s·BA (± {bound.beta_error:.1g})"
        return Diagnosis("scale", text, 1.0, "regression of what rounding leaves over")
    c, rho = figures.c or 0.0, figures.rho or 0.0
    r, noise = suspect.update.rank * len(suspect.update.parts), _rounding_energy(suspect)
    captured, left = _low_rank(suspect, suspect.done, r)
    if left <= noise and _low_rank(suspect, _remainder(suspect, c), 2 * r)[0] > MOSTLY:
        text = f"W and another update of rank at most {r} (c = {c:.3g})"
        return Diagnosis("another adapter", text, captured, f"{captured:.1%} of ‖merged − base‖²")
    if abs(c - 1) < 6 * rho / figures.elements**0.5 + 0.05:
        captured, left = _low_rank(suspect, _remainder(suspect, 1.0), 2 * r)
        if left <= noise and captured > MOSTLY:
            text = f"W + s·BA and another update of rank at most {2 * r}"
            how = f"{captured:.1%} of ‖merged − base − s·BA‖²"
            return Diagnosis("another update besides", text, captured, how)
        text = f"merged − s·BA differs from W by {rho * figures.relative_update:.2%} of ‖W‖"
        how = "the update is there, the base is not"
        return Diagnosis("another base", f"{text} (c = {c:.3g})", 0.0, how)
    text = f"merged − base is not this update: c = {c:.3g}, ρ = {rho:.3g}"
    return Diagnosis("another base or adapter", text, 0.0, "unexplained")


def _remainder(suspect: Suspect, c: float) -> Take:
    """D − c s BA."""

    def rest(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return suspect.done(rows, columns) - c * suspect.update.delta(rows, columns)

    return rest


def _rounding_energy(suspect: Suspect) -> float:
    """What two roundings at most leave of a difference, and 1 % of it, as a sum of squares."""
    energy = 0.0
    for rows in row_blocks(suspect.pair.shape):
        ulp = suspect.pair.grid.ulp(suspect.pair.merged(rows, EVERY))
        energy += float(np.vdot(ulp, ulp)) / 3 + 0.01 * float((suspect.done(rows) ** 2).sum())
    return energy


def _low_rank(suspect: Suspect, take: Take, rank: int) -> tuple[float, float]:
    """The best approximation of a matrix by one of `rank`: the share of ‖·‖² in it, and the rest.

    Source: Halko, Martinsson, Tropp, Finding structure with randomness, 2011, algorithm 4.3, with
    one power iteration.
    """
    shape = suspect.pair.shape
    if min(shape) <= rank + 2:
        return 0.0, np.inf  # any matrix of that shape is nearly of that rank
    probe = np.random.default_rng(0).standard_normal((shape[1], min(rank + SPARE, min(shape))))
    blocks = list(row_blocks(shape))
    for _ in range(2):
        Q = np.linalg.qr(np.concatenate([take(rows) @ probe for rows in blocks]))[0]
        probe = sum((take(rows).T @ Q[rows] for rows in blocks), np.zeros((shape[1], Q.shape[1])))
    whole = sum(float((take(rows) ** 2).sum()) for rows in blocks)
    top = np.linalg.svd(probe, compute_uv=False)[:rank]
    kept = float((top**2).sum())
    return (kept / whole, whole - kept) if whole > 0 else (0.0, 0.0)
