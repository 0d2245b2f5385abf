"""Mistakes of layout: the right numbers at the wrong places.

A factor that is read through another layout gets its gradient through the same: dA and dB are
mapped back.

Source:
    bug catalogue rows L1 (Conv1D untransposed: lorax#106), L2 (factors read as (in, r) and
    (r, out): aprender#2138), L10, L11, L14 (blocks exchanged: vllm#36603, vllm#31534,
    sglang#34940), L16 (vmlx-swift#320).
"""

import numpy as np

from ..oracle import Oracle
from . import names
from .advice import RANK_ABOVE_ONE
from .mutation import Outputs, changed, mapped, mistake, value_of

ADVICE = "a larger update, and A and B dense"
OF_RANKS = f"{ADVICE}; {RANK_ABOVE_ONE}"


def _flipped(t: np.ndarray) -> np.ndarray:
    """The memory of (a, b) read as (b, a) and transposed: it undoes `_unflipped`."""
    return t.reshape(t.shape[::-1]).T


def _unflipped(t: np.ndarray) -> np.ndarray:
    return t.T.reshape(t.shape)


def _factors(oracle: Oracle) -> tuple[np.ndarray, np.ndarray]:
    return value_of(oracle, "A"), value_of(oracle, "B")


@mistake(names.A_TRANSPOSED, "A's memory as (in, r)", OF_RANKS)
def a_transposed(oracle: Oracle) -> Outputs | None:
    A, _ = _factors(oracle)
    return mapped(changed(oracle, A=_flipped(A)), dA=_unflipped)


@mistake(names.B_TRANSPOSED, "B's memory as (r, out)", OF_RANKS)
def b_transposed(oracle: Oracle) -> Outputs | None:
    _, B = _factors(oracle)
    return mapped(changed(oracle, B=_flipped(B)), dB=_unflipped)


@mistake(names.BOTH_TRANSPOSED, "A's memory as (in, r), B's as (r, out)", OF_RANKS)
def both_transposed(oracle: Oracle) -> Outputs | None:
    A, B = _factors(oracle)
    outputs = changed(oracle, A=_flipped(A), B=_flipped(B))
    return mapped(outputs, dA=_unflipped, dB=_unflipped)


def _exchanged(oracle: Oracle, A: np.ndarray, B: np.ndarray) -> Outputs:
    """The outputs with other factors of a square update; dA and dB trade places."""
    outputs = changed(oracle, A=A, B=B)
    if "dA" in outputs:
        outputs |= {"dA": outputs["dB"], "dB": outputs["dA"]}
    return outputs


@mistake(names.TRANSPOSED, "W + s·(BA)ᵀ", ADVICE)
def transposed(oracle: Oracle) -> Outputs | None:
    A, B = _factors(oracle)
    if A.shape[1] != B.shape[0]:
        return None
    return mapped(_exchanged(oracle, B.T, A.T), dA=np.transpose, dB=np.transpose)


@mistake(names.SWAPPED, "A's memory as B (out, r), B's as A (r, in)", ADVICE)
def swapped(oracle: Oracle) -> Outputs | None:
    A, B = _factors(oracle)
    if A.shape[1] != B.shape[0] or A.shape[0] == 1:
        return None
    outputs = _exchanged(oracle, B.reshape(A.shape), A.reshape(B.shape))
    return mapped(outputs, dA=lambda t: t.reshape(A.shape), dB=lambda t: t.reshape(B.shape))


@mistake(names.BASE_TRANSPOSED, "Wᵀ + s·BA", "W unsymmetric")
def base_transposed(oracle: Oracle) -> Outputs | None:
    W = value_of(oracle, "W")
    return changed(oracle, W=W.T) if W.shape[0] == W.shape[1] else None


@mistake(names.RANK_REVERSED, "Σ_k b_k a_{r−1−k}", OF_RANKS)
def rank_reversed(oracle: Oracle) -> Outputs | None:
    A, _ = _factors(oracle)
    if A.shape[0] < 2:
        return None
    return mapped(changed(oracle, A=A[::-1]), dA=lambda t: t[::-1])


@mistake(names.RANK_SHIFTED, "Σ_k b_k a_{k−1}", OF_RANKS)
def rank_shifted(oracle: Oracle) -> Outputs | None:
    A, _ = _factors(oracle)
    if A.shape[0] < 3:  # of two it is the reversal
        return None
    return mapped(changed(oracle, A=np.roll(A, 1, 0)), dA=lambda t: np.roll(t, -1, 0))


@mistake(names.HALVES_SWAPPED, "W + s·P BA, P: halves swapped", ADVICE)
def halves_swapped(oracle: Oracle) -> Outputs | None:
    _, B = _factors(oracle)
    half = B.shape[0] // 2
    if B.shape[0] % 2 or not half:
        return None
    return mapped(changed(oracle, B=np.roll(B, half, 0)), dB=lambda t: np.roll(t, half, 0))


LAYOUT = (
    a_transposed,
    b_transposed,
    both_transposed,
    transposed,
    swapped,
    base_transposed,
    rank_reversed,
    rank_shifted,
    halves_swapped,
)
