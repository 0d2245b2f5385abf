"""An array of any library, as it is, read as float64 with the grid that its dtype holds.

Widening is exact: every dtype that is admitted has at most float64's precision and range, and
each library's own conversion to float64 is used, so no number is rounded on the way.
No array library is imported: an array is known by the module of its type and read by its own
methods (PyTorch, CuPy), by ``__array__`` or by ``__dlpack__``.

Errors:
    TypeError, naming the argument and what to give instead, for what is no array (lists, numbers),
    holds no floats (integers, booleans, complex numbers), or cannot be read as it is (quantized,
    sparse, nested, distributed, traced, on the meta device, masked, longer than float64), and for
    np.matrix; TypeError and ValueError for what is no finite number (`received_number`).
Limits:
    Non-contiguous, zero-stride and empty arrays are valid: `Received.notes` says so.
    A library with bfloat16 but neither ml_dtypes nor PyTorch behind it has to widen to float32
    itself, which is exact.
Source:
    PyTorch 2.13 `Tensor.double`, NumPy 2 `asarray`, `from_dlpack`, ml_dtypes 0.6 `astype`.
"""

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ..arrays import library_of
from .grids import Grid, grid_of
from .torch_tensors import host_of_tensor

_LIBRARIES = {"numpy": "numpy", "torch": "torch", "cupy": "cupy", "jax": "jax", "jaxlib": "jax"}


@dataclass(frozen=True, eq=False)
class Received:
    """An array's numbers in float64 (read-only), the grid of its own dtype and its library.

    `notes` are sentences on how it lies in memory, for a report.
    """

    values: np.ndarray
    grid: Grid
    library: str
    notes: tuple[str, ...] = ()


def received(value: Any, name: str) -> Received:
    """The floating-point array `value`, which messages call `name`.

    >>> y = received(np.ones((2, 3), dtype=np.float16).T, "y")
    >>> y.grid.name, y.notes
    ('float16', ('y is not contiguous: strides (2, 6) bytes; read as its values say',))
    """
    host, dtype, strides = _read(value, name)
    _check_floats(dtype, name)
    with np.errstate(all="ignore"):
        values = np.asarray(host, dtype=np.float64, order="C").view()
    values.flags.writeable = False
    notes = _notes(name, host.shape, strides, dtype.itemsize)
    return Received(values, grid_of(dtype), _library(value), notes)


def received_any(value: Any, name: str) -> np.ndarray:
    """An input: floats as float64, integers (token ids) and booleans (masks) as NumPy has them.

    >>> received_any(np.array([True, False]), "mask").dtype.name
    'bool'
    """
    host, dtype, _ = _read(value, name)
    kind = _kind(dtype)
    if kind == "booleans":
        return host
    if kind == "integers":
        return host if dtype.kind in "iu" else host.astype(np.int64)
    return received(value, name).values


def received_number(owner: str, name: str, value: Any) -> float:
    """A finite number, also one that an array of one element holds."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise TypeError(f"{owner}: {name} must be a number, got {kind}") from None
    if not math.isfinite(found):
        raise ValueError(f"{owner}: {name} must be finite, got {found}")
    return found


def _read(value: Any, name: str) -> tuple[np.ndarray, np.dtype, tuple[int, ...]]:
    """The numbers on the host, the dtype and the strides in bytes that `value` itself has."""
    library = _library(value)
    if isinstance(value, type) or not (hasattr(value, "__array__") or hasattr(value, "__dlpack__")):
        raise TypeError(_no_array(value, name))
    if library == "torch":
        return host_of_tensor(value, name)
    _refuse_unreadable(value, name, library)
    host = value.get() if library == "cupy" else _host(value, name)
    return host, host.dtype, getattr(value, "strides", None) or host.strides


def _library(value: Any) -> str:
    """The library of `value`, also where a subclass is defined elsewhere."""
    for cls in type(value).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in _LIBRARIES:
            return _LIBRARIES[root]
    return library_of(value)


def _no_array(value: Any, name: str) -> str:
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    start = f"received: {name} must be an array of NumPy, PyTorch, JAX, CuPy or alike, got {kind}"
    if hasattr(value, "todense"):
        return f"{start}, which is sparse; give {name}.{_dense(value)}"
    if isinstance(value, list | tuple | int | float):
        return f"{start}, which has no dtype; give np.asarray({name}, dtype=...)"
    return start


def _dense(value: Any) -> str:
    """The method that gives an array, where SciPy's `todense` can give np.matrix."""
    return "toarray()" if hasattr(value, "toarray") else "todense()"


