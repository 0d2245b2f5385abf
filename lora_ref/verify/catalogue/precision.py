"""Bugs of precision: the right merge through fewer digits than its dtype has.

Merging in 16 bits is a recipe, and so rounding; what is here is no way to merge: 8-bit floats on
the way, and digits cut off where they should be rounded, which draws every weight towards zero.

Source: bug catalogue row Q2 (the adapter's dtype and the base's: peft#2421, #1172, #1706).
"""

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from ...verdict.grids import Grid, grid_of
from ..measure import Take
from ..recipes import ACCUMULATED
from ..updates import EVERY, Columns
from .hypothesis import Hypothesis, Suspect
from .scale import NEARLY_ALL, merged_by

NARROW = {
    "float8 e4m3": grid_of(np.dtype(ml_dtypes.float8_e4m3fn)),
    "float8 e5m2": grid_of(np.dtype(ml_dtypes.float8_e5m2)),
}


def too_narrow(suspect: Suspect) -> Iterator[Hypothesis]:
    """The update, or the whole merge, rounded to an 8-bit float, or cut off to the stored dtype."""
    if not suspect.adapted:
        return
    nothing = suspect.update.with_scale(0.0)
    for label, grid in NARROW.items():
        if grid.precision < suspect.pair.grid.precision:
            whole, update = merged_by(ACCUMULATED, suspect, grid), _update_rounded(suspect, grid)
            name = f"stored through {label}"
            yield Hypothesis(name, "Q(W + s·BA)", nothing, whole, NEARLY_ALL)
            name = f"update rounded to {label}"
            yield Hypothesis(name, "W + Q(s·BA)", nothing, update, NEARLY_ALL)
    if suspect.pair.grid.precision < 24:
        name, formula = "cut off instead of rounded", "the digits of W + s·BA beyond the dtype's"
        yield Hypothesis(name, formula, nothing, _cut_off(suspect), NEARLY_ALL)


def _update_rounded(suspect: Suspect, grid: Grid) -> Take:
    def take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return suspect.pair.base(rows, columns) + grid.round(suspect.update.delta(rows, columns))

    return take


def _cut_off(suspect: Suspect) -> Take:
    grid = suspect.pair.grid

    def take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        exact = suspect.pair.base(rows, columns) + suspect.update.delta(rows, columns)
        ulp = grid.ulp(exact)
        return np.trunc(exact / ulp) * ulp

    return take
