"""Which array library the arguments belong to, and the few names that kernels share.

A kernel begins with ``xp = namespace(x, W)`` and then keeps to the common subset of NumPy, CuPy
and the array API standard (data-apis.org/array-api, 2024.12), so the same lines run on NumPy,
CuPy, PyTorch, JAX and array-api-strict arrays. This is the only file that names array libraries.

`recomputed`, `either` and `norm` are three of the four named functions (the fourth is
`lora_ref.layers.softmax`) through which another *reading* of a kernel can learn what operators
alone do not say. For ordinary arrays they are the identity, the first alternative and a norm.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # an array of any of the libraries above; the shape specs say more than a type could
Backward = Callable[..., Any]


def namespace(*arrays: Array) -> Any:
    """The array library that all of `arrays` belong to.

    Errors:
        TypeError if an argument is no array, or if the arguments come from several libraries.

    >>> namespace(np.ones(2)).__name__
    'numpy'
    """
    if all(type(a) is np.ndarray for a in arrays):
        return np
    from array_api_compat import array_namespace

    for a in arrays:
        if not is_array(a):
            raise TypeError(f"namespace: every argument must be an array, got {type(a).__name__}")
    try:
        return array_namespace(*arrays)
    except TypeError as error:
        found = sorted({type(a).__module__.partition(".")[0] for a in arrays})
        raise TypeError(f"arrays must come from one library; got {', '.join(found)}") from error


def is_array(value: object) -> bool:
    """Whether `value` quacks like an array: it has a shape and a dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def rows(t: Array) -> Array:
    """`t` (..., n) as a matrix (N, n) of its rows."""
    if t.ndim == 2:
        return t
    size = 1
    for axis in t.shape[:-1]:
        size *= axis  # spelled out: reshape(-1, n) is undefined when n = 0
    return namespace(t).reshape(t, (size, t.shape[-1]))


def outer_sum(a: Array, b: Array) -> Array:
    """Σᵢ aᵢ bᵢᵀ over all rows: a (..., m), b (..., n) give (m, n)."""
    return rows(a).T @ rows(b)


def row_sum(t: Array) -> Array:
    """Σᵢ tᵢ over all rows: t (..., n) gives (n,)."""
    t = rows(t)
    return namespace(t).sum(t, axis=0)


def index_sum(index: Array, d: Array, size: int) -> Array:
    """Adds row i of `d` to row index[i] of a zero matrix: (N,), (N, n) give (size, n).

    The transpose of `take` along axis 0. Repeated indices add up; the array API standard has no
    such operation, so each library is asked for its own.
    """
    xp = namespace(d)
    out = xp.zeros((size, d.shape[1]), dtype=d.dtype, **on_device_of(d))
    library = type(d).__module__.partition(".")[0]
    if xp is np:
        np.add.at(out, index, d)
        return out
    if library == "torch":
        return out.index_add(0, index.to(dtype=xp.int64), d)
    if library == "cupy":
        from cupyx import scatter_add

        scatter_add(out, index, d)
        return out
    if library.startswith("jax"):
        return out.at[index].add(d)
    one_hot = xp.astype(index[None, :] == xp.arange(size, **on_device_of(d))[:, None], d.dtype)
    return one_hot @ d


def on_device_of(t: Array) -> dict[str, Any]:
    """Keyword arguments that make ``xp.zeros`` and the like create on the device of `t`."""
    if type(t) is np.ndarray:
        return {}
    from array_api_compat import device

    return {"device": device(t)}


def as_array(values: np.ndarray, like: Array) -> Array:
    """NumPy `values` as an array of `like`'s library, dtype and device."""
    return namespace(like).asarray(values, dtype=like.dtype, **on_device_of(like))


def norm(v: Array, axis: int) -> Array:
    """‖v‖₂ along `axis`, which is kept with length one."""
    xp = namespace(v)
    if own := getattr(xp, "norm", None):
        return own(v, axis)
    return xp.sqrt(xp.sum(v * v, axis=axis, keepdims=True))


def recomputed(t: Array) -> Array:
    """`t`, which an implementation may have kept from the forward or computed again."""
    own = getattr(namespace(t), "recomputed", None)
    return own(t) if own else t


def either(xp: Any, *alternatives: Callable[[], Array]) -> Array:
    """One quantity by any of several formulas that are equal in exact arithmetic.

    Each alternative is a thunk, so that ordinary arrays pay for the first one only.
    """
    own = getattr(xp, "either", None)
    return own(*alternatives) if own else alternatives[0]()
