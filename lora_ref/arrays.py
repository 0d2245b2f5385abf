"""Which array library the arguments belong to, and the few names that kernels share.

A kernel begins with ``xp = namespace(x, W)`` and then keeps to the common subset of NumPy, CuPy
and the array API standard (data-apis.org/array-api, 2024.12), so the same lines run on NumPy,
CuPy, PyTorch, JAX and array-api-strict arrays. This is the only file that names array libraries.

`recomputed`, `either`, `norm`, `over_queries` and `over_keys` are the named functions (another is
`lora_ref.layers.softmax`) through which another *reading* of a kernel can learn what operators
alone do not say. For ordinary arrays they are the identity, the first alternative, a norm and the
product of matrices.
"""

from collections.abc import Callable
from importlib import import_module
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
    for a in arrays:
        if is_reading_array(a):  # masks and indices beside it are NumPy's
            return a.__array_namespace__()
    from array_api_compat import array_namespace

    for a in arrays:
        if not is_array(a):
            raise TypeError(f"namespace: every argument must be an array, got {type(a).__name__}")
    try:
        return array_namespace(*arrays)
    except TypeError as error:
        found = sorted({library_of(a) for a in arrays})
        if len(found) == 1:
            raise TypeError(f"namespace: {found[0]} is no array library that is known") from error
        raise TypeError(f"arrays must come from one library; got {', '.join(found)}") from error


def library_of(t: Array) -> str:
    """The name of the package that `t` belongs to, for messages.

    >>> library_of(np.ones(2))
    'numpy'
    """
    return type(t).__module__.partition(".")[0]


def is_array(value: object) -> bool:
    """Whether `value` quacks like an array: it has a shape and a dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)


def is_reading_array(value: object) -> bool:
    """Whether `value` belongs to a reading: an array that knows more than its numbers."""
    return getattr(type(value), "is_reading_array", False)


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


def row_dot(a: Array, b: Array) -> Array:
    """⟨aᵢ, bᵢ⟩ of each row, with the last axis kept: (..., n) twice give (..., 1)."""
    xp = namespace(a, b)
    if hasattr(xp, "vecdot"):  # NumPy, PyTorch and JAX have it, CuPy only from some version on
        return xp.vecdot(a, b)[..., None]
    return xp.sum(a * b, axis=-1, keepdims=True)


def index_sum(index: Array, d: Array, size: int) -> Array:
    """Adds row i of `d` to row index[i] of a zero matrix: (N,), (N, n) give (size, n).

    The transpose of `take` along axis 0. Repeated indices add up; the array API standard has no
    such operation, so each library is asked for its own.
    """
    xp = namespace(d)
    if own := own_function(xp, "index_sum"):
        return own(index, d, size)
    out = xp.zeros((size, d.shape[1]), dtype=d.dtype, **on_device_of(d))
    library = library_of(d)
    if library in ("numpy", "cupy"):
        xp.add.at(out, index, d)
        return out
    if library == "torch":
        return out.index_add(0, index.to(dtype=xp.int64), d)
    if library.startswith("jax"):
        return out.at[index].add(d)
    one_hot = xp.astype(index[None, :] == xp.arange(size, **on_device_of(d))[:, None], d.dtype)
    return one_hot @ d


def on_device_of(t: Array) -> dict[str, Any]:
    """Keyword arguments that make ``xp.zeros`` and the like create on the device of `t`."""
    if type(t) is np.ndarray or is_reading_array(t):
        return {}
    from array_api_compat import device

    return {"device": device(t)}


def as_array(values: np.ndarray, like: Array) -> Array:
    """NumPy `values` as an array of `like`'s library, dtype and device."""
    return namespace(like).asarray(values, dtype=like.dtype, **on_device_of(like))


def working(t: Array) -> Array:
    """`t` in a type that can be decomposed and summed: of 16 bits and fewer it becomes float32."""
    xp = namespace(t)
    return t if t.dtype in (xp.float32, xp.float64) else xp.astype(t, xp.float32)


def norm(v: Array, axis: int) -> Array:
    """‖v‖₂ along `axis`, which is kept with length one."""
    xp = namespace(v)
    if own := own_function(xp, "norm"):
        return own(v, axis)
    return xp.sqrt(xp.sum(v * v, axis=axis, keepdims=True))


def recomputed(t: Array) -> Array:
    """`t`, which an implementation may have kept from the forward or computed again."""
    own = own_function(namespace(t), "recomputed")
    return own(t) if own else t


def over_queries(a: Array, b: Array) -> Array:
    """a @ b, a sum over queries, which fused attention may store from one tile to the next."""
    own = own_function(namespace(a), "over_queries")
    return own(a, b) if own else a @ b


def over_keys(a: Array, b: Array) -> Array:
    """a @ b, a sum over keys, which fused attention may store from one tile to the next."""
    own = own_function(namespace(a), "over_keys")
    return own(a, b) if own else a @ b


def either(xp: Any, *alternatives: Callable[[], Array]) -> Array:
    """One quantity by any of several formulas that are equal in exact arithmetic.

    Each alternative is a thunk, so that ordinary arrays pay for the first one only.
    """
    own = own_function(xp, "either")
    return own(*alternatives) if own else alternatives[0]()


def inverse(M: Array) -> Array:
    """M⁻¹ of the last two axes, for M whose symmetric part is positive definite.

    A reading, which has operators and no linear algebra, eliminates row by row. Such an M needs no
    pivots: its leading blocks are of the same kind, so none of them is singular.
    """
    xp = namespace(M)
    if not hasattr(xp, "is_reading"):
        return xp.linalg.inv(M)
    size = M.shape[-1]
    one = xp.eye(size, dtype=M.dtype)
    zeros = xp.zeros(M.shape, dtype=M.dtype)
    wide = xp.concat([M, zeros + one], axis=-1)
    rows = [wide[..., i, :] for i in range(size)]
    for i in range(size):
        pivot = rows[i] / rows[i][..., i : i + 1]
        rows = [
            pivot if k == i else row - row[..., i : i + 1] * pivot for k, row in enumerate(rows)
        ]
    return xp.stack([row[..., size:] for row in rows], axis=-2)


def own_function(xp: Any, name: str) -> Callable[..., Any] | None:
    """The `name` of a reading, None for a library of ordinary arrays.

    A library may use the name for something else, as torch.norm(v, p) and torch.softmax do.
    """
    return getattr(xp, name, None) if hasattr(xp, "is_reading") else None


def reuse(f: Callable[..., Array], t: Array, *others: Array) -> Array:
    """f(t, *others), elementwise, for a temporary `t` that nobody else holds.

    NumPy writes the result over `t`: for a large array fresh memory costs more than the operation.
    """
    return f(t, *others, out=t) if type(t) is np.ndarray else f(t, *others)


def erf(x: Array) -> Array:
    """The error function 2/√π ∫₀ˣ exp(−t²) dt, which the array API standard does not have."""
    xp = namespace(x)
    if own := own_function(xp, "erf"):
        return own(x)
    if home := _ERF_OF.get(library_of(x)):
        return import_module(home).erf(x)  # the library of an array is imported already
    from scipy.special import erf as on_host

    return xp.asarray(on_host(np.asarray(x)), dtype=x.dtype)


_ERF_OF = {
    "cupy": "cupyx.scipy.special",
    "jax": "jax.scipy.special",
    "jaxlib": "jax.scipy.special",
    "torch": "torch",
}
