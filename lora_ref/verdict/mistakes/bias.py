"""Mistakes of the bias.

Source: bug catalogue rows Q19 (peft#3710: the merge of a bias half done) and D1's neighbourhood:
a fused epilogue that applies the bias inside the scaled branch, twice, or not at all.
"""

from ..oracle import Oracle
from . import names
from .extent import masked_token
from .mutation import Outputs, changed, mistake, value_of

ADVICE = "a bias as large as the output"


def _with(oracle: Oracle, factor: float) -> Outputs | None:
    b = value_of(oracle, "b")
    return None if b is None else changed(oracle, ("y",), b=factor * b)


@mistake(names.BIAS_LEFT_OUT, "y without b", ADVICE)
def bias_left_out(oracle: Oracle) -> Outputs | None:
    return _with(oracle, 0.0)


@mistake(names.BIAS_TWICE, "y + b", ADVICE)
def bias_twice(oracle: Oracle) -> Outputs | None:
    return _with(oracle, 2.0)


@mistake(names.BIAS_SCALED, "s·b where b", ADVICE + "; s not 1")
def bias_scaled(oracle: Oracle) -> Outputs | None:
    return _with(oracle, value_of(oracle, "scale"))


@mistake(names.BIAS_LAST_TOKEN, "Σ_t<T−1 dy_t", "fewer tokens")
def bias_last_token(oracle: Oracle) -> Outputs | None:
    if oracle.cotangent is None or value_of(oracle, "b") is None:
        return None
    return changed(oracle, ("db",), cotangent=masked_token(oracle.cotangent))


BIAS = (bias_left_out, bias_twice, bias_scaled, bias_last_token)
