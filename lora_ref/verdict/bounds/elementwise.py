"""Nodes of elementwise operations and of sums along an axis.

Math, with v the result and e_a, e_b the errors of the operands:
    a b        e = |a| e_b + e_a |b|₊
    a / b      e = (e_a + |v| e_b) / (|b| − e_b),  unknown where |b| ≤ e_b
    f(a)       e = the largest |f(a + t) − f(a)| for |t| ≤ e_a, plus the ulps of f itself
    Σ a        e = Σ e_a + γ Σ |a|₊
    ‖a‖        e = ‖e_a‖ + (K + 4) u ‖a‖₊, since ‖a + t‖ − ‖a‖ ≤ ‖t‖
    where      the chosen one; where the choice itself is uncertain, what covers both
Source:
    First-order variances: S = f'(a)² S_a, b² S_a + a² S_b.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .arithmetic import Arithmetic
from .enclosure import Enclosure, is_power_of_two
from .nodes import Node


class _Rounded(Node):
    """A node whose enclosure is its own error, then a store, and a factor on either side of it."""

    c_inner = 1.0  # factors that the text applies to operands, each with a rounding of its own

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(e, S) of c_inner · v before it is stored."""
        raise NotImplementedError

    def _enclose(self, c: float) -> Enclosure:
        arithmetic = self.arithmetic
        e, s = self._error()
        number = arithmetic.dtype.type
        v = self.value()
        if c != 1:
            v = c * v
            e = None if e is None else e * number(c)
            s = None if s is None else s * number(c * c)
        extra = sum(not is_power_of_two(f) for f in (self.c_inner, c / self.c_inner))
        found = arithmetic.store(v, e, s)
        for _ in range(extra):
            found = arithmetic.rounded(found)
        return found


class Times(_Rounded):
    """(c_a a) ∘ (c_b b); the value is that of a ∘ b."""

    def __init__(self, a: Node, b: Node, c_a: float, c_b: float):
        super().__init__(a.arithmetic, np.broadcast_shapes(a.shape, b.shape))
        self.a, self.b, self.c_inner = a, b, abs(c_a * c_b)

    def _evaluate(self) -> np.ndarray:
        return self.a.value() * self.b.value()

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, b = self.a.enclosure(), self.b.enclosure()
        e = _total(_of(a.size, b.e), _of(b.upper, a.e))
        if not self.arithmetic.variance:
            return e, None
        return e, _total(_of(a.square, b.s), _of(b.square, a.s))


