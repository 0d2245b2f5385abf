"""What kernels see of the error-bounded reading: c₁ node₁ + c₂ node₂ + …, with operators.

Additions and number factors stay pending until an operation needs one stored quantity, so that
the text of a kernel says what is computed and the contract in which order. Comparisons give
NumPy booleans that remember where the errors leave them open (`Doubtful`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .elementwise import Quotient, Times
from .enclosure import Enclosure
from .nodes import Joined, Leaf, Node, Pending, View
from .products import Product
from .sums import Sum

Term = tuple[float, Node]


class Doubtful(np.ndarray):
    """Booleans of a comparison; `open` marks those that an admitted rounding could turn."""

    open: np.ndarray | None = None

    @classmethod
    def of(cls, values: np.ndarray, uncertain: np.ndarray) -> "Doubtful":
        marked = np.asarray(values).view(cls)
        marked.open = uncertain
        return marked


class Bounded:
    """A pending sum of nodes of one reading."""

    is_reading_array = True
    __array_ufunc__ = None  # NumPy's arrays and scalars leave the operators to this class
    dtype = np.dtype(np.float64)

    def __init__(self, xp: Any, *terms: Term):
        self.xp, self.terms = xp, terms
        self.shape = np.broadcast_shapes(*(node.shape for _, node in terms))

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.xp

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def T(self) -> "Bounded":  # noqa: N802 (the array API's name)
        return self.seen(lambda t: t.T, self.shape[::-1])

    @property
    def mT(self) -> "Bounded":  # noqa: N802
        return self.seen(lambda t: t.mT, (*self.shape[:-2], self.shape[-1], self.shape[-2]))

    def one(self) -> Term:
        """A single (factor, node): a sum is stored when it becomes an operand."""
        if len(self.terms) == 1:
            return self.terms[0]
        total: Node = Sum(self.xp.arithmetic, self.terms)
        self.terms = ((1.0, total),)
        return self.terms[0]

    def value(self) -> np.ndarray:
        """The float64 value."""
        c, node = self.one()
        return node.value() if c == 1 else c * node.value()

    def stored(self) -> Enclosure:
        """The value, error and variance of what is stored here."""
        c, node = self.one()
        return node.enclosure(c)

    def seen(self, f: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> "Bounded":
        """The same elements elsewhere."""
        c, node = self.one()
        return Bounded(self.xp, (c, View(node, f, shape)))

    def __getitem__(self, key: Any) -> "Bounded":
        probe = np.broadcast_to(np.zeros(()), self.shape)[key]
        return self.seen(lambda t: t[key], probe.shape)

    def __add__(self, other: Any) -> "Bounded":
        other = self.xp.bounded(other)
        return Bounded(self.xp, *self.terms, *other.terms)

    __radd__ = __add__

    def __neg__(self) -> "Bounded":
        return Bounded(self.xp, *((-c, node) for c, node in self.terms))

    def __sub__(self, other: Any) -> "Bounded":
        return self + -self.xp.bounded(other)

    def __rsub__(self, other: Any) -> "Bounded":
        return self.xp.bounded(other) + -self

    def __mul__(self, other: Any) -> "Bounded":
        number = as_number(other)
        if number is not None:
            c, node = self.one()
            return Bounded(self.xp, (c * number, node))
        (c, a), (d, b) = self.one(), self.xp.bounded(other).one()
        return Bounded(self.xp, (c * d, Times(a, b, c, d)))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Bounded":
        number = as_number(other)
        if number is not None:
            return self * (1 / number)
        (c, a), (d, b) = self.one(), self.xp.bounded(other).one()
        return Bounded(self.xp, (c / d, Quotient(a, b, c, d)))

    def __rtruediv__(self, other: Any) -> "Bounded":
        return self.xp.bounded(other) / self

    def __pow__(self, exponent: int) -> "Bounded":
        if exponent != 2:
            raise TypeError(f"Bounded: the exponent must be 2, got {exponent}")
        return self * self

    def __matmul__(self, other: Any) -> "Bounded":
        (c, a), (d, b) = self.one(), self.xp.bounded(other).one()
        return Bounded(self.xp, (c * d, Product(a, b, c, d)))

    def __rmatmul__(self, other: Any) -> "Bounded":
        return self.xp.bounded(other) @ self

    def __le__(self, other: Any) -> Doubtful:
        return self._compared(np.less_equal, other)

    def __lt__(self, other: Any) -> Doubtful:
        return self._compared(np.less, other)

    def __ge__(self, other: Any) -> Doubtful:
        return self._compared(np.greater_equal, other)

    def __gt__(self, other: Any) -> Doubtful:
        return self._compared(np.greater, other)

    def _compared(self, f: Callable[..., np.ndarray], other: Any) -> Doubtful:
        a, b = self.stored(), self.xp.bounded(other).stored()
        slack: Any = (0 if a.e is None else a.e) + (0 if b.e is None else b.e)
        choice = np.asarray(f(a.v, b.v))
        uncertain = np.broadcast_to((np.abs(a.v - b.v) <= slack) & (slack > 0), choice.shape)
        return Doubtful.of(choice, uncertain)


def as_number(value: Any) -> float | None:
    """A number factor: a Python number or a 0-d NumPy scalar, which says its value exactly."""
    if isinstance(value, (int, float, np.generic)):
        return float(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return float(value)
    return None


def leaf(xp: Any, value: np.ndarray) -> Bounded:
    """An exact array."""
    return Bounded(xp, (1.0, Leaf(xp.arithmetic, np.asarray(value, dtype=np.float64))))


def joined(xp: Any, f: Callable[..., np.ndarray], parts: list[Bounded]) -> Bounded:
    """Several arrays in one; their pending factors are applied, unless they are all the same."""
    terms = [part.one() for part in parts]
    factors = {c for c, _ in terms}
    probe = f(*(np.broadcast_to(np.zeros(()), part.shape) for part in parts))
    if len(factors) == 1:
        nodes = [node for _, node in terms]
        return Bounded(xp, (factors.pop(), Joined(nodes, f, probe.shape)))
    return Bounded(xp, (1.0, Joined([Pending(node, c) for c, node in terms], f, probe.shape)))
