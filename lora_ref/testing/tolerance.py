"""The one table of tolerances: how far two computations of the same thing may be apart.

All are relative to the norm of what is compared, ‖a − b‖ <= tolerance · ‖b‖, so that cancellation
inside one element fails nobody and a wrong small element does not hide behind a large rtol.

A float64 result of a small problem carries about 1e-15 of rounding: 1e-10 leaves room for a
condition number of 1e5 and for nothing else. The gradient check differs by the truncation of its
difference formula, O(h⁴) with h = 2e-4; the rounding of the difference it adds itself. The verdict
engine judges low precision; here the lower dtypes only serve to see that a kernel keeps its dtype
and roughly its value.
"""

from typing import Any

import numpy as np

from ..arrays import Array, library_of
from ..mismatch import Mismatch

TOLERANCE = {
    "identical": 0.0,  # the same operations on the same numbers
    "libraries": 1e-12,  # the same lines run by another array library, float64
    "routes": 1e-10,  # two derivations of one map, float64
    "golden": 1e-12,  # float64 values recorded from another framework
    "gradient": 1e-7,  # a finite difference against a backward, float64
    "float32": 1e-4,  # the same lines in float32 against float64
}


def to_numpy(t: Array) -> np.ndarray:
    """`t` on the host, as NumPy; for tests only, a kernel never copies to the host."""
    library = library_of(t)
    if library == "cupy":
        return t.get()
    if library == "torch":
        return t.detach().cpu().numpy()
    return np.asarray(t)


def relative_error(actual: Array, expected: Array) -> float:
    """‖actual − expected‖ / ‖expected‖ in the Frobenius norm.

    Equal infinities and NaN in the same place count as no error; one without the other as an
    infinite one, as do different shapes.

    >>> relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) < 0.1
    True
    >>> relative_error(np.array([np.inf, 4.0]), np.array([3.0, 4.0]))
    inf
    """
    a, b = (to_numpy(t).astype(np.float64) for t in (actual, expected))
    if a.shape != b.shape:
        return np.inf
    apart = np.where(_same(a, b), 0.0, _difference(a, b))
    if not np.all(np.isfinite(apart)):
        return np.inf
    error = _norm(apart)
    size = _norm(np.where(np.isfinite(b), b, 0.0))
    return 0.0 if error == 0 else error / size if size > 0 else np.inf


def assert_close(actual: Array, expected: Array, kind: str, what: str) -> None:
    """Raise `Mismatch` unless `actual` and `expected` agree to the table's `kind`."""
    error = relative_error(actual, expected)
    if error <= TOLERANCE[kind]:
        return
    a, b = (to_numpy(t) for t in (actual, expected))
    if a.shape != b.shape:
        raise Mismatch(f"{what}: shape {a.shape}, expected {b.shape}")
    apart = np.where(_same(a, b), 0.0, np.abs(_difference(a, b)))
    worst = np.unravel_index(np.argmax(np.where(np.isnan(apart), np.inf, apart)), a.shape)
    where = tuple(int(i) for i in worst)
    raise Mismatch(
        f"{what}: relative error {error:.3g}, allowed {TOLERANCE[kind]:.3g} ({kind}); "
        f"worst at {where}: got {a[worst]}, expected {b[worst]}"
    )


def _same(a: Any, b: Any) -> Any:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _difference(a: Any, b: Any) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.subtract(a, b, dtype=np.float64)


def _norm(t: np.ndarray) -> float:
    """‖t‖, scaled so that no square leaves the range of float64."""
    largest = float(np.max(np.abs(t), initial=0.0))
    return largest * float(np.linalg.norm(t / largest)) if largest > 0 else 0.0
