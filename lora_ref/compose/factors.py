"""Several adapters as one, combined factor by factor, as PEFT does unless told otherwise.

Math:
    c_i = w_i s_i        A = f({A_i}, {sgn(c_i) √|c_i|})        B = f({B_i}, {√|c_i|})        s = 1

    with the weighted sum for f, PEFT's "linear":
    B A = Σ c_i B_i A_i + Σ_{i≠j} √|c_i| sgn(c_j) √|c_j| B_i A_j
    The first sum is what was meant. The second are the cross terms: updates that nobody trained,
    of the same size as the first.

    weighted_cat: B A = Σ c_i B_i A_i exactly, at rank Σ r_i
Shapes:
    A_i (r, n)   B_i (m, r), the same for all; or factors of `EmbeddingLoRA` or `ConvLoRA`
Errors:
    as `task_arithmetic`, of the factors; TypeError if the adapters differ in kind or are of
    another kind, which for `cross_terms` and `weighted_cat` is any but LoRA.
Limits:
    f is any of `task_arithmetic` and `ties`. Prune the parts first, factor by factor:
    [tree_map(lambda t: trim(t, density), part) for part in parts].
    Neither TIES nor DARE nor trimming of the factors is that of the update they make.
Source:
    PEFT 0.21.2, tuners/lora/model.py, LoraModel.add_weighted_adapter with combination_type
    "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"
    (_generalized_task_arithmetic_weighted_adapter) and "cat". PEFT rounds the weights to float32;
    see docs/divergences.md for that and for what else it does beside the formula.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..adapters.conv import ConvLoRA
from ..adapters.embedding import EmbeddingLoRA
from ..adapters.lora import LoRA
from ..adapters.lora_sum import cat
from ..arrays import Array, namespace
from ..shapes import bind, parse
from .task_arithmetic import check_alike, checked_weights, sum_of, weighted_sum

Combine = Callable[[Sequence[Array], Sequence[float]], Array]
Pair = TypeVar("Pair", LoRA, EmbeddingLoRA, ConvLoRA)


def on_factors(parts: Sequence[Pair], weights: Sequence[float], combine: Combine) -> Pair:
    """One adapter of the same rank: `combine` of the A, and of the B."""
    _check_kind("on_factors", parts, (LoRA, EmbeddingLoRA, ConvLoRA))
    a, b = _split("on_factors", parts, weights)
    A, B = combine([part.A for part in parts], a), combine([part.B for part in parts], b)
    return replace(parts[0], A=A, B=B, scale=1.0)


def linear(parts: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """Weighted sums of the factors, whose product has cross terms."""
    return on_factors(parts, weights, weighted_sum)


def cross_terms(parts: Sequence[LoRA], weights: Sequence[float]) -> Array:
    """What the update of `linear` has beyond Σ w_i ΔW_i, (m, n)."""
    _check_kind("cross_terms", parts, (LoRA,))
    a, b = _split("cross_terms", parts, weights)
    crossed = [
        b[i] * a[j] * (left.B @ right.A)
        for i, left in enumerate(parts)
        for j, right in enumerate(parts)
        if i != j
    ]
    delta = parts[0].delta()
    return sum_of([namespace(delta).zeros_like(delta), *crossed])


def weighted_cat(parts: Sequence[LoRA], weights: Sequence[float]) -> LoRA:
    """One LoRA of rank Σ r_i with the update Σ w_i ΔW_i, exactly."""
    _check_kind("weighted_cat", parts, (LoRA,))
    named = {f"parts[{i}].A": part.A for i, part in enumerate(parts)}
    bind("weighted_cat", named, dict.fromkeys(named, parse("...")))  # of one library
    w = checked_weights("weighted_cat", parts, weights)
    scaled = zip(w, parts, strict=True)
    return cat([replace(part, scale=wi * float(part.scale)) for wi, part in scaled])


def _split(
    owner: str, parts: Sequence[Pair], weights: Sequence[float]
) -> tuple[list[float], list[float]]:
    """sgn(c_i) √|c_i| for the A, √|c_i| for the B, of parts whose factors can be added."""
    check_alike(owner, [part.A for part in parts], "parts[{}].A")
    check_alike(owner, [part.B for part in parts], "parts[{}].B")
    w = checked_weights(owner, parts, weights)
    c = [wi * float(part.scale) for wi, part in zip(w, parts, strict=True)]
    roots = [abs(ci) ** 0.5 for ci in c]
    return [math.copysign(root, ci) for root, ci in zip(roots, c, strict=True)], roots


def _check_kind(owner: str, parts: Sequence[Any], kinds: tuple[type, ...]) -> None:
    for i, part in enumerate(parts):
        if type(part) is not type(parts[0]) or type(part) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(
                f"{owner}: parts[{i}] must be {wanted}, all of one kind, got {type(part).__name__}"
            )
