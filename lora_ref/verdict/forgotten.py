"""A bias that the oracle was not given: the same error in every row of y.

Math:
    c_j = mean over rows of (actual − reference)_ij; it is named where ‖error − c‖ <= ‖error‖ / 8,
    which k independent rows leave at √(1 − 1/k) ‖error‖.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .bounds import Bounds
from .findings import Finding, Status
from .incoming import Received
from .oracle import Oracle

LEAST_ROWS = 4
LEFT = 1 / 8  # of the error, in the norm
SAID = "a constant per column: a bias that the oracle does not have (b=)?"


def with_forgotten_bias(
    findings: Sequence[Finding],
    oracle: Oracle,
    given: Mapping[str, Received],
    found: Mapping[str, Bounds],
) -> list[Finding]:
    """The findings; that of a wrong y says it first if its error is one for each column."""
    if not {"x", "adapter"} <= oracle.inputs.keys() or "b" in oracle.inputs:
        return [*findings]
    return [replace(f, where=(SAID, *f.where)) if _is_off(f, given, found) else f for f in findings]


def _is_off(finding: Finding, given: Mapping[str, Received], found: Mapping[str, Bounds]) -> bool:
    if finding.name != "y" or finding.status is not Status.BUG:
        return False
    return _is_constant(given["y"].values, found["y"].v)


def _is_constant(actual: np.ndarray, right: np.ndarray) -> bool:
    if not (np.isfinite(actual).all() and np.isfinite(right).all()):
        return False
    error = actual - right
    rows = error.reshape(-1, error.shape[-1])
    left = rows - rows.mean(axis=0)
    return len(rows) >= LEAST_ROWS and bool(np.linalg.norm(left) <= LEFT * np.linalg.norm(rows))
