"""Checks of values at the public boundary: a count, a number, the entries of an array.

`shapes` looks at sizes and kinds and never at values; these look at nothing else.

Errors:
    ValueError, which names the function, the argument, what it must be and what it got.
Limits:
    `checked_finite` reads its array, which no compiled (traced) function can do.
"""

from contextlib import suppress
from math import isfinite
from numbers import Integral, Real
from typing import Any

from .arrays import Array, namespace


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer of Python or NumPy; True and False are none.

    >>> is_integer(3), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def checked_count(owner: str, name: str, count: int, least: int, why: str = "") -> int:
    """`count`, if it is an integer of at least `least`; `why` says where that came from."""
    if not (is_integer(count) and count >= least):
        need = f"an integer of at least {least}{why}"
        raise ValueError(f"{owner}: {name} must be {need}, got {count!r}")
    return int(count)


def checked_number(owner: str, name: str, value: float) -> float:
    """`value` as a float, if it is a number and finite."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # of an integer beyond all floats
            if isfinite(number := float(value)):
                return number
    raise ValueError(f"{owner}: {name} must be a finite number, got {value!r}")


def checked_finite(owner: str, name: str, t: Array) -> Array:
    """`t`, if it has neither NaN nor infinity."""
    xp = namespace(t)
    if not bool(xp.all(xp.isfinite(t))):
        raise ValueError(f"{owner}: {name} must be finite, has NaN or infinity")
    return t
