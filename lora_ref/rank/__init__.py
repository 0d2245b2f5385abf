"""Rank and spectra of updates, and how ranks are chosen and changed.

`truncated` and `extracted` give a `Truncation`: the LoRA with its spectrum and its error. Of the
same names are `lora_ref.compose.truncated`, a dense update as a LoRA the way PEFT lays it out, and
`lora_ref.checkpoint.extracted.extracted`, which reads two models and makes an adapter of a file.
Functions of this room stand before the files that are called the same (`echelon`, `measures`,
`spectrum`): `from lora_ref.rank.spectrum import svd_of` reads such a file.
"""

from .echelon import echelon, echelon_rank, rationals
from .measures import (
    Measures,
    default_tolerance,
    effective_rank,
    energy_rank,
    measures,
    numerical_rank,
    retained,
    stable_rank,
)
from .scale_up import ScaleUp, ScaleUpState, scale_up, use, widened, widened_moments
from .spectrum import distance, factored_svd, spectrum
from .suggestion import Suggestion, suggested
from .truncation import Truncation, extracted, truncated

__all__ = [
    "Measures",
    "ScaleUp",
    "ScaleUpState",
    "Suggestion",
    "Truncation",
    "default_tolerance",
    "distance",
    "echelon",
    "echelon_rank",
    "effective_rank",
    "energy_rank",
    "extracted",
    "factored_svd",
    "measures",
    "numerical_rank",
    "rationals",
    "retained",
    "scale_up",
    "spectrum",
    "stable_rank",
    "suggested",
    "truncated",
    "use",
    "widened",
    "widened_moments",
]
