"""Mistakes of extent: the last column, row, token or rank component is left out.

They are what a kernel does whose tiles do not cover sizes that are no multiple of the tile; the
shape of the inputs decides whether it shows.

Source:
    bug catalogue rows L22, L10 (slices of a fused projection: miles#1792, vllm#36603), Q17 (a
    part merged: peft#3756), L7 (litgpt#1197); vLLM's own test passes without its last column.
"""

import numpy as np

from ..oracle import Oracle
from . import names
from .factored import tokens
from .mutation import Outputs, changed, kept, masked, mistake, reference, value_of

TILES = "sizes that are no multiple of a tile, and a last {} of weight"


@mistake(names.LAST_INPUT, "Σ_j<n−1 in both products", TILES.format("column of x"))
def last_input(oracle: Oracle) -> Outputs | None:
    A, W = value_of(oracle, "A"), value_of(oracle, "W")
    return _without_column(changed(oracle, A=masked(A, 1), W=masked(W, 1)))


@mistake(names.LAST_INPUT_OF_BASE, "Σ_j<n−1 x_j W_ij", TILES.format("column of W"))
def last_input_of_base(oracle: Oracle) -> Outputs | None:
    return changed(oracle, ("y", "dx"), W=masked(value_of(oracle, "W"), 1))


@mistake(names.LAST_INPUT_OF_A, "Σ_j<n−1 x_j A_kj", TILES.format("column of A"))
def last_input_of_a(oracle: Oracle) -> Outputs | None:
    return _without_column(changed(oracle, A=masked(value_of(oracle, "A"), 1)))


def _without_column(outputs: Outputs) -> Outputs:
    return outputs | ({"dA": masked(outputs["dA"], 1)} if "dA" in outputs else {})


@mistake(names.LAST_OUTPUT, "the last row of B at 0", TILES.format("row of B"))
def last_output(oracle: Oracle) -> Outputs | None:
    outputs = changed(oracle, B=masked(value_of(oracle, "B"), 0))
    return outputs | ({"dB": masked(outputs["dB"], 0)} if "dB" in outputs else {})


@mistake(names.LAST_OUTPUT_ZERO, "y_{m−1} = 0", TILES.format("output"))
def last_output_zero(oracle: Oracle) -> Outputs | None:
    return {"y": masked(reference(oracle)["y"], -1)}


@mistake(names.RANK_TRUNCATED, "Σ_k<r−1 b_k a_k", "a last rank component as large as the others")
def rank_truncated(oracle: Oracle) -> Outputs | None:
    A, B = value_of(oracle, "A"), value_of(oracle, "B")
    return changed(oracle, A=masked(A, 0), B=masked(B, 1))


@mistake(names.LAST_TOKEN, "W where W + s·BA, for the last token", "a larger update, more columns")
def last_token(oracle: Oracle) -> Outputs | None:
    right, base = reference(oracle), changed(oracle, scale=0.0)
    outputs: Outputs = {}
    outputs |= {n: _last_row_of(t, base[n]) for n, t in kept(right, ("y", "dx")).items()}
    if oracle.cotangent is not None:
        left = masked_token(oracle.cotangent)
        outputs |= changed(oracle, ("dA", "dB"), cotangent=left)
    return outputs


@mistake(names.LAST_TOKEN_ZERO, "y of the last token = 0")
def last_token_zero(oracle: Oracle) -> Outputs | None:
    return {"y": masked_token(reference(oracle)["y"])}


@mistake(names.LAST_TOKEN_STALE, "y of the last token = that of the one before", "unlike tokens")
def last_token_stale(oracle: Oracle) -> Outputs | None:
    y = reference(oracle)["y"]
    rows = tokens(y).copy()
    if len(rows) < 2:
        return None
    rows[-1] = rows[-2]
    return {"y": rows.reshape(y.shape)}


def masked_token(t: np.ndarray) -> np.ndarray:
    """`t` with the last token at zero."""
    return masked(tokens(t), 0).reshape(t.shape) if t.size else t


def _last_row_of(right: np.ndarray, other: np.ndarray) -> np.ndarray:
    rows = tokens(right).copy()
    rows[-1:] = tokens(other)[-1:]
    return rows.reshape(right.shape)


OF_FACTORS = (last_output, rank_truncated)
OF_PRODUCTS = (
    last_input,
    last_input_of_base,
    last_input_of_a,
    last_output_zero,
    last_token,
    last_token_zero,
    last_token_stale,
)
