"""What the numbers of a case look like: the library's own regimes, and two for the study alone.

MIXED    every input at a scale of its own, 10^±12, such that both terms of y stay comparable
ZEROS    a random choice of rows, of columns and of whole inputs is zero, or minus zero
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lora_ref.testing import regimes as library
from lora_ref.testing.regimes import Regime

Arrays = dict[str, np.ndarray]
Generator = np.random.Generator

MIXED = replace(library.BALANCED, name="MIXED")
ZEROS = replace(library.BALANCED, name="ZEROS")
REGIMES: Mapping[str, Regime] = {r.name.lower(): r for r in (*library.REGIMES, MIXED, ZEROS)}

# Where a bug has something to show itself in: the regimes that mutants are planted in.
PLANTED = {
    "lora_linear": ("balanced", "trained", "tiny", "uniform", "outlier_channels"),
    "lora_merged": ("balanced", "trained", "tiny", "uniform", "outlier_channels"),
    "dora_linear": ("balanced", "trained", "tiny", "uniform", "outlier_channels"),
    "attention": ("balanced", "uniform", "outlier_channels", "peaky"),
}
_ONLY_ATTENTION = ("peaky",)
_ONLY_LINEAR = ("trained", "tiny")


def regimes_for(kind: str, dtype: str) -> tuple[str, ...]:
    """All regimes that mean something for a kernel; float16 has no room for 10^±12."""
    idle = _ONLY_LINEAR if kind == "attention" else _ONLY_ATTENTION
    narrow = ("large", "small", "mixed") if dtype == "float16" else ()
    return tuple(name for name in REGIMES if name not in (*idle, *narrow))


def finished(rng: Generator, regime: str, arrays: Arrays) -> Arrays:
    """What MIXED and ZEROS do to arrays that were drawn balanced."""
    if regime == "mixed":
        return _mixed(rng, arrays)
    if regime == "zeros":
        whole = {"W"} if "m" in arrays else set()  # DoRA has no value where a row of W is zero
        whole |= {name for name in arrays if name.endswith(("_cos", "_sin"))}
        return {n: t if n in whole else _some_zero(rng, t) for n, t in arrays.items()}
    return arrays


def _mixed(rng: Generator, arrays: Arrays) -> Arrays:
    q, x, W, A = rng.uniform(-9, 9), rng.uniform(-12, 12), rng.uniform(-6, 6), rng.uniform(-3, 3)
    powers = {"x": x, "W": W, "b": x + W, "A": A, "B": W - A, "m": W}
    powers |= {"A2": A, "B2": W - A, "q": q, "k": -q}
    powers |= {"v": rng.uniform(-12, 12), "dy": rng.uniform(-12, 12)}
    return {name: t * 10 ** powers.get(name, 0) for name, t in arrays.items()}


def _some_zero(rng: Generator, t: np.ndarray) -> np.ndarray:
    chance, t = rng.random(), t.copy()
    if chance < 0.15:
        t[...] = 0
    elif chance < 0.5:
        t[..., rng.random(t.shape[-1]) < 0.4] = 0
    elif chance < 0.7 and t.ndim > 1:
        t[..., rng.random(t.shape[-2]) < 0.4, :] = 0
    elif chance < 0.8:
        t[rng.random(t.shape) < 0.5] = -0.0
    return t
