"""Updates as vectors that can be added: a weighted sum, and mergekit's weighted mean.

Math:
    weighted_sum     Σ w_i t_i
    weighted_mean    Σ w_i t_i / Σ w_i, and undivided where |Σ w_i| < 1e-8
Shapes:
    t_i (...), all of one shape: updates ΔW_i, or factors
Errors:
    ValueError if there is nothing to add, another number of weights, or one that is no finite
    number; ShapeError if the t_i differ in shape; TypeError if they are no arrays of one library,
    or the weights no sequence.
Limits:
    A weight may be negative: it takes an update away.
    Weights become Python floats, which leave the t_i in their dtype; NumPy's float64 would not.
Source:
    Ilharco et al. 2022, arXiv:2212.04089, section 2. PEFT 0.21.2, utils/merge_utils.py,
    task_arithmetic; mergekit 0.1.4, merge_methods/generalized_task_arithmetic.py, task_arithmetic
    with normalize: false, which is its default, and true.
"""

from collections.abc import Sequence
from typing import Any

from ..arrays import Array
from ..shapes import bind, parse
from ..values import checked_number

_NO_WEIGHT = 1e-8


def weighted_sum(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    """Σ w_i t_i."""
    w = weights_of("weighted_sum", tensors, weights)
    return sum_of([wi * t for wi, t in zip(w, tensors, strict=True)])


def weighted_mean(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    """Σ w_i t_i / Σ w_i."""
    w = weights_of("weighted_mean", tensors, weights)
    total = sum(w)
    return weighted_sum(tensors, w) / (total if abs(total) >= _NO_WEIGHT else 1.0)


def sum_of(tensors: Sequence[Array]) -> Array:
    """t_1 + t_2 + …, of at least one."""
    total = tensors[0]
    for t in tensors[1:]:
        total = total + t
    return total


def weights_of(owner: str, tensors: Sequence[Array], weights: Sequence[float]) -> list[float]:
    """One weight for each tensor, at least one of them, all tensors of one shape."""
    check_alike(owner, tensors)
    return checked_weights(owner, tensors, weights)


def check_alike(owner: str, tensors: Sequence[Array], name: str = "tensors[{}]") -> None:
    """At least one tensor, and all of one shape and library; the i-th is called by `name`."""
    if len(tensors) == 0:
        raise ValueError(f"{owner}: {name.partition('[')[0]} must hold at least one, got none")
    named = {name.format(i): t for i, t in enumerate(tensors)}
    bind(owner, named, dict.fromkeys(named, parse("*axes")))


def checked_weights(owner: str, parts: Sequence[Any], weights: Sequence[float]) -> list[float]:
    """The weights as Python floats, one for each part."""
    try:
        found = list(weights)
    except TypeError:
        got = type(weights).__name__
        raise TypeError(f"{owner}: weights must be a sequence of numbers, got {got}") from None
    if len(found) != len(parts):
        raise ValueError(
            f"{owner}: weights must be {len(parts)}, one for each part, got {len(found)}"
        )
    return [checked_number(owner, f"weights[{i}]", w) for i, w in enumerate(found)]