class Quotient(_Rounded):
    """(c_a a) / (c_b b); the value is that of a / b."""

    def __init__(self, a: Node, b: Node, c_a: float, c_b: float):
        super().__init__(a.arithmetic, np.broadcast_shapes(a.shape, b.shape))
        self.a, self.b, self.c_inner = a, b, abs(c_a / c_b)

    def _evaluate(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.a.value() / self.b.value()

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, b = self.a.enclosure(), self.b.enclosure()
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.abs(self.value()).astype(self.arithmetic.dtype)
            e = _total(a.e, _of(size, b.e))
            if e is not None:
                least = b.size if b.e is None else b.size - b.e
                e = np.where(least > 0, e / least, np.inf)
            if not self.arithmetic.variance:
                return e, None
            s = _total(a.s, _of(size * size, b.s))
            return e, None if s is None else s / b.square


@dataclass(frozen=True)
class Function:
    """f, and the largest change and the derivative of f, from (v, f(v), e_a)."""

    f: Callable[[np.ndarray], np.ndarray]
    change: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ulps: bool = True  # whether f has an error of its own, the contract's exp_ulps


class Applied(_Rounded):
    """f(c_a a); what c_a is rounded to counts."""

    def __init__(self, function: Function, a: Node, c_a: float):
        super().__init__(a.arithmetic, a.shape)
        self.function, self.a, self.c_a = function, a, c_a

    def _evaluate(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.function.f(self.c_a * self.a.value())

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, arithmetic, f = self.a.enclosure(self.c_a), self.arithmetic, self.function
        v = self.value()
        with np.errstate(all="ignore"):
            e = None if a.e is None else f.change(a.v, v, a.e.astype(float)).astype(a.dtype)
            if f.ulps:
                own = np.abs(v) * (2 * arithmetic.contract.exp_ulps * self._roundoff())
                e = own.astype(a.dtype) if e is None else e + own.astype(a.dtype)
            if e is not None:
                e = np.where(np.isnan(e), np.inf, e).astype(a.dtype)
            if not arithmetic.variance or a.s is None:
                return e, None
            slope = f.derivative(a.v, v)
            return e, (slope * slope).astype(a.dtype) * a.s

    def _roundoff(self) -> float:
        return self.arithmetic.contract.accumulate.roundoff


class SumAlong(_Rounded):
    """Σ of a node along axes, which are kept with length one or dropped."""

    def __init__(self, a: Node, axis: tuple[int, ...], keepdims: bool):
        shape = tuple(
            1 if i in axis else size
            for i, size in enumerate(a.shape)
            if keepdims or i not in axis
        )
        super().__init__(a.arithmetic, shape)
        self.a, self.axis = a, axis
        self.terms = int(np.prod([a.shape[i] for i in axis]))

    def _evaluate(self) -> np.ndarray:
        return self.a.value().sum(axis=self.axis).reshape(self.shape)

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, arithmetic = self.a.enclosure(), self.arithmetic
        e = arithmetic.summed(a.e, a.upper, self.axis, self.terms).reshape(self.shape)
        s = None
        if arithmetic.variance:
            kappa = arithmetic.accumulated_variance(self.terms)
            of = _total(a.s, a.square * a.dtype.type(kappa) if kappa else None)
            s = None if of is None else of.sum(axis=self.axis).reshape(self.shape)
        return e, s


class Norm(_Rounded):
    """‖a‖ along an axis, kept with length one."""

    def __init__(self, a: Node, axis: int):
        shape = list(a.shape)
        shape[axis] = 1
        super().__init__(a.arithmetic, tuple(shape))
        self.a, self.axis = a, axis

    def _evaluate(self) -> np.ndarray:
        v = self.a.value()
        return np.sqrt((v * v).sum(axis=self.axis, keepdims=True))

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, arithmetic, terms = self.a.enclosure(), self.arithmetic, self.a.shape[self.axis]
        number, size = arithmetic.dtype.type, np.abs(self.value()).astype(arithmetic.dtype)
        inflation = number(arithmetic.inflation(terms))
        moved = 0 if a.e is None else np.sqrt((a.e * a.e).sum(axis=self.axis, keepdims=True))
        e = (moved + (size + moved) * number(arithmetic.gamma(terms + 2))) * inflation
        if not arithmetic.variance or a.s is None:
            return e, None
        with np.errstate(divide="ignore", invalid="ignore"):
            s = (a.square * a.s).sum(axis=self.axis, keepdims=True) / (size * size)
        return e, np.where(size > 0, s, 0).astype(arithmetic.dtype)


class Chosen(Node):
    """a where `choice` holds and b elsewhere; `doubtful` marks where the choice is uncertain."""

    def __init__(self, choice: np.ndarray, doubtful: np.ndarray | None, a: Node, b: Node):
        super().__init__(a.arithmetic, np.broadcast_shapes(choice.shape, a.shape, b.shape))
        self.choice, self.doubtful, self.a, self.b = choice, doubtful, a, b

    def _evaluate(self) -> np.ndarray:
        return np.where(self.choice, self.a.value(), self.b.value())

    def _enclose(self, c: float) -> Enclosure:
        a, b, dtype = self.a.enclosure(c), self.b.enclosure(c), self.arithmetic.dtype
        v = np.where(self.choice, a.v, b.v)
        e = np.where(self.choice, _or_zero(a.e, dtype), _or_zero(b.e, dtype))
        if self.doubtful is not None and self.doubtful.any():
            far = np.abs(a.v - b.v).astype(dtype)
            e = np.where(self.doubtful, far + _either(a.e, b.e, dtype), e)
        s = None
        if a.s is not None or b.s is not None:
            s = np.where(self.choice, _or_zero(a.s, dtype), _or_zero(b.s, dtype))
        return Enclosure(v, e, s, dtype)


def _or_zero(t: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    return np.zeros((), dtype) if t is None else t


def _either(a: np.ndarray | None, b: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    return np.maximum(_or_zero(a, dtype), _or_zero(b, dtype))


def _of(size: np.ndarray, e: np.ndarray | None) -> np.ndarray | None:
    return None if e is None else size * e


def _total(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return a if b is None else b
    return a + b

