"""The catalogue of bugs that a merged tensor can show, one family a file, in reading order."""

from .base import no_base, other_tensor, quantized, scaled_base
from .extent import (
    experts_left_out,
    ranks_left_out,
    rows_in_multiples,
    rows_left_out,
)
from .hypothesis import Entry, Hypothesis, Surroundings, Suspect
from .layout import (
    experts_misread,
    factors_misread,
    other_module,
    permuted,
    transposed,
    whole_permuted,
)
from .scale import repeated, wrong_scale

CATALOGUE: tuple[Entry, ...] = (
    wrong_scale,
    repeated,
    transposed,
    factors_misread,
    other_module,
    experts_misread,
    experts_left_out,
    rows_left_out,
    ranks_left_out,
    rows_in_multiples,
    permuted,
    whole_permuted,
    no_base,
    scaled_base,
    other_tensor,
    quantized,
)

__all__ = ["CATALOGUE", "Entry", "Hypothesis", "Surroundings", "Suspect"]
