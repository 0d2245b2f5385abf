"""Which inputs would show a mistake that these do not, or tell it from another.

An advice is clauses with "; " between them. A clause that these inputs meet already is left out.
"""

from collections.abc import Callable, Iterable

import numpy as np

from ..oracle import Mistake, Oracle
from .mutation import value_of

SCALE_NOT_ONE = "s not 1"
RANK_ABOVE_ONE = "r > 1"
UNLIKE = "α, r and s pairwise different"
LARGER_UPDATE = "a larger update: larger B, or α larger"


def _scale_is_not_one(oracle: Oracle) -> bool:
    return bool(value_of(oracle, "scale") != 1)


def _rank_is_above_one(oracle: Oracle) -> bool:
    A = value_of(oracle, "A")
    return A is not None and A.shape[0] > 1


def _are_unlike(oracle: Oracle) -> bool:
    s, r = value_of(oracle, "scale"), value_of(oracle, "A").shape[0]
    return len({s * r, r, s}) == 3


_MET: dict[str, Callable[[Oracle], bool]] = {
    SCALE_NOT_ONE: _scale_is_not_one,
    RANK_ABOVE_ONE: _rank_is_above_one,
    UNLIKE: _are_unlike,
}


def advice_for(mistake: Mistake, oracle: Oracle, *, changes: bool = True) -> str:
    """The clauses that are not met; of what `changes` nothing, the causes of that alone."""
    clauses = [c for c in mistake.advice.split("; ") if c]
    open_ones = [c for c in clauses if not (c in _MET and _MET[c](oracle))]
    if changes:
        return "; ".join(open_ones)
    causes = [c for c in open_ones if c in _MET]
    if "bias" not in mistake.name:
        causes = [*_zero_factors(oracle), *causes]
    return "; ".join(causes or open_ones)


def _zero_factors(oracle: Oracle) -> list[str]:
    """What is to be said of a factor without a number in it."""
    said = {
        "B": "another B: this one is all zero (LoRA's start)",
        "A": "another A: this one is all zero",
    }
    given = {name: value_of(oracle, name) for name in said}
    return [said[n] for n, t in given.items() if isinstance(t, np.ndarray) and not t.any()]


def to_tell_apart(mistakes: Iterable[Mistake], oracle: Oracle) -> str:
    """Inputs on which several mistakes would not look the same, as a clause; empty if unknown."""
    ways = list(dict.fromkeys(m.apart for m in mistakes if m.apart))
    ways = ["another r and s" if w in _MET and _MET[w](oracle) else w for w in ways]
    return f"{', or '.join(ways)} would" if ways else ""
