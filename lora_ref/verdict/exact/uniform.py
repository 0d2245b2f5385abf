"""Attention with equal scores: an exact mean, whatever the scale.

Math:
    q = 0, so all scores are 0 and a query that may attend to n keys has p = 1/n. Where n is a
    power of two, p is on every grid, and o is the mean of n small integers, exactly. It sees what
    one-hot attention cannot: a sum that is not divided, a key counted twice, padding that counts.
    Parts of the keys that are merged by their logsumexps have weights that are no powers of two:
    admitted is what (32 (j + 1) + n) u₃₂ of the mean of |v| comes to, as in `uniform_gradients`.
"""

from collections.abc import Iterator

import numpy as np

from .failure import Failure, Implementation, compared
from .march import AXES, AttentionCase


def equal_scores(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """A query of 2^i keys with equal scores gets the mean of their values."""
    counts = case.allowed.sum(axis=1)
    rows = (counts > 0) & (counts & (counts - 1) == 0) & (2 * counts <= 2**case.grid.precision)
    (queries, keys), rng = case.allowed.shape, np.random.default_rng(case.seed)
    q = np.zeros((1, case.heads, queries, case.head_dim))
    k = rng.choice([-1.0, 1.0], size=(1, case.kv_heads, keys, case.head_dim))
    v = rng.choice([-2.0, -1.0, 1.0, 2.0], size=(1, case.kv_heads, keys, case.value_dim))
    y = mine(q, k, v, np.zeros((1, case.heads, queries, case.value_dim)))["y"]
    means = (case.allowed @ v) / np.maximum(counts, 1)[:, None]
    due = np.repeat(means, case.heads // case.kv_heads, axis=1)
    if y.shape == due.shape:
        unit = (32 * (np.log2(np.maximum(counts, 1)) + 1) + counts) * 2.0**-24
        size = (case.allowed @ np.abs(v)) / np.maximum(counts, 1)[:, None] * unit[:, None]
        near = np.abs(y - due) <= np.repeat(size, case.heads // case.kv_heads, axis=1)
        y = np.where(rows[:, None] & ~near, y, due)
    says = "is not the mean of the values at equal scores"
    yield from compared("equal_scores", {"y": y}, {"y": due}, says, AXES)