def _refuse_unreadable(value: Any, name: str, library: str) -> None:
    """Arrays whose numbers are not there, or not all of them."""
    if hasattr(value, "todense"):
        raise TypeError(f"received: {name} is sparse; give {name}.{_dense(value)}")
    if isinstance(value, np.matrix):
        raise TypeError(
            f"received: {name} must be an array, got np.matrix, which has two axes whatever it "
            f"holds; give np.asarray({name})"
        )
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        count = int(np.ma.count_masked(value))
        raise TypeError(f"received: {name} is masked at {count:,} elements; give {name}.filled()")
    if library == "jax":
        if any(cls.__name__ == "Tracer" for cls in type(value).__mro__):
            raise TypeError(
                f"received: {name} is being traced by JAX and has no numbers yet; "
                f"give what the jitted function returns"
            )
        if getattr(value, "is_deleted", lambda: False)():
            raise TypeError(f"received: {name} was deleted, as donated JAX arrays are; give a copy")


def _host(value: Any, name: str) -> np.ndarray:
    """By ``__array__``, or else by ``__dlpack__``, which can also move it to the host."""
    failures = []
    for method, read in (
        ("__array__", np.asarray),
        ("__dlpack__", lambda v: np.from_dlpack(v, device="cpu")),
    ):
        if hasattr(value, method):
            try:
                return read(value)
            except Exception as error:  # another library's errors may be of any type
                failures.append(f"{method}: {error}")
    raise TypeError(
        f"received: {name} ({type(value).__module__}.{type(value).__name__}) cannot be read as a "
        f"NumPy array; {'; '.join(failures)}; give it on the host, and in float32 if NumPy "
        f"lacks its dtype"
    )


def _kind(dtype: np.dtype) -> str:
    """What the dtype holds, in a word; types of ml_dtypes go by their names."""
    if dtype.kind in "biufc":
        kinds = {"b": "booleans", "i": "integers", "u": "integers", "f": "floats", "c": "complex"}
        return kinds[dtype.kind]
    if dtype.kind == "V" and hasattr(ml_dtypes, dtype.name):
        return "integers" if "int" in dtype.name else "floats"
    return "other"


def _check_floats(dtype: np.dtype, name: str) -> None:
    kind = _kind(dtype)
    if kind == "floats" and np.result_type(dtype, np.float64) == np.float64:
        return
    remedy = {
        "booleans": "only a mask may be",
        "integers": f"give {name} in its floating dtype, decoded if it is packed or quantized",
        "complex": f"judge {name}.real and {name}.imag",
        "floats": f"which float64 cannot hold; give {name}.astype(np.float64)",
        "other": "which are no numbers",
    }[kind]
    word = "complex numbers" if kind == "complex" else "values" if kind == "other" else kind
    raise TypeError(
        f"received: {name} must hold floating-point numbers, got {word} ({dtype}): {remedy}"
    )


def _notes(
    name: str, shape: tuple[int, ...], strides: tuple[int, ...], size: int
) -> tuple[str, ...]:
    """What a reader should know about how the array lies in memory."""
    if 0 in shape:
        return (f"{name} is empty {shape}: nothing to compare",)
    shared = [a for a, n in enumerate(shape) if n > 1 and strides[a] == 0]
    if shared:
        return tuple(
            f"{name} has zero stride along axis {a}: {shape[a]} {_slices(a, len(shape))} "
            f"share one memory"
            for a in shared
        )
    dense = size
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and stride != dense:
            return (f"{name} is not contiguous: strides {strides} bytes; read as its values say",)
        dense *= n
    return ()


def _slices(axis: int, ndim: int) -> str:
    """What the indices along an axis are called."""
    if ndim == 1:
        return "elements"
    return {ndim - 2: "rows", ndim - 1: "columns"}.get(axis, "slices")
