"""Small expressions under the error-bounded reading, and what the tests of it share."""

import numpy as np

from lora_ref.verdict.bounds import Namespace, bounds_of
from lora_ref.verdict.bounds.arithmetic import Arithmetic

LOST = 1 + 2.0**-13  # bounds_of inflates by 1 + 2^−14, for what float32 companions may have lost


def reading(contract, dtype=np.float64, variance=True):
    """A fresh namespace; companions in float64 give the bounds of a derivation by hand."""
    return Namespace(Arithmetic(contract, np.dtype(dtype), variance))


def bounded(f, contract, *arrays, dtype=np.float64):
    """The bounds of f(xp, *arrays)."""
    xp = reading(contract, dtype)
    with np.errstate(all="ignore"):
        return bounds_of(f(xp, *(xp.bounded(t) for t in arrays)), contract)


def h(a, grid):
    """Half an ulp of a ≥ 0, from the definition."""
    a = np.asarray(a, dtype=float)
    floor = grid.roundoff * 2.0 ** np.floor(np.log2(np.where(a > 0, a, 1)))
    return np.where(a > 0, np.maximum(floor, grid.smallest / 2), 0)


def stored(v, e, contract):
    """e of |v| ± e after it is stored."""
    return e + h(np.abs(v) + e, contract.store)


def assert_is(actual, by_hand):
    """Not below what was derived by hand, and above it only by the inflation."""
    assert np.all(actual >= by_hand * (1 - 2.0**-40))
    assert np.all(actual <= by_hand * LOST + 2.0**-90), np.max(actual / by_hand)


def worst(value, bound):
    """The largest error in units of its bound, over elements whose bound is known."""
    known = np.isfinite(bound.e)
    with np.errstate(all="ignore"):
        error = np.where(value == bound.v, 0.0, np.abs(value - bound.v))
        ratio = np.where(error == 0, 0.0, error / bound.e)
    return np.max(np.where(np.isnan(ratio), np.inf, ratio), initial=0.0, where=known)
