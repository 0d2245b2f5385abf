"""The verdict on a tensor, or rows of one, that the adapter carries whole.

modules_to_save, trained biases and trained tokens are values of the trained model: merged holds
them in place of the base's. The bugs are to leave the base's there, to add them as if they were
differences, and to write them to other rows.
"""

from collections.abc import Iterator

import numpy as np

from ..verdict.findings import Status
from .catalogue import Surroundings, Suspect
from .catalogue.extent import spans
from .diagnose import Diagnosis, diagnose
from .fit import fit
from .measure import Measure, Pair, Take, row_blocks
from .updates import EVERY, Columns, Replaced, nothing
from .verdict import Verdict, said

Named = tuple[str, str, Take]


def judge_replaced(
    name: str,
    pair: Pair,
    update: Replaced,
    figures: Measure,
    around: Surroundings,
    rng: np.random.Generator,
) -> Verdict:
    """Whether merged holds the adapter's copy."""
    zero = nothing(name, pair.shape)
    best = fit(pair, zero, rng, _copy(pair, update))
    if best is not None:
        exact = figures.correctly_rounded == 1.0
        text = "the adapter's copy" if exact else f"the adapter's copy, {best.describe(zero)}"
        return Verdict(
            name, Status.EXACT if exact else Status.ROUNDING, text, update.module, figures, text
        )
    found: list[Diagnosis] = []
    for title, formula, base in _mistakes(pair, update):
        how = None if found else fit(pair, zero, rng, base)
        if how is not None:
            found = [Diagnosis(title, formula, 1.0, how.describe(zero), proved=True)]
    found = found or diagnose(Suspect(name, pair, zero, figures, around), rng)
    if not found:
        share = 1 - figures.correctly_rounded
        text = f"{share:.1%} of the elements are neither the base's nor the adapter's copy"
        found = [Diagnosis("not the adapter's copy", text, 0.0, "unexplained")]
    return Verdict(name, Status.BUG, said(found), update.module, figures, diagnoses=found)


def _copy(pair: Pair, update: Replaced) -> Take:
    def take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return update.merged(pair.base(rows, EVERY), rows)[:, columns]

    return take


def _mistakes(pair: Pair, update: Replaced) -> Iterator[Named]:
    yield "adapter's copy ignored", "W, where the adapter's copy", pair.base

    def added(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        W = pair.base(rows, EVERY)
        changed = np.isin(rows, update.rows) if update.rows is not None else np.full(len(W), True)
        return (W + np.where(changed[:, None], update.merged(W, rows), 0.0))[:, columns]

    yield "copy added to the base", "W + the adapter's copy, where the copy alone", added
    yield from _elsewhere(pair, update)


def _elsewhere(pair: Pair, update: Replaced) -> Iterator[Named]:
    """The rows that are not the base's hold the copy's rows, but not each its own."""
    if update.rows is None:
        return
    values = np.asarray(update.values, dtype=np.float64)
    changed = np.zeros(pair.shape[0], dtype=bool)
    for rows in row_blocks(pair.shape):
        same = pair.grid.round(pair.base(rows, EVERY)) == pair.merged(rows, EVERY)
        changed[rows] = ~same.all(axis=1)
    at = np.flatnonzero(changed)
    if not 0 < len(at) <= len(values):
        return
    M = pair.merged(at, EVERY)
    nearest = np.array([np.abs(values - row).sum(axis=1).argmin() for row in M])
    moved = Replaced(update.target, update.module, values[nearest], at)
    formula = f"the adapter's rows in rows {spans(changed)}, where {_listed(update.rows)}"
    yield "copy in other rows", formula, _copy(pair, moved)


def _listed(rows: np.ndarray) -> str:
    return ", ".join(map(str, rows[:4])) + (", …" if len(rows) > 4 else "")
