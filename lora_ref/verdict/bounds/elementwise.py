"""Nodes of elementwise operations.

Math, with v the result and e_a, e_b the errors of the operands:
    a b        e = |a| e_b + e_a |b|₊
    a / b      e = (e_a + |v| e_b) / (|b| − e_b),  unknown where |b| ≤ e_b
    where      the chosen one; where the choice itself is uncertain, what covers both
Source:
    First-order variances: S = f'(a)² S_a, b² S_a + a² S_b.
"""

import numpy as np

from .chunks import chunks, flat
from .enclosure import Enclosure, is_power_of_two
from .nodes import Node


class Rounded(Node):
    """A node whose enclosure is its own error, then a store, then a factor."""

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(e, S) of v before it is stored."""
        raise NotImplementedError

    def _enclose(self, c: float) -> Enclosure:
        return self.arithmetic.scaled(self.arithmetic.store(self.value(), *self._error()), c)


class Operation(Rounded):
    """An operation on operands c_i nodeᵢ, whose value is that on the nodes themselves."""

    def __init__(self, shape: tuple[int, ...], factor: float, *operands: tuple[float, Node]):
        super().__init__(operands[0][1].arithmetic, shape)
        self.factor, self.operands = factor, operands  # what the c_i come to on the result

    def _error(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self._error_of(self.value(), *(node.enclosure() for _, node in self.operands))

    def _error_of(
        self, v: np.ndarray, *operands: Enclosure
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(e, S) of v, the result for these operands, before it is stored."""
        raise NotImplementedError

    def _enclose(self, c: float) -> Enclosure:
        """With the factors on the result, or on the operands as the text has them."""
        later, arithmetic = super()._enclose(c), self.arithmetic
        exact = all(is_power_of_two(c_i) for c_i, _ in self.operands)
        if exact and not arithmetic.ends_near(arithmetic.contract.store):
            return later
        if all(c_i == 1 for c_i, _ in self.operands):
            return later
        v, operands = self.factor * self.value(), (n.enclosure(c_i) for c_i, n in self.operands)
        there = arithmetic.store(v, *self._error_of(v, *operands))
        there = arithmetic.scaled(there, c / self.factor) if self.factor else there
        return arithmetic.union(later, there) if arithmetic.contract.scale.result else there


class Times(Operation):
    """(c_a a) ∘ (c_b b); the value is that of a ∘ b."""

    def __init__(self, a: Node, b: Node, c_a: float, c_b: float):
        shape = np.broadcast_shapes(a.shape, b.shape)
        super().__init__(shape, abs(c_a * c_b), (abs(c_a), a), (abs(c_b), b))
        self.a, self.b = a, b

    def _evaluate(self) -> np.ndarray:
        return self.a.value() * self.b.value()

    def _error_of(
        self, v: np.ndarray, *operands: Enclosure
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, b = operands
        e = _cross(a.size, b.e, b.upper, a.e, self.shape)
        if not self.arithmetic.variance:
            return e, None
        return e, _cross(a.square, b.s, b.square, a.s, self.shape)


class Quotient(Operation):
    """(c_a a) / (c_b b); the value is that of a / b."""

    def __init__(self, a: Node, b: Node, c_a: float, c_b: float):
        shape = np.broadcast_shapes(a.shape, b.shape)
        super().__init__(shape, abs(c_a / c_b), (abs(c_a), a), (abs(c_b), b))
        self.a, self.b = a, b

    def _evaluate(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.a.value() / self.b.value()

    def _error_of(
        self, v: np.ndarray, *operands: Enclosure
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, b = operands
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.abs(v).astype(self.arithmetic.dtype)
            e = total_of(a.e, _of(size, b.e))
            if e is not None:
                least = b.size if b.e is None else b.size - b.e
                e = np.where(least > 0, e / least, np.inf)
            if not self.arithmetic.variance:
                return e, None
            s = total_of(a.s, _of(size * size, b.s))
            return e, None if s is None else s / b.square


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


def _cross(
    a: np.ndarray,
    e_b: np.ndarray | None,
    b: np.ndarray,
    e_a: np.ndarray | None,
    shape: tuple[int, ...],
) -> np.ndarray | None:
    """a e_b + b e_a."""
    if e_a is None or e_b is None:
        return _of(a, e_b) if e_a is None else _of(b, e_a)
    out = np.empty(shape, a.dtype)
    given, to = [flat(t, shape) for t in (a, e_b, b, e_a)], out.reshape(-1)
    for part in chunks(out.size):
        a_, e_b_, b_, e_a_ = (t[part] for t in given if t is not None)
        np.multiply(a_, e_b_, out=to[part])
        to[part] += b_ * e_a_
    return out


def _of(size: np.ndarray, e: np.ndarray | None) -> np.ndarray | None:
    return None if e is None else size * e


def total_of(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """a + b, None standing for zero."""
    if a is None or b is None:
        return a if b is None else b
    return a + b
