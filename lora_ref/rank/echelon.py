"""The rank of a matrix by elimination: exact for rational numbers, a guess for floating point.

Math:
    Row operations do not change the span of the rows. They lead to the echelon form, where each
    row starts further right than the one above; the rows that are not zero are independent, and
    rank(M) is their number.
Shapes:
    M (m, n); the echelon form (m, n); a pivot's column for each row that is not zero
Units:
    The tolerance is absolute: a pivot of at most this size is taken for zero. Unless given it is
    max(m, n) ε max|M|, ε that of float64, and 0 for `rationals`.
Errors:
    TypeError if M is no NumPy array of real numbers; ShapeError if it is no matrix; ValueError if
    it is not finite, or the tolerance is not finite or negative.
Limits:
    In floating point pivots are not singular values: of the triangle with 1 on the diagonal and
    −1 above it every pivot is 1, while the smallest σ is about 2⁻ⁿ. There the SVD is the test.
    Rational numbers grow with every step: matrices of tens of rows, not of thousands. An array of
    Python objects (integers, fractions) is always taken as one of rational numbers.
Source:
    Golub & Van Loan, Matrix Computations, 4th edition, sections 3.4 (partial pivoting) and 5.4
    (numerical rank).
"""

from fractions import Fraction

import numpy as np

from ..shapes import ShapeError
from ..values import checked_finite, checked_number


def rationals(M: np.ndarray) -> np.ndarray:
    """M as exact fractions: every finite floating-point number is one.

    >>> rationals(np.array([[0.5, 3.0]])).tolist()
    [[Fraction(1, 2), Fraction(3, 1)]]
    """
    return _exact("rationals", M)


def echelon(M: np.ndarray, tolerance: float | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
    """An echelon form of M, and the columns of its pivots.

    >>> echelon(rationals(np.array([[1, 2, 3], [2, 4, 7]])))[1]
    (0, 2)
    """
    _check_real("echelon", M)
    if M.ndim != 2:
        raise ShapeError(f"echelon: M must be (m, n), got {M.shape}")
    is_exact = M.dtype == object
    E = _exact("echelon", M) if is_exact else checked_finite("echelon", "M", M.astype(np.float64))
    limit = _default_tolerance(E) if tolerance is None else _checked_tolerance(tolerance)
    pivots: list[int] = []
    for column in range(E.shape[1]):
        row = len(pivots)
        if row == E.shape[0]:
            break
        best = row + int(np.argmax(abs(E[row:, column])))
        if not abs(E[best, column]) > limit:
            E[row:, column] *= 0
            continue
        E[[row, best]] = E[[best, row]]
        E[row + 1 :] -= np.outer(E[row + 1 :, column] / E[row, column], E[row])
        E[row + 1 :, column] *= 0
        pivots.append(column)
    return E, tuple(pivots)


def echelon_rank(M: np.ndarray, tolerance: float | None = None) -> int:
    """How many rows of the echelon form are not zero.

    >>> echelon_rank(rationals(np.array([[1, 2, 3], [2, 4, 6], [3, 6, 9]])))
    1
    """
    return len(echelon(M, tolerance)[1])


def _default_tolerance(E: np.ndarray) -> float:
    if E.dtype == object or E.size == 0:
        return 0.0
    return max(E.shape) * float(np.finfo(np.float64).eps) * float(abs(E).max())


def _checked_tolerance(tolerance: float) -> float:
    limit = checked_number("echelon", "tolerance", tolerance)
    if limit < 0:
        raise ValueError(f"echelon: tolerance must be at least 0, got {limit}")
    return limit


def _check_real(owner: str, M: np.ndarray) -> None:
    if not isinstance(M, np.ndarray):
        raise TypeError(f"{owner}: M must be a NumPy array, got {type(M).__name__}")
    if M.dtype.kind in "cSUMm":
        raise TypeError(f"{owner}: M must hold real numbers, got dtype {M.dtype}")


def _exact(owner: str, M: np.ndarray) -> np.ndarray:
    _check_real(owner, M)
    exact = np.empty(M.shape, dtype=object)
    for place, value in np.ndenumerate(M):
        try:
            exact[place] = Fraction(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, OverflowError):
            need = f"{owner}: M must hold finite real numbers, got {value!r} at {place}"
            raise ValueError(need) from None
    return exact
