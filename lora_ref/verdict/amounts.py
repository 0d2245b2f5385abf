"""What the wrong elements have in common in size: a factor, a sign, zeros, NaN.

Math:
    with e = actual − expected over the wrong elements, the factor of least squares is
        g = 1 + ⟨e, v⟩ / ⟨v, v⟩,    v = expected,
    and it explains the share 1 − ‖e − (g − 1) v‖² / ‖e‖² of the error.
Limits:
    Only finite elements count, and a factor is named if it explains 98 % of the error or more.
"""

import numpy as np

_EXPLAINED = 0.98
_ONE_SIGN = 4  # elements, from which on one common sign is worth a word


def amount(error: np.ndarray, expected: np.ndarray | None) -> str:
    """A sentence on the errors of the wrong elements; empty if they have nothing in common.

    >>> v = np.array([1.0, -2.0, 4.0])
    >>> amount(0.95 * v - v, v)
    'there the values are 0.95 times the expected ones'
    """
    finite = np.isfinite(error)
    if not finite.any():
        return "there the errors are NaN or infinite"
    if expected is not None:
        finite &= np.isfinite(expected)
    lost = error.size - int(np.count_nonzero(finite))
    also = f"; NaN or infinite at {lost:,} of them" if lost else ""
    e = error[finite]
    text = _factor(e, expected[finite]) if expected is not None else ""
    text = text or _sign(e)
    return f"there {text}{also}" if text else also.removeprefix("; ")


def _factor(e: np.ndarray, v: np.ndarray) -> str:
    """The common factor in words, if there is one."""
    if e.size < 2:
        return ""
    largest = max(float(np.max(np.abs(e))), float(np.max(np.abs(v))))
    e, v = e / largest, v / largest  # no square leaves the range of float64
    if np.array_equal(e, -v):
        return "the values are exactly 0"
    power, size = float(e @ e), float(v @ v)
    if power == 0 or size == 0:
        return ""
    change = float(e @ v) / size
    left = e - change * v
    if 1 - float(left @ left) / power < _EXPLAINED:
        return ""
    factor = 1 + change
    if abs(factor + 1) < 0.01:
        return "the values have the opposite sign"
    return f"the values are {_shown(factor)} times the expected ones"


def _shown(factor: float) -> str:
    """With as many digits as tell the factor from 1, and no exponent if it is a large one.

    >>> _shown(1.00234), _shown(1024.2), _shown(0.0441)
    ('1.00234', '1,024', '0.0441')
    """
    if 1000 <= abs(factor) < 1e9:
        return f"{factor:,.0f}"
    digits = 3 if abs(factor - 1) > 0.01 else 6
    return f"{factor:.{digits}g}"


def percent(share: float) -> str:
    """A share in percent, with two digits or three and no exponent; 100 % is all and no less.

    >>> [percent(share) for share in (0.0031, 0.12, 0.9941, 0.9999, 1.0, 1e-6)]
    ['0.31 %', '12 %', '99.4 %', '99.9 %', '100 %', 'less than 0.01 %']
    """
    value = 100 * share
    if 0 < value < 0.01:
        return "less than 0.01 %"
    if 99 < value < 100:
        return f"{min(value, 99.9):.1f} %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def _sign(e: np.ndarray) -> str:
    if e.size < _ONE_SIGN:
        return ""
    if np.all(e > 0):
        return "all values are too large"
    return "all values are too small" if np.all(e < 0) else ""
