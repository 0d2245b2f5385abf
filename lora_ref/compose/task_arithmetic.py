"""Updates as vectors that can be added: a weighted sum, and mergekit's weighted mean.

Math:
    weighted_sum     Σ w_i t_i
    weighted_mean    Σ w_i t_i / Σ w_i, and undivided where |Σ w_i| < 1e-8
Shapes:
    t_i (...), all of one shape: updates ΔW_i, or factors
Errors:
    ValueError if there is nothing to add, or another number of weights; ShapeError if the t_i
    differ in shape.
Limits:
    A weight may be negative: it takes an update away.
Source:
    Ilharco et al. 2022, arXiv:2212.04089, section 2. PEFT 0.21.2, utils/merge_utils.py,
    task_arithmetic; mergekit 0.1.4, merge_methods/generalized_task_arithmetic.py, task_arithmetic
    with normalize: false, which is its default, and true.
"""

from collections.abc import Sequence
from typing import Any

from ..arrays import Array
from ..shapes import ShapeError

_NO_WEIGHT = 1e-8


def weighted_sum(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    """Σ w_i t_i."""
    check_weighted("weighted_sum", tensors, weights)
    return sum_of([w * t for t, w in zip(tensors, weights, strict=True)])


def weighted_mean(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    """Σ w_i t_i / Σ w_i."""
    check_weighted("weighted_mean", tensors, weights)
    total = sum(weights)
    return weighted_sum(tensors, weights) / (total if abs(total) >= _NO_WEIGHT else 1.0)


def sum_of(tensors: Sequence[Array]) -> Array:
    """t_1 + t_2 + …, of at least one."""
    total = tensors[0]
    for t in tensors[1:]:
        total = total + t
    return total


def check_weighted(owner: str, tensors: Sequence[Array], weights: Sequence[float]) -> None:
    """One weight for each tensor, at least one of them, all tensors of one shape."""
    check_alike(owner, tensors)
    check_count(owner, tensors, weights)


def check_alike(owner: str, tensors: Sequence[Array]) -> None:
    """At least one tensor, and all of one shape."""
    if not tensors:
        raise ValueError(f"{owner}: tensors must hold at least one array, got none")
    shape = tuple(tensors[0].shape)
    for i, t in enumerate(tensors):
        if tuple(t.shape) != shape:
            raise ShapeError(
                f"{owner}: tensors[{i}] must be {shape} from tensors[0], got {tuple(t.shape)}"
            )


def check_count(owner: str, parts: Sequence[Any], weights: Sequence[float]) -> None:
    """One weight for each part."""
    if len(weights) != len(parts):
        raise ValueError(
            f"{owner}: weights must be {len(parts)}, one for each part, got {len(weights)}"
        )
