"""The catalogue of bugs that a merged tensor can show, one family a file, in reading order."""

from .base import no_base, other_tensor, quantized, scaled_base
from .experts import experts_misread, experts_permuted
from .extent import ranks_left_out, rows_in_multiples, rows_left_out
from .hypothesis import Entry, Hypothesis, Surroundings, Suspect
from .layout import (
    factors_misread,
    memory_misread,
    misplaced,
    permuted,
    transposed,
    whole_permuted,
)
from .modules import other_module
from .precision import too_narrow
from .scale import repeated, wrong_scale

CATALOGUE: tuple[Entry, ...] = (
    wrong_scale,
    repeated,
    transposed,
    factors_misread,
    other_module,
    experts_misread,
    experts_permuted,
    rows_left_out,
    ranks_left_out,
    rows_in_multiples,
    permuted,
    misplaced,
    whole_permuted,
    memory_misread,
    no_base,
    scaled_base,
    other_tensor,
    quantized,
    too_narrow,
)

__all__ = ["CATALOGUE", "Entry", "Hypothesis", "Surroundings", "Suspect"]
