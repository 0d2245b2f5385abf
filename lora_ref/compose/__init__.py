"""Compositions around adapters and layers: what is not itself a map of one weight.

In reading order: `factors`, `task_arithmetic`, `ties`, `prune` and `truncated` (several updates as
one), `swap`, `mixed_batch`, `mixed_gather` and `mixed_grouped` (several adapters on one base),
`strength`, `dropout`, and `lora_of_data` (an update of the input's own).

A function that is called as its file is stands before it here: `lora_ref.compose.ties` is the
function, and `from lora_ref.compose.ties import by_total` reads the file.
"""

from .dropout import dropout_mask, dropped, dropped_apply, dropped_direction, dropped_lora
from .factors import cross_terms, linear, on_factors, weighted_cat
from .lora_of_data import lora_of_data
from .mixed_batch import mixed_batch
from .mixed_gather import mixed_gather, stacked
from .mixed_grouped import mixed_grouped
from .prune import drawn_mask, drop_and_match, drop_and_rescale, trim
from .strength import gain_scaled, interpolated, rescaled
from .swap import swapped
from .task_arithmetic import weighted_mean, weighted_sum
from .ties import (
    Election,
    agreeing_mean,
    by_count,
    by_total,
    consensus_mean,
    consensus_sum,
    disjoint_mean,
    ties,
)
from .truncated import clamped, truncated

__all__ = [
    "Election",
    "agreeing_mean",
    "by_count",
    "by_total",
    "clamped",
    "consensus_mean",
    "consensus_sum",
    "cross_terms",
    "disjoint_mean",
    "drawn_mask",
    "drop_and_match",
    "drop_and_rescale",
    "dropout_mask",
    "dropped",
    "dropped_apply",
    "dropped_direction",
    "dropped_lora",
    "gain_scaled",
    "interpolated",
    "linear",
    "lora_of_data",
    "mixed_batch",
    "mixed_gather",
    "mixed_grouped",
    "on_factors",
    "rescaled",
    "stacked",
    "swapped",
    "ties",
    "trim",
    "truncated",
    "weighted_cat",
    "weighted_mean",
    "weighted_sum",
]
