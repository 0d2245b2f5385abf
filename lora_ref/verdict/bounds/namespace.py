"""The array library of the error-bounded reading: the functions that kernels ask it for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import tiles
from .arithmetic import Arithmetic
from .bounded import Bounded, Doubtful, joined, leaf
from .elementwise import Chosen
from .functions import ERF, EXP, LOG, SQRT, TANH, Applied, Function, Lipschitz
from .nodes import Either, Node, Pending
from .products import Product
from .reductions import Norm, SumAlong
from .weights import EXCLUDED, LogWeights, Weights, WeightsAgain


class Namespace:
    """`xp` of a bounded array; each check makes its own, which holds the graph's memory."""

    is_reading = True
    int32, int64, float64 = np.int32, np.int64, np.float64
    float32 = np.float64  # a kernel that asks for a dtype gets this reading's

    def __init__(self, arithmetic: Arithmetic):
        self.arithmetic = arithmetic

    def bounded(self, value: Any) -> Bounded:
        """A number or a NumPy array as an exact bounded array."""
        return value if isinstance(value, Bounded) else leaf(self, value)

    # Places: nothing is computed.

    def reshape(self, t: Any, shape: Sequence[int]) -> Any:
        return _seen(t, lambda a: np.reshape(a, shape))

    def permute_dims(self, t: Any, axes: Sequence[int]) -> Any:
        return _seen(t, lambda a: np.transpose(a, axes))

    def moveaxis(self, t: Any, source: int, destination: int) -> Any:
        return _seen(t, lambda a: np.moveaxis(a, source, destination))

    def broadcast_to(self, t: Any, shape: Sequence[int]) -> Any:
        return _seen(t, lambda a: np.broadcast_to(a, tuple(shape)))

    def expand_dims(self, t: Any, *, axis: int = 0) -> Any:
        return _seen(t, lambda a: np.expand_dims(a, axis))

    def flip(self, t: Any, *, axis: int | None = None) -> Any:
        return _seen(t, lambda a: np.flip(a, axis))

    def take(self, t: Any, index: np.ndarray, *, axis: int = 0) -> Any:
        return _seen(t, lambda a: np.take(a, index, axis))

    def concat(self, parts: Sequence[Any], *, axis: int = 0) -> Any:
        return self._joined(parts, lambda *a: np.concatenate(a, axis))

    def stack(self, parts: Sequence[Any], *, axis: int = 0) -> Any:
        return self._joined(parts, lambda *a: np.stack(a, axis))

    def _joined(self, parts: Sequence[Any], f: Callable[..., np.ndarray]) -> Any:
        if not any(isinstance(part, Bounded) for part in parts):
            return f(*parts)
        return joined(self, f, [self.bounded(part) for part in parts])

    # Arrays from nothing. Those of numbers are exact; indices and masks stay NumPy's.

    def zeros(self, shape: Any, *, dtype: Any = None) -> Any:
        return self._made(np.zeros(shape), dtype)

    def ones(self, shape: Any, *, dtype: Any = None) -> Any:
        return self._made(np.ones(shape), dtype)

    def eye(self, n: int, m: int | None = None, *, dtype: Any = None) -> Any:
        return self._made(np.eye(n, m), dtype)

    def zeros_like(self, t: Any) -> Any:
        return np.zeros_like(t) if isinstance(t, np.ndarray) else self.zeros(t.shape)

    def arange(self, *args: Any, dtype: Any = None) -> np.ndarray:
        return np.arange(*args, dtype=dtype)

    def asarray(self, value: Any, *, dtype: Any = None) -> Any:
        return value if isinstance(value, Bounded) else self._made(np.asarray(value), dtype)

    def astype(self, t: Any, dtype: Any) -> Any:
        return t if isinstance(t, Bounded) else self._made(np.asarray(t), dtype)

    def _made(self, value: np.ndarray, dtype: Any) -> Any:
        kind = value.dtype if dtype is None else np.dtype(dtype)
        return leaf(self, value) if kind.kind == "f" else value.astype(kind)

    def isdtype(self, dtype: Any, kind: str) -> bool:
        return np.isdtype(np.dtype(dtype), kind)

    # Arithmetic.

    def add(self, a: Any, b: Any) -> Bounded:
        return self.bounded(a) + b

    def subtract(self, a: Any, b: Any) -> Bounded:
        return self.bounded(a) - b

    def multiply(self, a: Any, b: Any) -> Any:
        return self.bounded(a) * b

    def divide(self, a: Any, b: Any) -> Bounded:
        return self.bounded(a) / b

    def sum(self, t: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
        if isinstance(t, np.ndarray):
            return np.sum(t, axis=axis, keepdims=keepdims)
        c, node = t.one()
        axes = range(t.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        along = tuple(i % t.ndim for i in axes)
        return Bounded(self, (c, SumAlong(node, along, keepdims, c)))

    def exp(self, t: Bounded) -> Bounded:
        return self._applied(EXP, t)

    def log(self, t: Bounded) -> Bounded:
        return self._applied(LOG, t)

    def tanh(self, t: Bounded) -> Bounded:
        return self._applied(TANH, t)

    def erf(self, t: Bounded) -> Bounded:
        return self._applied(ERF, t)

    def sqrt(self, t: Bounded) -> Bounded:
        return self._applied(SQRT, t)

    def _applied(self, function: Function, t: Bounded) -> Bounded:
        c, node = t.one()
        return Bounded(self, (1.0, Applied(function, node, c)))

    # No rounding of their own, and no error grows.

    def abs(self, t: Any) -> Any:
        return np.abs(t) if isinstance(t, np.ndarray) else self._moved(t, np.abs)

    def clip(self, t: Any, low: float | None, high: float | None) -> Any:
        return self._moved(t, lambda v: np.clip(v, low, high))

    def _moved(self, t: Bounded, f: Callable[[np.ndarray], np.ndarray]) -> Bounded:
        c, node = t.one()
        return Bounded(self, (1.0, Lipschitz(node, c, f)))

    def max(self, t: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
        return np.max(t, axis=axis, keepdims=keepdims)

    def min(self, t: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
        return np.min(t, axis=axis, keepdims=keepdims)

    def any(self, t: Any, *, axis: int | None = None) -> Any:
        return np.any(t, axis=axis)

    def where(self, condition: np.ndarray, a: Any, b: Any) -> Any:
        if not isinstance(a, Bounded) and not isinstance(b, Bounded):
            return np.where(condition, a, b)
        doubtful = condition.open if isinstance(condition, Doubtful) else None
        nodes = [_as_node(self.bounded(t)) for t in (a, b)]
        return Bounded(self, (1.0, Chosen(np.asarray(condition), doubtful, *nodes)))

    def index_sum(self, index: np.ndarray, d: Bounded, size: int) -> Bounded:
        one_hot = self.bounded(np.asarray(index == np.arange(size)[:, None], dtype=float))
        (c, a), (factor, b) = one_hot.one(), d.one()
        return Bounded(self, (factor, Product(a, b, c, factor, loads=False)))

    # The named functions.

    def softmax(self, z: Bounded, mask: Any) -> Bounded:
        z, keep = self._masked(z, mask)
        c, node = z.one()
        additive = mask is not None and mask.dtype != np.bool_
        return Bounded(self, (1.0, Weights(node, c, keep, additive)))

    def _masked(self, z: Bounded, mask: Any) -> tuple[Bounded, np.ndarray | None]:
        if mask is None or (isinstance(mask, np.ndarray) and mask.dtype == np.bool_):
            keep = mask
        else:
            added = mask.value() if isinstance(mask, Bounded) else np.asarray(mask)
            keep = added > EXCLUDED
            if (low := self._swamped(z, added)) is not None:
                keep = keep & ~low
            z = z + np.where(keep, added, 0.0)
        return z, None if keep is None else np.broadcast_to(np.asarray(keep), z.shape)

    def _swamped(self, z: Bounded, added: np.ndarray) -> np.ndarray | None:
        """Where a mask is near the end of the grid that scores are stored on, as −65504 is.

        Scores that are small beside it cannot bring its keys back, and whether a sum overflows
        makes no difference then. In a row with such keys alone it is the scores that decide.
        """
        largest, scores = self.arithmetic.contract.store.largest, z.stored()
        if not float(scores.upper.max(initial=0)) < largest / 8:
            return None
        low = added <= -largest / 2
        return low & ~low.all(axis=-1, keepdims=True)

    def log_softmax(self, z: Bounded) -> Bounded:
        c, node = z.one()
        return Bounded(self, (1.0, LogWeights(node, c)))

    def recomputed(self, t: Bounded) -> Bounded:
        c, node = t.one()
        if not (isinstance(node, Weights) and self.arithmetic.contract.forms.recomputed):
            return t
        return Bounded(self, (c, Either([node, WeightsAgain(node)])))

    def over_queries(self, a: Bounded, b: Bounded) -> Bounded:
        return self._in_tiles(a, b, tiles.queries(a.shape[-1]))

    def over_keys(self, a: Bounded, b: Bounded) -> Bounded:
        return self._in_tiles(a, b, tiles.keys(a.shape[-1]))

    def _in_tiles(self, a: Bounded, b: Bounded, tile: int) -> Bounded:
        if not self.arithmetic.contract.forms.tiled:
            return a @ b
        (c, of_a), (d, of_b) = a.one(), self.bounded(b).one()
        return Bounded(self, (c * d, Product(of_a, of_b, c, d, tile=tile)))

    def norm(self, v: Bounded, axis: int) -> Bounded:
        c, node = v.one()
        return Bounded(self, (abs(c), Norm(node, axis, c)))

    def either(self, *alternatives: Callable[[], Bounded]) -> Bounded:
        if not self.arithmetic.contract.forms.alternatives:
            return alternatives[0]()
        found = [_as_node(alternative()) for alternative in alternatives]
        return Bounded(self, (1.0, Either(found)))


def _seen(t: Any, f: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(t, np.ndarray):
        return f(t)
    return t.seen(f, f(np.broadcast_to(np.zeros(()), t.shape)).shape)


def _as_node(t: Bounded) -> Node:
    """One node of t, its pending factor applied."""
    c, node = t.one()
    return node if c == 1 else Pending(node, c)


Namespace.bool = np.bool_  # type: ignore[attr-defined]  # inside the class it would hide bool
