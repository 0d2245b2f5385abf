"""The scale of the scores, which no one-hot attention can show.

Math:
    Of two allowed keys one has the score 0 and the value 1, the other the raw score δ ≈ 4/c and
    the value 0, and all others are out of reach. So o = 1/(1 + exp(c δ)), and
        c' = log(1/o − 1) / δ
    is the scale that was applied. Honest roundings of the scores, of the weights and of o move
    c'/c by less than 8 u, u the unit roundoff of the coarsest grid, and 16 u + 2^-20 are admitted.
    A wrong factor f moves it by f.
Limits:
    A factor nearer to 1 than 16 u passes: 6 % on bfloat16.
"""

from collections.abc import Iterator

import numpy as np

from .addresses import UNDERFLOW_FLOAT32
from .failure import Failure, Implementation
from .march import AttentionCase

EXPONENT = 4.0


def score_scale(mine: Implementation, case: AttentionCase) -> Iterator[Failure]:
    """The scale that the outputs show is the claimed one, up to a few roundings of the scores."""
    pair = _pair(case.allowed)
    if pair is None or case.head_dim < 2:
        return
    q, k, v, delta = _two_keys(case, *pair)
    do = np.zeros((1, case.heads, len(case.allowed), case.value_dim))
    o = mine(q, k, v, do)["y"][0]
    rows = case.allowed[:, list(pair)].all(axis=1)
    with np.errstate(all="ignore"):
        found = np.log(1 / o[:, rows].mean(axis=-1) - 1) / delta
    tolerance = 16 * case.grid.roundoff + 2.0**-20
    wrong = ~(np.abs(found / case.scale - 1) <= tolerance)
    if wrong.any():
        h, i = (int(place) for place in np.argwhere(wrong)[0])
        query = int(np.flatnonzero(rows)[i])
        says = f"scores are multiplied by {found[h, i]:.4g} where {case.scale:.4g} is claimed"
        yield Failure("score_scale", says + _named(found[h, i], case), f"head {h}, query {query}")


def _pair(allowed: np.ndarray) -> tuple[int, int] | None:
    """Two keys that some queries may both attend to: the pair of the first such query's edge."""
    for row in allowed:
        keys = np.flatnonzero(row)
        if len(keys) >= 2:
            return int(keys[0]), int(keys[1])
    return None


def _two_keys(
    case: AttentionCase, low: int, high: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """q, k, v with the raw scores 0 for `low`, δ for `high` and far less for all others; and δ."""
    queries, keys = case.allowed.shape
    factor = 2.0 ** np.floor(np.log2(EXPONENT / case.scale) / 2)
    other = np.rint(8 * EXPONENT / case.scale / factor) / 8
    depth = 2.0 ** np.ceil(np.log2(UNDERFLOW_FLOAT32 / case.scale / factor))
    q = np.zeros((1, case.heads, queries, case.head_dim))
    k = np.zeros((1, case.kv_heads, keys, case.head_dim))
    v = np.zeros((1, case.kv_heads, keys, case.value_dim))
    q[..., 0] = q[..., -1] = factor
    k[..., -1] = -depth
    k[:, :, [low, high], -1] = 0.0
    k[:, :, high, 0] = other
    v[:, :, low] = 1.0
    return q, k, v, float(factor * other)


def _named(found: float, case: AttentionCase) -> str:
    """Which usual scale it is instead, as a clause."""
    d, c = case.head_dim, case.scale
    usual = {
        "no scale": 1.0,
        "1/d for 1/√d": 1 / d,
        "1/√d": d**-0.5,
        "√d": d**0.5,
        "applied twice": c * c,
        "twice as large": 2 * c,
        "half as large": c / 2,
        "the natural base for 2": c * np.log(2),
        "base 2 for the natural one": c / np.log(2),
        "1/√(H d), the model's width": (case.heads * d) ** -0.5,
    }
    near = [name for name, value in usual.items() if abs(found / value - 1) < 0.05]
    return f": {near[0]}" if near else ""
