"""The quantities of a kernel that an implementation may store, as a graph that is evaluated late.

A number factor is not applied where the text has it but travels along: c · node. What an honest
implementation may make of it is one rule: a factor may be applied where the text puts it, or on
any stored operand or result further along the chain of products; it never moves upstream of a
stored value.

    Leaf      an input                     View     a transposed, reshaped, sliced … node
    Joined    elements of several nodes    Either   several formulas of one quantity

Each node has its value in float64 (`value`) and, for a factor c, the enclosure of the stored
c · node (`enclosure`), both computed once. The remaining nodes are in `products`, `sums`,
`elementwise` and `weights`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .enclosure import Enclosure

View_ = Callable[[np.ndarray], np.ndarray]


class Node:
    """One stored quantity."""

    def __init__(self, arithmetic: Arithmetic, shape: tuple[int, ...]):
        self.arithmetic, self.shape = arithmetic, shape
        self._value: np.ndarray | None = None
        self._deferred: Callable[[], np.ndarray] | None = None
        self._enclosures: dict[float, Enclosure] = {}

    def value(self) -> np.ndarray:
        if self._value is None:
            self._value = self._deferred() if self._deferred else self._evaluate()
            self._deferred = None
        return self._value

    def take_value(self, value: np.ndarray) -> None:
        """Another formula of this quantity has been evaluated already."""
        if self._value is None:
            self._value = value

    def defer(self, evaluate: Callable[[], np.ndarray]) -> None:
        """A cheaper way to the value."""
        self._deferred = evaluate

    def enclosure(self, c: float = 1.0) -> Enclosure:
        """The stored c · node, every admitted place of c included."""
        size = abs(c)
        if size not in self._enclosures:
            self._enclosures[size] = self.arithmetic.held(self._enclose(size), size)
        found = self._enclosures[size]
        return found if c == size else found.times(-1)

    def _evaluate(self) -> np.ndarray:
        raise NotImplementedError

    def _enclose(self, c: float) -> Enclosure:
        raise NotImplementedError


class Leaf(Node):
    """An input, exact."""

    def __init__(self, arithmetic: Arithmetic, value: np.ndarray):
        super().__init__(arithmetic, value.shape)
        self._value = value

    def _enclose(self, c: float) -> Enclosure:
        if c == 1:
            return self.arithmetic.exact(self.value())
        return self.arithmetic.scaled(self.enclosure(), c)


class Pending(Node):
    """c · node where a single node is wanted; no store of its own."""

    def __init__(self, inner: Node, c: float):
        super().__init__(inner.arithmetic, inner.shape)
        self.inner, self.c = inner, c

    def take_value(self, value: np.ndarray) -> None:
        super().take_value(value)
        if self.c:
            self.inner.take_value(value / self.c)

    def _evaluate(self) -> np.ndarray:
        return self.c * self.inner.value()

    def _enclose(self, c: float) -> Enclosure:
        return self.inner.enclosure(self.c * c)


class View(Node):
    """The elements of a node in other places: nothing is computed."""

    def __init__(self, inner: Node, f: View_, shape: tuple[int, ...]):
        super().__init__(inner.arithmetic, shape)
        self.inner, self.f = inner, f

    def _evaluate(self) -> np.ndarray:
        return self.f(self.inner.value())

    def _enclose(self, c: float) -> Enclosure:
        return self.inner.enclosure(c).view(self.f)


class Joined(Node):
    """Elements of several nodes side by side: concatenation, stacking, a choice by a mask."""

    def __init__(self, nodes: Sequence[Node], f: Callable[..., np.ndarray], shape: tuple[int, ...]):
        super().__init__(nodes[0].arithmetic, shape)
        self.nodes, self.f = nodes, f

    def _evaluate(self) -> np.ndarray:
        return self.f(*(node.value() for node in self.nodes))

    def _enclose(self, c: float) -> Enclosure:
        parts = [node.enclosure(c) for node in self.nodes]
        dtype = self.arithmetic.dtype
        e, s = (
            None if all(t is None for t in of) else self.f(*_filled(of, parts, dtype))
            for of in ([p.e for p in parts], [p.s for p in parts])
        )
        return Enclosure(self.f(*(p.v for p in parts)), e, s, dtype)


def _filled(arrays: list[Any], parts: list[Enclosure], dtype: np.dtype) -> list[np.ndarray]:
    pairs = zip(arrays, parts, strict=True)
    return [np.zeros(p.v.shape, dtype) if t is None else t for t, p in pairs]


class Either(Node):
    """One quantity by several formulas: the value of the first, an error for each."""

    def __init__(self, alternatives: Sequence[Node]):
        super().__init__(alternatives[0].arithmetic, alternatives[0].shape)
        self.alternatives = alternatives

    def _evaluate(self) -> np.ndarray:
        return self.alternatives[0].value()

    def _enclose(self, c: float) -> Enclosure:
        first, *others = self.alternatives
        for other in others:
            other.take_value(first.value())
        found = [node.enclosure(c) for node in self.alternatives]
        return self.arithmetic.union(*found)
