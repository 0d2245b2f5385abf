"""Which ranks the layers of a model get: AdaLoRA's allocation, and growing and shrinking."""

from .allocate import AllocationState, paper_step, peft_step
from .evolution import RankHistory, live_ranks
from .growth import GrowthRule, Plateau, decomposed, grown, pruned, ridge_importance
from .importance import Importance, magnitude_scores, sensitivity, triplet_scores
from .mask import kept, masked, peft_mask, ranks, top
from .orthogonality import peft_penalty, penalty
from .schedule import CubicSchedule

__all__ = [
    "AllocationState",
    "CubicSchedule",
    "GrowthRule",
    "Importance",
    "Plateau",
    "RankHistory",
    "decomposed",
    "grown",
    "kept",
    "live_ranks",
    "magnitude_scores",
    "masked",
    "paper_step",
    "peft_mask",
    "peft_penalty",
    "peft_step",
    "penalty",
    "pruned",
    "ranks",
    "ridge_importance",
    "sensitivity",
    "top",
    "triplet_scores",
]
