"""Mistakes of the rotary embedding in front of attention.

Scores see only how far two positions are apart: a shift of queries and keys together is none.

Source:
    bug catalogue, section 3.2 (the permutation between rotary halves and pairs, Llama's weights in
    transformers' layout); positions in bfloat16: transformers#29285, a mutant of the power table.
"""

import numpy as np

from ...layers.rotary import rotary_angles, rotary_half, rotary_interleaved
from ..grids import BFLOAT16
from ..oracle import Oracle
from . import names
from .mutation import Outputs, changed, mistake, value_of

ADVICE = "more positions, and scores of size 1"


@mistake(names.NOT_ROTATED, "q and k as they are", ADVICE)
def not_rotated(oracle: Oracle) -> Outputs | None:
    return changed(oracle, **_none(oracle, ""), **_none(oracle, "key_"))


@mistake(names.KEYS_NOT_ROTATED, "k as it is", ADVICE)
def keys_not_rotated(oracle: Oracle) -> Outputs | None:
    return changed(oracle, **_none(oracle, "key_"))


def _none(oracle: Oracle, whose: str) -> Outputs:
    cos = value_of(oracle, f"{whose}cos")
    return {f"{whose}cos": np.ones_like(cos), f"{whose}sin": np.zeros_like(cos)}


@mistake(names.PAIRING, "x_j with x_{j+w/2} for x_2j with x_{2j+1}, or the reverse", "w above 2")
def pairing(oracle: Oracle) -> Outputs | None:
    halves = value_of(oracle, "rotary") is rotary_half
    return changed(oracle, rotary=rotary_interleaved if halves else rotary_half)


@mistake(names.BACKWARDS, "−φ for φ", ADVICE)
def backwards(oracle: Oracle) -> Outputs | None:
    sin, key_sin = value_of(oracle, "sin"), value_of(oracle, "key_sin")
    return changed(oracle, sin=-sin, key_sin=-key_sin)


@mistake(names.ONE_POSITION_AHEAD, "p + 1 for p in q", ADVICE)
def one_ahead(oracle: Oracle) -> Outputs | None:
    positions, base = value_of(oracle, "positions"), value_of(oracle, "base")
    if positions is None:
        return None
    cos, sin = rotary_angles(positions + 1, _width(oracle), base=base)
    return changed(oracle, cos=cos, sin=sin)


@mistake(names.POSITIONS_ROUNDED, "p to 8 bits", "positions above 256")
def positions_rounded(oracle: Oracle) -> Outputs | None:
    positions, base = value_of(oracle, "positions"), value_of(oracle, "base")
    if positions is None:
        return None
    rounded = BFLOAT16.round(positions.astype(np.float64)).astype(positions.dtype)
    cos, sin = rotary_angles(rounded, _width(oracle), base=base)
    return changed(oracle, cos=cos, sin=sin, key_cos=cos, key_sin=sin)


def _width(oracle: Oracle) -> int:
    return 2 * value_of(oracle, "cos").shape[-1]


ROTARY = (not_rotated, keys_not_rotated, pairing, backwards, one_ahead, positions_rounded)
