"""The reading that proves inputs exact: how many quanta any partial sum can reach.

Math:
    Every array t carries a number q, a power of two that divides all its elements, and for each
    element the sum a of the absolute values of all products in it:
        a + b:  a_a + a_b, min(q_a, q_b)        a b:  a_a a_b, q_a q_b        Σ a b:  Σ a_a a_b
    Whatever the order in which the products are added, in however many parts, each partial sum
    is a multiple of q and at most a. A grid of precision p holds all multiples of q up to 2^p q,
    so if a <= 2^p q everywhere, no rounding ever happens: every order and every fusion is exact.
Limits:
    Sums, products and structure only; a division must be by powers of two, a norm must be one,
    and a softmax of equal scores.
    The exponents of the grid are not checked here: the inputs are small integers.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

_FINEST = 2.0**-40


class Counted:
    """An array of numbers `v` with the bound `a`, the quantum `q` and the `worst` a/q so far."""

    is_reading_array = True
    __array_ufunc__ = None

    def __init__(self, v: np.ndarray, a: np.ndarray, q: float, *before: "Counted") -> None:
        self.v, self.a, self.q = v, a, q
        self.worst: float = max([float(np.max(a, initial=0.0)) / q, *(t.worst for t in before)])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.v.shape

    @property
    def ndim(self) -> int:
        return self.v.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.v.dtype

    @property
    def T(self) -> "Counted":  # noqa: N802
        return _moved(np.transpose)(self)

    @property
    def mT(self) -> "Counted":  # noqa: N802
        return _moved(lambda t: t.mT)(self)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return NAMESPACE

    def __getitem__(self, key: Any) -> "Counted":
        return _moved(lambda t: t[key])(self)

    def __add__(self, other: Any) -> "Counted":
        o = counted(other)
        return Counted(self.v + o.v, self.a + o.a, min(self.q, o.q), self, o)

    def __neg__(self) -> "Counted":
        return Counted(-self.v, self.a, self.q, self)

    def __sub__(self, other: Any) -> "Counted":
        return self + -counted(other)

    def __rsub__(self, other: Any) -> "Counted":
        return counted(other) + -self

    def __mul__(self, other: Any) -> "Counted":
        o = counted(other)
        return Counted(self.v * o.v, self.a * o.a, self.q * o.q, self, o)

    def __pow__(self, exponent: int) -> "Counted":
        power = self
        for _ in range(exponent - 1):
            power = power * self
        return power

    def __truediv__(self, other: Any) -> "Counted":
        o = counted(other)
        sizes = np.abs(o.v)
        if not _powers_of_two(sizes):
            raise ValueError("Counted: a divisor must be a power of two to be exact")
        quotient = self.v / o.v, self.a / sizes, self.q / float(np.max(sizes, initial=_FINEST))
        return Counted(*quotient, self, o)

    def __matmul__(self, other: Any) -> "Counted":
        o = counted(other)
        return Counted(self.v @ o.v, self.a @ o.a, self.q * o.q, self, o)

    def __rmatmul__(self, other: Any) -> "Counted":
        return counted(other) @ self

    __radd__ = __add__
    __rmul__ = __mul__


def counted(t: Any) -> Counted:
    """An array or a number as inputs are: each element is a single term.

    >>> counted(np.array([6.0, 4.0])).q
    2.0
    """
    if isinstance(t, Counted):
        return t
    v = np.asarray(t, dtype=np.float64)
    quanta = v / _FINEST
    if not np.array_equal(quanta, np.rint(quanta)) or np.max(np.abs(quanta), initial=0) >= 2.0**62:
        raise ValueError("counted: inputs must be multiples of 2^-40 below 2^22 to be exact")
    bits = int(np.bitwise_or.reduce(np.abs(quanta).astype(np.int64), axis=None))
    return Counted(v, np.abs(v), (bits & -bits) * _FINEST if bits else 1.0)


def _powers_of_two(sizes: np.ndarray) -> bool:
    return bool(np.all(np.frexp(sizes)[0] == 0.5))


def _moved(f: Callable[..., np.ndarray]) -> Callable[..., Counted]:
    """A function that only moves elements, on numbers and bounds alike."""

    def moved(t: Any, *arguments: Any, **keywords: Any) -> Any:
        if not isinstance(t, Counted):
            return f(t, *arguments, **keywords)
        v, a = (f(part, *arguments, **keywords) for part in (t.v, t.a))
        return Counted(v, a, t.q, t)

    return moved


def _joined(f: Callable[..., np.ndarray]) -> Callable[..., Counted]:
    def joined(parts: Any, **keywords: Any) -> Counted:
        each = [counted(t) for t in parts]
        v, a = (f([getattr(t, name) for t in each], **keywords) for name in ("v", "a"))
        return Counted(v, a, min(t.q for t in each), *each)

    return joined


def _astype(t: Any, dtype: Any, **keywords: Any) -> Any:
    return counted(t) if np.dtype(dtype).kind == "f" else np.astype(t, dtype)


def _made(f: Callable[..., np.ndarray]) -> Callable[..., Any]:
    def made(*arguments: Any, dtype: Any = None, device: Any = None) -> Any:
        t = f(*arguments, dtype=dtype)
        return counted(t) if t.dtype.kind == "f" else t

    return made


def _norm(v: Counted, axis: int) -> Counted:
    square = NAMESPACE.sum(v * v, axis=axis, keepdims=True)
    root = np.sqrt(square.v)
    if not _powers_of_two(root):
        raise ValueError("Counted: a norm must be a power of two to be exact")
    return Counted(root, root, float(np.min(root)), square)


def _softmax(z: Counted, mask: np.ndarray | None) -> Counted:
    """2^−j of 2^j equal scores: sums of ones and quotients of powers of two."""
    seen = np.broadcast_to(True if mask is None else mask, z.shape)
    top = np.max(z.v, axis=-1, keepdims=True, initial=-np.inf, where=seen)
    count = seen.sum(axis=-1, keepdims=True)
    if np.any(seen & (z.v != top)) or not _powers_of_two(count):
        raise ValueError(
            "Counted: scores must be equal, and as many as a power of two, to be exact"
        )
    p = seen / count
    return Counted(p, p, 1 / float(np.max(count, initial=1)), z)


def _either(*thunks: Callable[[], Counted]) -> Counted:
    """The first, after every other formula was found to be exact as well."""
    first, *others = [thunk() for thunk in thunks]
    return Counted(first.v, first.a, first.q, first, *others)


NAMESPACE = SimpleNamespace(
    is_reading=True,
    norm=_norm,
    softmax=_softmax,
    recomputed=lambda t: t,
    either=_either,
    reshape=_moved(np.reshape),
    permute_dims=_moved(np.permute_dims),
    moveaxis=_moved(np.moveaxis),
    take=_moved(np.take),
    flip=_moved(np.flip),
    broadcast_to=_moved(np.broadcast_to),
    pad=_moved(np.pad),
    sum=_moved(np.sum),
    concat=_joined(np.concat),
    stack=_joined(np.stack),
    astype=_astype,
    zeros=_made(np.zeros),
    ones=_made(np.ones),
    arange=_made(np.arange),
    asarray=_made(np.asarray),
    int64=np.int64,
    bool=np.bool_,
    any=np.any,
    min=np.min,
    max=np.max,
)
