"""Mistakes of identity: the base missing, or the update of another adapter.

Source:
    bug catalogue rows Q11 (the wrong base: unsloth#869), Q17, S16 (adapters mixed: peft#3756,
    peft#1155); serving engines that give a token the adapter of its neighbour.
"""

from typing import Any

import numpy as np

from ..oracle import Mistake, Oracle
from . import names
from .extent import masked_token
from .factored import tokens
from .mutation import Outputs, changed, kept, mistake, reference, value_of

ADVICE = "adapters that differ, and larger updates"


@mistake(names.BASE_LEFT_OUT, "s·BA where W + s·BA")
def base_left_out(oracle: Oracle) -> Outputs | None:
    return changed(oracle, ("y", "dx"), W=np.zeros_like(value_of(oracle, "W")))


def of_others(others: tuple[Any, ...]) -> tuple[Mistake, ...]:
    """The mistakes that take another adapter's update, one set for each of `others`."""
    return tuple(
        found
        for k, other in enumerate(others)
        for found in _of_other(other, f" (adapter {k})" if len(others) > 1 else "")
    )


def _of_other(other: Any, label: str) -> tuple[Mistake, ...]:
    def instead(oracle: Oracle) -> Outputs | None:
        return _with(oracle, other)

    def as_well(oracle: Oracle) -> Outputs | None:
        right, base, its = (
            kept(t, ("y", "dx"))
            for t in (reference(oracle), changed(oracle, scale=0.0), _with(oracle, other))
        )
        return {n: right[n] + (its[n] - base[n]) for n in right}

    def on_last_token(oracle: Oracle) -> Outputs | None:
        right, its = kept(reference(oracle), ("y", "dx")), _with(oracle, other)
        rows = {n: tokens(t).copy() for n, t in right.items()}
        for n, t in rows.items():
            t[-1:] = tokens(its[n])[-1:]
        outputs = {n: t.reshape(right[n].shape) for n, t in rows.items()}
        if oracle.cotangent is not None:
            left = masked_token(oracle.cotangent)
            outputs |= changed(oracle, ("dA", "dB", "dm"), cotangent=left)
        return outputs

    return (
        Mistake(names.ANOTHER_UPDATE + label, "ΔW of another adapter", instead, ADVICE),
        Mistake(names.ANOTHER_UPDATE_TOO + label, "ΔW + another's ΔW", as_well, ADVICE),
        Mistake(names.ANOTHER_ON_LAST_TOKEN + label, "its ΔW there", on_last_token, ADVICE),
    )


def _with(oracle: Oracle, other: Any) -> Outputs:
    factors = {"A": other.A, "B": other.B, "scale": other.scale}
    return changed(oracle, ("y", "dx"), **factors)
