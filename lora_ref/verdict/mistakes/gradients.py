"""Mistakes of the backward alone: the value is right, so nothing in y shows them.

Source:
    the mutants dB without the scale, dx without the update and last token dropped of the power
    table; bug catalogue rows C12 (a fused kernel passes the adapter by: helical#405, peft#2556)
    and L22 (rows trained that should not be: miles#1792).
"""

from typing import Any

from ..oracle import Mistake, Oracle
from . import names
from .extent import masked_token
from .factored import tokens
from .mutation import Outputs, changed, mistake, times, value_of

ADVICE = "judge the gradients too: y cannot show it"


def _inverse_scale(oracle: Oracle, *gradients: str) -> Outputs | None:
    s = value_of(oracle, "scale")
    return times(1 / s, *gradients)(oracle) if s else None


@mistake(names.DB_UNSCALED, "dB = dyᵀu", "s not 1")
def db_unscaled(oracle: Oracle) -> Outputs | None:
    return _inverse_scale(oracle, "dB")


@mistake(names.DA_UNSCALED, "dA = (dy B)ᵀx", "s not 1")
def da_unscaled(oracle: Oracle) -> Outputs | None:
    return _inverse_scale(oracle, "dA")


@mistake(names.DA_DB_UNSCALED, "dA = (dy B)ᵀx, dB = dyᵀu", "s not 1")
def da_db_unscaled(oracle: Oracle) -> Outputs | None:
    return _inverse_scale(oracle, "dA", "dB")


@mistake(names.DA_DB_SCALED_TWICE, "dA = s²(dy B)ᵀx, dB = s²dyᵀu", "s not 1")
def da_db_scaled_twice(oracle: Oracle) -> Outputs | None:
    return times(value_of(oracle, "scale"), "dA", "dB")(oracle)


@mistake(names.DX_WITHOUT_UPDATE, "dx = dy W", "a larger update")
def dx_without_update(oracle: Oracle) -> Outputs | None:
    return _of_gradients(oracle, ("dx",), scale=0.0)


@mistake(names.DX_UNSCALED, "dx = dy W + dy B A", "a larger update; s not 1")
def dx_unscaled(oracle: Oracle) -> Outputs | None:
    return _of_gradients(oracle, ("dx",), scale=1.0)


@mistake(names.GRADIENTS_LAST_TOKEN, "Σ_t<T−1", "fewer tokens")
def last_token_of_gradients(oracle: Oracle) -> Outputs | None:
    if oracle.cotangent is None:
        return None
    return _of_gradients(oracle, PARAMETERS, cotangent=masked_token(oracle.cotangent))


@mistake(names.GRADIENTS_AVERAGED, "Σ_t / T where Σ_t", "more than one token")
def averaged(oracle: Oracle) -> Outputs | None:
    if oracle.cotangent is None:
        return None
    return times(1 / max(len(tokens(oracle.cotangent)), 1), *PARAMETERS)(oracle)


PARAMETERS = ("dA", "dB", "dm", "db")


def _of_gradients(oracle: Oracle, only: tuple[str, ...], **values: Any) -> Outputs | None:
    return None if oracle.cotangent is None else changed(oracle, only, **values) or None


OF_SCALED_GRADIENTS: tuple[Mistake, ...] = (
    db_unscaled,
    da_unscaled,
    da_db_unscaled,
    da_db_scaled_twice,
)
OF_GRADIENTS: tuple[Mistake, ...] = (
    *OF_SCALED_GRADIENTS,
    dx_without_update,
    dx_unscaled,
    last_token_of_gradients,
    averaged,
)
