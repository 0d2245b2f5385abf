"""PEFT's combination types, each as a rule that makes one LoRA of the parts of one weight.

Math:    pruned t̂ of each t: all of it, its largest entries, or random ones (`prune`)
         f: Σ w_i t_i, or the mean of what agrees in sign (`ties`)

         cat               Σ w_i s_i B_i A_i, of rank Σ r_i
         svd               (Σ w_i s_i B_i A_i)_r, from the factors
         NAME_svd          (f({t̂_i}, w))_r of the updates t_i = s_i B_i A_i
         NAME, linear      f of the pruned A, and of the pruned B, at the roots of w_i s_i
Shapes:  A_i (r_i, n)   B_i (m, r_i), for all but cat and svd of one rank
Units:   factors in float64, at a scale of 1
Errors:  ShapeError where factors must be of one rank and are not; ValueError as in `prune`
Limits:  `linear` has the cross terms of `factors`, and what prunes or votes on factors depends on
         how an update is written as factors: only cat, svd and NAME_svd are of the updates alone.
         NAME_svd forms every update and decomposes one of them, m × n in float64
Source:  PEFT 0.21.2, tuners/lora/model.py, LoraModel.add_weighted_adapter, combination_type; its
         weights are rounded to float32 but for cat, see docs/divergences.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..adapters.lora import LoRA
from ..compose.factors import on_factors, weighted_cat
from ..compose.prune import drawn_mask, drop_and_rescale, trim
from ..compose.task_arithmetic import weighted_sum
from ..compose.ties import Election, agreeing_mean
from ..rank.truncation import Truncation, extracted, truncated

Prune = Callable[[np.ndarray], np.ndarray]
Combine = Callable[[Sequence[np.ndarray], Sequence[float]], np.ndarray]

TRIMMING = ("ties", "magnitude_prune")
DROPPING = ("dare_linear", "dare_ties")
VOTING = ("ties", "dare_ties")
OF_FACTORS = ("linear", *TRIMMING, *DROPPING)
OF_UPDATES = ("svd", *(f"{name}_svd" for name in OF_FACTORS[1:]))
METHODS = ("cat", *OF_UPDATES, *OF_FACTORS)


@dataclass(frozen=True, eq=False)
class Joined:
    """The LoRA, the share of ‖·‖² that it keeps of what was to be made, and the norm of the rest.

    Where nothing is truncated they are 1 and 0.
    """

    lora: LoRA
    retained: float
    lost: float


Rule = Callable[[Sequence[LoRA], Sequence[float], int], Joined]


def rules(density: float, elect: Election, rng: np.random.Generator) -> Mapping[str, Rule]:
    """Every rule by PEFT's name; those that drop entries draw from `rng`, A of each part first.

    >>> from lora_ref.compose.ties import by_total
    >>> sorted(rules(0.5, by_total, np.random.default_rng(0))) == sorted(METHODS)
    True
    """

    def trimmed(t: np.ndarray) -> np.ndarray:
        return trim(t, density)

    def dropped(t: np.ndarray) -> np.ndarray:
        return drop_and_rescale(t, drawn_mask(t.shape, density, rng), density)

    def agreeing(tensors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
        return agreeing_mean(tensors, weights, elect)

    kinds: dict[str, tuple[Prune, Combine]] = {
        name: (
            trimmed if name in TRIMMING else dropped,
            agreeing if name in VOTING else weighted_sum,
        )
        for name in OF_FACTORS[1:]
    }
    return {
        "cat": _cat,
        "svd": _svd,
        "linear": _of_factors(lambda t: t, weighted_sum),
        **{name: _of_factors(*kind) for name, kind in kinds.items()},
        **{f"{name}_svd": _of_updates(*kind) for name, kind in kinds.items()},
    }


def _cat(parts: Sequence[LoRA], weights: Sequence[float], rank: int) -> Joined:
    return Joined(weighted_cat(parts, weights), 1.0, 0.0)


def _svd(parts: Sequence[LoRA], weights: Sequence[float], rank: int) -> Joined:
    whole = weighted_cat(parts, weights)
    sizes = rank, whole.A.shape[0], *_shape(whole)
    return _truncated(truncated(whole, min(sizes)))


def _of_factors(prune: Prune, combine: Combine) -> Rule:
    def rule(parts: Sequence[LoRA], weights: Sequence[float], rank: int) -> Joined:
        A, B = [prune(part.A) for part in parts], [prune(part.B) for part in parts]
        pruned = [LoRA(a, b, part.scale) for a, b, part in zip(A, B, parts, strict=True)]
        return Joined(on_factors(pruned, weights, combine), 1.0, 0.0)

    return rule


def _of_updates(prune: Prune, combine: Combine) -> Rule:
    def rule(parts: Sequence[LoRA], weights: Sequence[float], rank: int) -> Joined:
        delta = combine([prune(part.delta()) for part in parts], weights)
        nothing = np.zeros((), delta.dtype)
        return _truncated(extracted(delta, np.broadcast_to(nothing, delta.shape), rank))

    return rule


def _truncated(cut: Truncation) -> Joined:
    return Joined(cut.adapter, cut.retained, cut.error)


def _shape(lora: LoRA) -> tuple[int, int]:
    return lora.B.shape[0], lora.A.shape[1]
