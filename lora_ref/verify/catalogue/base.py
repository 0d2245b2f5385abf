"""Bugs of the base: the right update on the wrong W.

Source: bug catalogue rows Q5 (merged onto W16 or onto the dequantized W4: axolotl#1263,
unsloth-zoo#810), Q11 (wrong base: unsloth#869), Q4, Q7.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...verdict.mistakes import names
from ..measure import row_blocks
from ..updates import EVERY, Columns
from .hypothesis import Hypothesis, Suspect
from .quantize import FORMATS

NEARLY_ALL = 0.02  # a code may differ where a value lies on the threshold between two


def other_tensor(suspect: Suspect) -> Iterator[Hypothesis]:
    """Another tensor of the base, with this update, with its own, or with none."""
    nothing = suspect.update.with_scale(0.0)
    for name in suspect.others():
        W = suspect.other(name)
        yield Hypothesis("another tensor's base", f"W of {name} + s·BA", suspect.update, W)
        if suspect.adapted:
            yield Hypothesis("another tensor", f"W of {name}", nothing, W)
        own = suspect.around.updates.get(name)
        if own is not None and own.shape == suspect.pair.shape:
            yield Hypothesis("tensors exchanged", f"W' of {name}", own, W)


def no_base(suspect: Suspect) -> Iterator[Hypothesis]:
    """Zeros in place of the base: only the update was stored, or nothing was."""

    def zeros(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return 0.0 * suspect.pair.base(rows, columns)

    if suspect.adapted:
        yield Hypothesis(names.BASE_LEFT_OUT, "s·BA, where W + s·BA", suspect.update, zeros)
    yield Hypothesis("zeros", "0", suspect.update.with_scale(0.0), zeros)


def scaled_base(suspect: Suspect) -> Iterator[Hypothesis]:
    """k W in place of W, k from the least squares of merged − s BA against W."""
    along = size = 0.0
    for rows in row_blocks(suspect.pair.shape):
        W = suspect.pair.base(rows, EVERY)
        rest = suspect.pair.merged(rows, EVERY) - suspect.update.delta(rows)
        along += float(np.nansum(rest * W))
        size += float(np.vdot(W, W))
    for k in (along / size, 2.0, 0.5, -1.0) if size > 0 else ():

        def scaled(rows: np.ndarray, columns: Columns = EVERY, k: float = k) -> np.ndarray:
            return k * suspect.pair.base(rows, columns)

        if abs(k - 1) > 1e-3:
            yield Hypothesis("base scaled", f"{k:.4g}·W + s·BA", suspect.update, scaled)


def quantized(suspect: Suspect) -> Iterator[Hypothesis]:
    """The base after a round trip through a coarser format."""
    pairs = [suspect.pair]
    if suspect.pair.grid.precision < suspect.pair.base_grid.precision:
        held = suspect.pair.W.astype(suspect.pair.M.dtype)  # a base loaded in merged's dtype
        pairs.append(replace(suspect.pair, W=held, base_grid=suspect.pair.grid))
    kinds = ((pair, name, *how) for name, how in FORMATS.items() for pair in pairs)
    for pair, name, precision, through in kinds:
        if precision >= min(pair.base_grid.precision, pair.grid.precision):
            continue
        take = through(pair)
        formula = f"Q(W) + s·BA, Q: {name} and back"
        said = f"base quantized and dequantized ({name})"
        yield Hypothesis(said, formula, suspect.update, take, NEARLY_ALL)
        if suspect.adapted:
            nothing = suspect.update.with_scale(0.0)
            said = f"{names.NOT_APPLIED}, and base quantized ({name})"
            yield Hypothesis(said, f"Q(W), Q: {name}", nothing, take, NEARLY_ALL)
