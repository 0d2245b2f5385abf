"""Some of the outputs' rows: enough to tell that most mistakes are not there.

A mistake that is in a layer is in nearly all of its rows, or in the last ones. On a few thousand
rows an error bar of it is small enough to exclude it, whatever the others say.

Math:
    N rows of M give the fraction √(N/M) of the signal.
Limits:
    Only LoRA layers are sampled, by their tokens: y and dx have a row for each of them, and any
    token's can be computed alone. Gradients of parameters are sums over all tokens and are
    compared in full. What a sample does not decide is for all rows to decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .mistakes.factored import Factored, factored, is_lora_layer, tokens
from .mistakes.mutation import value_of
from .oracle import Oracle

LEAST_ELEMENTS = 2**15  # of y and dx: in numbers so large a mistake of 1 % shows
LEAST_ROWS = 16


@dataclass(frozen=True, eq=False)
class Sample:
    """An oracle for some tokens' rows of y and dx; `part` is their share of all."""

    oracle: Oracle
    rows: np.ndarray
    part: float

    def of(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The sampled rows of y and dx, and the other outputs as they are."""
        return {n: tokens(t)[self.rows] if n in ("y", "dx") else t for n, t in outputs.items()}


def in_parts(oracle: Oracle) -> Oracle:
    """The same oracle, with products that are computed once if it is one of a LoRA layer."""
    return factored(oracle) if is_lora_layer(oracle) else oracle


def sample_of(oracle: Oracle) -> Sample | None:
    """A sample of a LoRA layer's tokens, always the same; None where all rows are few."""
    if not isinstance(oracle.kernel, Factored):
        return None
    m, n = value_of(oracle, "W").shape
    x = tokens(value_of(oracle, "x"))
    count = max(LEAST_ROWS, -(-LEAST_ELEMENTS // max(m + n, 1)))
    if 4 * count > len(x):
        return None
    drawn = np.random.default_rng(0).choice(len(x) - 2, count - 2, replace=False)
    rows = np.concatenate([np.sort(drawn), [len(x) - 2, len(x) - 1]])
    return Sample(factored(oracle, rows), rows, count / len(x))
