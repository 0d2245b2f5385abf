"""Mistakes of DoRA: what it divides by, what it multiplies, and which gradient the norm has.

Math:
    g = m / ‖V‖. A bug that makes of it g' = f g is the right kernel with the magnitude f m, and
    its gradient of m is f times that kernel's.
Source:
    bug catalogue rows D3 (norm along dim 0: NVlabs/DoRA#4, nbasyl/DoRA#2, LyCORIS#216), D4 (norm
    of another weight: peft#3608), D6, L20 (axis of the magnitude: InvokeAI#9517, ComfyUI#12938),
    D7 (magnitude dropped: unsloth-zoo#828); the detached norm: adapters page, section 1.4.
"""

from typing import Any

import numpy as np

from ...adapters.lora import LoRA
from ...arrays import row_sum
from ...layers.linear import linear
from ..oracle import Oracle
from . import names
from .mutation import Outputs, changed, kept, mapped, mistake, reference, value_of

ADVICE = "a larger update, so that W + s·BA has other lengths than W"
OF_WEIGHT = ("y", "dx", "dA", "dB")


def _direction(oracle: Oracle, scale: float | None = None) -> np.ndarray:
    A, B, W, s = (value_of(oracle, n) for n in ("A", "B", "W", "scale"))
    return LoRA(A, B, s if scale is None else scale).merge(W)


def _lengths(V: np.ndarray) -> np.ndarray:
    return np.linalg.norm(V, axis=1)


def _with_factor(oracle: Oracle, f: np.ndarray, **values: Any) -> Outputs:
    """The outputs for g' = f g."""
    outputs = changed(oracle, m=f * value_of(oracle, "m"), **values)
    return mapped(outputs, dm=lambda t: f * t)


@mistake(names.NORM_OF_BASE, "m/‖W‖ where m/‖W + s·BA‖", ADVICE)
def norm_of_base(oracle: Oracle) -> Outputs | None:
    f = _lengths(_direction(oracle)) / _lengths(value_of(oracle, "W"))
    return _with_factor(oracle, f, detach_norm=True)


@mistake(names.NORM_UNSCALED, "m/‖W + BA‖ where m/‖W + s·BA‖", ADVICE + "; s not 1")
def norm_unscaled(oracle: Oracle) -> Outputs | None:
    return _with_factor(oracle, _lengths(_direction(oracle)) / _lengths(_direction(oracle, 1.0)))


@mistake(names.MAGNITUDE_DROPPED, "W + s·BA", "m unlike the lengths of W + s·BA")
def magnitude_dropped(oracle: Oracle) -> Outputs | None:
    return changed(oracle, OF_WEIGHT, m=_lengths(_direction(oracle)))


@mistake(names.UNNORMALISED, "m·(W + s·BA)", "weights whose rows are not of length 1")
def unnormalised(oracle: Oracle) -> Outputs | None:
    return _with_factor(oracle, _lengths(_direction(oracle)))


@mistake(names.MAGNITUDE_ON_UPDATE, "x Wᵀ + g∘s·u Bᵀ", "m unlike the lengths of W + s·BA")
def magnitude_on_update(oracle: Oracle) -> Outputs | None:
    x, W, m = (value_of(oracle, n) for n in ("x", "W", "m"))
    rest = 1 - m / _lengths(_direction(oracle))
    base, backward = linear(x, W)
    right = kept(reference(oracle), ("y", "dx"))
    outputs = {"y": right["y"] + rest * base}
    if oracle.cotangent is not None:
        outputs["dx"] = right["dx"] + backward(rest * oracle.cotangent)[0]
    return outputs


def _through_norms(oracle: Oracle, outputs: Outputs, dc: np.ndarray) -> Outputs:
    """dA and dB with what the gradient dc of the columns' norms adds, unless they are held."""
    if value_of(oracle, "detach_norm"):
        return outputs
    V, A, B, s = _direction(oracle), *(value_of(oracle, n) for n in ("A", "B", "scale"))
    dV = V * (dc / np.linalg.norm(V, axis=0))
    return mapped(outputs, dA=lambda t: t + s * (B.T @ dV), dB=lambda t: t + s * (dV @ A.T))


@mistake(names.COLUMN_NORMS, "m_i V_ij / ‖V_·j‖, V = W + s·BA")
def column_norms(oracle: Oracle) -> Outputs | None:
    """A LoRA layer on x/c between the magnitude and the norms c of the columns."""
    A, B, x, s, m = (value_of(oracle, n) for n in ("A", "B", "x", "scale", "m"))
    c, b, dy = np.linalg.norm(_direction(oracle), axis=0), value_of(oracle, "b"), oracle.cotangent
    given = {} if dy is None else {"cotangent": m * dy}
    found = changed(oracle, OF_WEIGHT, adapter=LoRA(A, B, s), x=x / c, **given)
    h = found["y"] if b is None else found["y"] - b
    outputs = {**found, "y": m * h if b is None else m * h + b}
    if dy is None:
        return outputs
    outputs |= {"dx": found["dx"] / c, "dm": row_sum(dy * h)}
    return _through_norms(oracle, outputs, -row_sum(x * outputs["dx"]) / c)


@mistake(names.COLUMN_NORMS_ON_ROWS, "m_i V_ij / ‖V_·i‖, V = W + s·BA", "W square")
def column_norms_on_rows(oracle: Oracle) -> Outputs | None:
    V = _direction(oracle)
    if V.shape[0] != V.shape[1]:
        return None
    c = np.linalg.norm(V, axis=0)
    outputs = _with_factor(oracle, _lengths(V) / c, detach_norm=True)
    if oracle.cotangent is None:
        return outputs
    return _through_norms(oracle, outputs, -outputs["dm"] * value_of(oracle, "m") / c)


@mistake(names.ALONG_INPUTS, "m_j V_ij / ‖V_·j‖, V = W + s·BA", "W square")
def along_inputs(oracle: Oracle) -> Outputs | None:
    V, m = _direction(oracle), value_of(oracle, "m")
    if V.shape[0] != V.shape[1]:
        return None
    g = m / np.linalg.norm(V, axis=0)
    A, B, x, s = (value_of(oracle, n) for n in ("A", "B", "x", "scale"))
    outputs = changed(oracle, OF_WEIGHT, adapter=LoRA(A, B, s), x=g * x)
    return mapped(outputs, dx=lambda t: g * t)


def _with_norm_held(oracle: Oracle, held: bool) -> Outputs | None:
    if value_of(oracle, "detach_norm") == held:
        return None
    return changed(oracle, ("dA", "dB"), detach_norm=held) or None


GRADIENTS = "a larger update, and judge dA, dB"


@mistake(names.NORM_HELD, "‖V‖ constant in dA and dB, where detach_norm=False is asked", GRADIENTS)
def norm_held(oracle: Oracle) -> Outputs | None:
    return _with_norm_held(oracle, True)


@mistake(names.NORM_NOT_HELD, "d‖V‖ in dA and dB, where detach_norm=True is asked", GRADIENTS)
def norm_not_held(oracle: Oracle) -> Outputs | None:
    return _with_norm_held(oracle, False)


DORA = (
    norm_of_base,
    norm_unscaled,
    magnitude_dropped,
    unnormalised,
    magnitude_on_update,
    column_norms,
    column_norms_on_rows,
    along_inputs,
    norm_held,
    norm_not_held,
)
