"""The namespace of the emulated reading: array functions that round as a contract says.

Math:
    elementwise        round(f(a, b)), f exact: one rounding, as correctly rounded hardware gives
    exp, log, tanh, …  computed in float32, then rounded
    matrix products    round(Σ load(a) load(b)), the sum on the accumulator in the chosen order
    softmax, norm      computed in float32 and on the accumulator, and stored once
    where round(·) goes to the contract's `store`, or to float32 in code that fuses.
Units:
    A Python number is exact, but for a factor, which is first rounded to `contract.scale.held_on`.
    NumPy scalars and arrays without axes are numbers. NumPy's floating arrays are constants of
    the kernel, and stored; its integers and booleans stay what they are, and so do comparisons.
Limits:
    A float64 contract computes exp and its like in float64. In that precision, and there alone,
    sums and products of two numbers are not exact before they are rounded.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special

from ..layers.softmax import log_softmax, softmax_weights
from . import accumulate, tiles
from .choices import Choices, Fusion, ScaleSite
from .contract import Contract
from .emulated_array import Emulated
from .grids import FLOAT32, Grid

Array = Any
_VIEWS = {"broadcast_to", "expand_dims", "flip", "moveaxis", "permute_dims", "reshape", "take"}
_CREATED = {"arange", "eye", "ones", "ones_like", "zeros", "zeros_like"}
_CHOSEN = {"abs", "all", "any", "concat", "max", "min", "sign", "stack"}
_ASKED = {"astype", "isdtype", "isfinite", "isinf", "isnan"}
_EXACT = _VIEWS | _CREATED | _CHOSEN | _ASKED
_ROUNDED = {"add", "divide", "pow", "sqrt", "square", "subtract"}
_INSIDE = {"cos", "erf", "exp", "expm1", "log", "log1p", "sin", "tanh"}
_NUMPY = {"bool", "float32", "float64", "inf", "int32", "int64", "nan", "newaxis", "pi", "uint8"}


class EmulatedNamespace:
    """What `__array_namespace__` of an `Emulated` array gives."""

    is_reading = True

    def __init__(self, contract: Contract, choices: Choices) -> None:
        choices.check(contract)
        self.contract, self.choices = contract, choices
        wide = _wider(contract.store, FLOAT32)
        fuses = choices.fusion is not Fusion.NOTHING
        self.grid = wide if fuses else contract.store  # what results are rounded to
        inside = max(wide.precision, contract.accumulate.grid.precision)
        self.inside: type = np.float32 if inside == FLOAT32.precision else np.float64

    def __getattr__(self, name: str) -> Any:
        """The functions that are like each other, and constants."""
        if name in _EXACT:
            return lambda *args, **kwargs: self._exact(name, args, kwargs)
        if name in _ROUNDED:
            f = getattr(np, name)
            return lambda *operands: self.store(f(*map(self._values, operands)))
        if name in _INSIDE:
            return lambda t: self._inside(getattr(special if name == "erf" else np, name), t)
        if name in _NUMPY:
            return getattr(np, name)
        raise AttributeError(f"the emulated reading has no function {name}")

    def wrap(self, values: np.ndarray) -> Emulated:
        """An input: values that are taken as they are."""
        return Emulated(np.asarray(values, np.float64), self)

    def rounded(self, values: Any) -> np.ndarray:
        """What is left of values that are stored."""
        return self.grid.round(np.asarray(values, np.float64))

    def store(self, values: Any) -> Emulated:
        """Values stored."""
        return Emulated(self.rounded(values), self)

    def multiply(self, a: Array, b: Array) -> Emulated:
        """a b, elementwise or with a number."""
        for number, t in ((a, b), (b, a)):
            if _is_number(number) and isinstance(t, Emulated):
                return self._scaled(t, float(number))
        return self.store(self._values(a) * self._values(b))

    def where(self, condition: np.ndarray, a: Array, b: Array) -> Array:
        """a where the condition holds, else b."""
        if not isinstance(a, Emulated) and not isinstance(b, Emulated):
            return np.where(condition, a, b)
        return self.wrap(np.where(condition, self._constant(a), self._constant(b)))

    def clip(self, t: Array, low: Any = None, high: Any = None) -> Emulated:
        """t within the limits, None standing for no limit."""
        limits = (None if limit is None else self._constant(limit) for limit in (low, high))
        return self.wrap(np.clip(self._values(t), *limits))

    def asarray(self, t: Any, dtype: Any = None, device: Any = None) -> Array:
        """Floats are stored, integers and booleans stay NumPy's."""
        if isinstance(t, Emulated):
            return t
        found = np.asarray(t, dtype)
        return self.store(found) if found.dtype.kind == "f" else found

    def sum(
        self, t: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
    ) -> Array:
        """Σ over the axes, on the accumulator."""
        if not isinstance(t, Emulated):
            return np.sum(t, axis=axis, keepdims=keepdims)
        return self.store(self._sum(t.values, axis, keepdims))

    def over_queries(self, a: Array, b: Array) -> Emulated:
        return self.matmul(a, b, tiles.queries(a.shape[-1]))

    def over_keys(self, a: Array, b: Array) -> Emulated:
        return self.matmul(a, b, tiles.keys(a.shape[-1]))

    def matmul(self, a: Array, b: Array, tile: int | None = None) -> Emulated:
        """a @ b, in tiles if the choices say so."""
        left, right = self._operand(a), self._operand(b)
        order = self.choices.order_for(self.contract, left.shape[-1])
        loaded = self._loaded(left.stored), self._loaded(right.stored)
        stop = tile if tile and self.choices.tiled else max(left.shape[-1], 1)
        total = accumulate.in_tiles(*loaded, self.contract.accumulate, order, stop, self.rounded)
        scaled = {
            ScaleSite.ACCUMULATOR: lambda s: self.store(s * total),
            ScaleSite.LEFT: lambda s: self.matmul(self.store(s * left.values), right, tile),
            ScaleSite.RIGHT: lambda s: self.matmul(left, self.store(s * right.values), tile),
        }.get(self.choices.scale)
        return Emulated(self.rounded(total), self, left.factor * right.factor, scaled)

    def index_sum(self, index: np.ndarray, d: Emulated, size: int) -> Emulated:
        """Rows of `d` added up by their index: no matrix product, so nothing is loaded."""
        order = self.choices.order_for(self.contract, d.shape[0])
        one_hot = index[None, :] == np.arange(size)[:, None]
        accumulator = self.contract.accumulate
        values = self._own(d).values
        return self.store(accumulate.product(one_hot.astype(float), values, accumulator, order))

    def softmax(self, z: Array, mask: Array | None = None) -> Emulated:
        """Weights of each row, computed in float32 and stored once."""
        if isinstance(mask, Emulated):
            z, mask = self.add(z, mask), None
        scores = self._values(z).astype(self.inside)
        if mask is not None:
            scores = np.where(mask, scores, self.inside(-np.inf))
        weights = self.store(softmax_weights(scores))
        weights.again = lambda: self.store(_from_logsumexp(scores))
        return weights

    def log_softmax(self, z: Array) -> Emulated:
        """Logarithms of the weights, computed in float32 and stored once."""
        return self._inside(lambda scores: log_softmax(scores)[0], z)

    def recomputed(self, t: Emulated) -> Emulated:
        """`t` as stored, or computed again."""
        return t.again() if self.choices.recompute and t.again else t

    def norm(self, v: Array, axis: int) -> Emulated:
        """‖v‖₂ along an axis, stored once."""
        return self.store(np.sqrt(self._sum(self._values(v) ** 2, axis, True)))

    def either(self, *alternatives: Callable[[], Emulated]) -> Emulated:
        """The alternative that the choices name."""
        return alternatives[self.choices.alternative % len(alternatives)]()

    def compared(self, relation: Callable[..., np.ndarray], a: Array, b: Array) -> np.ndarray:
        """A comparison, as NumPy's booleans."""
        return relation(self._values(a), self._values(b))

    def _values(self, t: Array) -> Any:
        """The numbers of an operand: a number itself is exact."""
        if isinstance(t, Emulated):
            return self._own(t).values
        if _is_number(t):
            return float(t)
        if isinstance(t, np.ndarray):
            return self.rounded(t) if t.dtype.kind == "f" else t.astype(np.float64)
        raise TypeError(f"an operand must be an emulated array or NumPy's, got {type(t).__name__}")

    def _own(self, t: Emulated) -> Emulated:
        if t.xp is not self:
            raise TypeError("operands must belong to one emulation, got those of two")
        return t

    def _operand(self, t: Array) -> Emulated:
        return self._own(t) if isinstance(t, Emulated) else self.wrap(self._values(t))

    def _constant(self, t: Array) -> Any:
        """An operand that becomes part of an array, and so is stored."""
        return self.rounded(float(t)) if _is_number(t) else self._values(t)

    def _loaded(self, values: np.ndarray) -> np.ndarray:
        """An operand as a matrix product takes it."""
        if self.choices.fusion is Fusion.ELEMENTWISE:
            values = _wider(self.contract.store, self.contract.inputs).round(values)
        return self.contract.load.round(values) if self.contract.load else values

    def _scaled(self, t: Emulated, number: float) -> Emulated:
        """A number times an array, at the chosen place."""
        s = float(self.contract.scale.held_on.round(np.array(number)))
        if self.choices.scale is ScaleSite.LATER:
            return Emulated(t.stored, self, s * t.factor)
        return t.scaled(s) if t.scaled else self.store(s * t.values)

    def _sum(self, values: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
        """A sum as it stands on the accumulator."""
        axes = tuple(range(values.ndim)) if axis is None else np.atleast_1d(axis) % values.ndim
        kept = [i for i in range(values.ndim) if i not in axes]
        count = math.prod(values.shape[i] for i in axes)  # -1 is undefined where t is empty
        flat = np.transpose(values, (*kept, *axes)).reshape(*(values.shape[i] for i in kept), count)
        order = self.choices.order_for(self.contract, flat.shape[-1])
        total = accumulate.sums(flat, self.contract.accumulate, order)
        return np.expand_dims(total, tuple(axes)) if keepdims else total

    def _inside(self, f: Callable[[np.ndarray], np.ndarray], t: Array) -> Emulated:
        return self.store(f(np.asarray(self._values(t), self.inside)))

    def _exact(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Array:
        """A function of NumPy whose values all come from its arguments."""
        f = getattr(np, name)
        if name in _VIEWS and isinstance(args[0], Emulated):
            return args[0].view(f(args[0].stored, *args[1:], **kwargs))
        found = f(*(self._plain(a) for a in args), **kwargs)
        is_float = isinstance(found, np.ndarray | np.floating) and found.dtype.kind == "f"
        return self.wrap(found) if is_float else found

    def _plain(self, t: Any) -> Any:
        if isinstance(t, list | tuple):
            return type(t)(self._plain(item) for item in t)
        return self._own(t).values if isinstance(t, Emulated) else t


def _is_number(t: Any) -> bool:
    return isinstance(t, int | float | np.generic) or (isinstance(t, np.ndarray) and t.ndim == 0)


def _wider(a: Grid, b: Grid) -> Grid:
    return a if a.precision >= b.precision else b


def _from_logsumexp(z: np.ndarray) -> np.ndarray:
    """exp(z − log Σ exp z) by row; a row of −inf is zero."""
    top = np.max(z, axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0, top).astype(z.dtype)
    total = np.sum(np.exp(z - top), axis=-1, keepdims=True)
    return np.exp(z - (top + np.log(np.where(total == 0, 1, total).astype(z.dtype))))
