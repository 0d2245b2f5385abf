"""The quantities of a kernel that an implementation may store, as a graph that is evaluated late.

A number factor is not applied where the text has it but travels along: c · node. What an honest
implementation may make of it is one rule: a factor may be applied where the text puts it, or on
any stored operand or result further along the chain of products; it never moves upstream of a
stored value.

    Leaf      an input                     View     a transposed, reshaped, sliced … node
    Product   (c_a a) (c_b b)              Sum      Σ c_i nodeᵢ, pending until it is used
    Either    several formulas of one quantity

Each node has its value in float64 (`value`) and, for a factor c, the enclosure of the stored
c · node (`enclosure`), both computed once. The remaining nodes are in `elementwise` and `weights`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .enclosure import VARIANCE_UNIT, Enclosure, half_ulp, is_power_of_two

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

    def scaled(self, c: float) -> Enclosure:
        """The stored node, then c on it: one rounding more."""
        return self.arithmetic.scaled(self.enclosure(), abs(c))

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


class Product(Node):
    """(c_a a) (c_b b) of matrices, the factors pending in the term that holds the node."""

    def __init__(self, a: Node, b: Node, c_a: float, c_b: float):
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        super().__init__(a.arithmetic, (*batch, a.shape[-2], b.shape[-1]))
        self.a, self.b, self.c_a, self.c_b = a, b, abs(c_a), abs(c_b)

    @property
    def cost(self) -> int:
        """Multiplications that its value still takes."""
        return 0 if self._value is not None else math.prod(self.shape) * self.a.shape[-1]

    def _evaluate(self) -> np.ndarray:
        return self.a.value() @ self.b.value()

    def _enclose(self, c: float) -> Enclosure:
        sites, store = self.arithmetic.contract.scale, self.arithmetic.contract.store
        exact = is_power_of_two(self.c_a) and is_power_of_two(self.c_b)
        if self.c_a == self.c_b == 1 or (exact and (sites.operand or not store.overflows_soon)):
            return self._anywhere(c, 1.0, 1.0)
        found = self._anywhere(c / (self.c_a * self.c_b), self.c_a, self.c_b)
        if not (sites.operand or sites.result):
            return found
        return self.arithmetic.union(found, self._anywhere(c, 1.0, 1.0))

    def _anywhere(self, c: float, c_a: float, c_b: float) -> Enclosure:
        """c (c_a a) (c_b b) with c on the result, or on either operand."""
        arithmetic = self.arithmetic
        a, b = (
            arithmetic.loaded(node.enclosure(factor))
            for node, factor in ((self.a, c_a), (self.b, c_b))
        )
        v, inner = self.value(), c_a * c_b
        e, s = arithmetic.product(a, b, v, inner)
        exact = is_power_of_two(c)
        if c == 1 or (exact and not arithmetic.contract.store.overflows_soon):
            return arithmetic.store(v, *_times(e, s, c), factor=c * inner)
        stored = arithmetic.store(v, e, s, factor=inner)
        of_e, of_s = self._in_place(e, c), self._in_place(s, c * c)
        if exact:
            found = [arithmetic.scaled(stored, c)]
            for side, operand in ((0, a), (1, b)):
                if arithmetic.contract.scale.operand and self._scaling(operand, c).any():
                    more, more_s = self._on(side, a, b, c)
                    more, more_s = more + of_e, _plus(more_s, of_s)
                    found.append(arithmetic.store(v, more, more_s, factor=c * inner))
            return arithmetic.union(*found)
        most, most_s, size = (
            self._in_place(t, f)
            for t, f in zip((stored.e, stored.s, stored.size), (c, c * c, c), strict=True)
        )
        if not arithmetic.contract.scale.operand:
            return arithmetic.store(v, most, most_s, size=size, factor=c * inner)
        for side in (0, 1):
            if arithmetic.contract.load is not None:
                e, s = self._loaded_on(side, c, c_a, c_b)
            else:
                more, more_s = self._on(side, a, b, c)
                e, s = _plus(more, of_e), _plus(more_s, of_s)
            np.maximum(most, e, out=most)
            if most_s is not None and s is not None:
                np.maximum(most_s, s, out=most_s)
        return arithmetic.store(v, most, most_s, size=size, factor=c * inner)

    @staticmethod
    def _in_place(t: Any, factor: float) -> Any:
        return t if t is None else np.multiply(t, t.dtype.type(factor), out=t)

    def _loaded_on(
        self, side: int, c: float, c_a: float, c_b: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(e, S) with c on one operand, which is stored, and loaded then: perhaps a binade up."""
        arithmetic = self.arithmetic
        operands = [self.a.enclosure(c_a), self.b.enclosure(c_b)]
        operands[side] = arithmetic.rounded(operands[side].times(c))
        a, b = (arithmetic.loaded(t) for t in operands)
        return arithmetic.product(a, b, self.value(), c * c_a * c_b)

    def _scaling(self, operand: Enclosure, c: float) -> np.ndarray:
        """The rounding of an operand that c has been applied to."""
        upper = operand.upper * self.arithmetic.dtype.type(c)
        if is_power_of_two(c):
            return self.arithmetic.lost(upper, c)
        grid = self.arithmetic.contract.store
        rounding = half_ulp(upper, grid)
        if grid.overflows_soon:
            rounding[upper + rounding > grid.largest] = np.inf
        return rounding

    def _on(
        self, side: int, a: Enclosure, b: Enclosure, c: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What c adds on one operand, which is stored then."""
        arithmetic, terms = self.arithmetic, a.base.shape[-1]
        number = arithmetic.dtype.type
        rounding = self._scaling(b if side else a, c)
        square = rounding * rounding * number(1 / (3 * VARIANCE_UNIT))
        rounding *= number(arithmetic.inflation(terms) + 2 * arithmetic.gamma(terms))
        more = a.upper @ rounding if side else rounding @ b.upper
        if not arithmetic.variance:
            return more, None
        return more, a.square @ square if side else square @ b.square


def _plus(a: np.ndarray | None, b: np.ndarray | None) -> Any:
    if a is None or b is None:
        return a if b is None else b
    return np.add(a, b, out=a)


def _scaled(value: np.ndarray, c: float) -> np.ndarray:
    return value if c == 1 else c * value


def _times(e: np.ndarray, s: np.ndarray | None, c: float) -> tuple[np.ndarray, np.ndarray | None]:
    if c == 1:
        return e, s
    return e * e.dtype.type(c), None if s is None else s * e.dtype.type(c * c)


class Sum(Node):
    """c₁ node₁ + … + c_k node_k, added in any order."""

    def __init__(self, arithmetic: Arithmetic, terms: Sequence[tuple[float, Node]]):
        super().__init__(arithmetic, np.broadcast_shapes(*(node.shape for _, node in terms)))
        self.terms = terms

    def _evaluate(self) -> np.ndarray:
        (c, node), *rest = self.terms
        total = _scaled(node.value(), c)
        for c, node in rest:
            total = _accumulated(total, c, node.value())
        return total

    def take_value(self, value: np.ndarray) -> None:
        """The dearest product that is not evaluated yet follows by subtraction."""
        super().take_value(value)
        cost = [n.cost if isinstance(n, Product) and c else 0 for c, n in self.terms]
        dearest = max(range(len(cost)), key=lambda i: cost[i])
        if cost[dearest]:
            self.terms[dearest][1].defer(lambda: self._remaining(dearest))

    def _remaining(self, index: int) -> np.ndarray:
        left = self.value()
        for i, (c, node) in enumerate(self.terms):
            if i != index:
                left = _accumulated(left, -c, node.value())
        return left / self.terms[index][0]

    def _enclose(self, c: float) -> Enclosure:
        if c != 1:
            return self.arithmetic.scaled(self.enclosure(), c)
        parts = [node.enclosure(c) for c, node in self.terms]
        more_e, more_s = self._accumulated_together(parts)
        e, s = _added([p.e for p in parts] + more_e), _added([p.s for p in parts] + more_s)
        if len(parts) > 2:
            upper = _added([p.upper for p in parts])
            grid, number = self.arithmetic.contract.store, self.arithmetic.dtype.type
            upper = np.ascontiguousarray(upper)
            if len(parts) > 4:  # so many roundings may carry a partial sum into the next binade
                upper = upper * number(1 + 2 * len(parts) * grid.roundoff)
            extra = half_ulp(upper, grid)
            extra *= number(len(parts) - 2)
            if grid.overflows_soon:
                extra[upper > grid.largest] = np.inf
            e = extra if e is None else e + extra
        e, s = (None if t is None else np.broadcast_to(t, self.shape) for t in (e, s))
        return self.arithmetic.store(self.value(), e, s)

    def _accumulated_together(
        self, parts: Sequence[Enclosure]
    ) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
        """What the other terms lose where a product is summed onto them, as addmm does."""
        arithmetic, number = self.arithmetic, self.arithmetic.dtype.type
        if not arithmetic.contract.forms.onto:
            return [], []
        depths = [n.a.shape[-1] if isinstance(n, Product) else 0 for _, n in self.terms]
        gammas = [arithmetic.gamma(k) if k else 0.0 for k in depths]
        kappas = [2 * arithmetic.accumulated_variance(k) if k else 0.0 for k in depths]
        e: list[np.ndarray | None] = []
        s: list[np.ndarray | None] = []
        for part, gamma, kappa in zip(parts, gammas, kappas, strict=True):
            if others := sum(gammas) - gamma:
                e.append(part.upper * number(others))
            if arithmetic.variance and (others := sum(kappas) - kappa):
                s.append(part.square * number(others))
        return e, s


def _accumulated(total: np.ndarray, c: float, value: np.ndarray) -> np.ndarray:
    if abs(c) == 1:
        return total + value if c == 1 else total - value
    scaled = c * value
    if scaled.shape == total.shape:
        return np.add(total, scaled, out=scaled)
    return total + scaled


def _added(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Their sum; one that stands alone is returned as it is."""
    present = [t for t in arrays if t is not None]
    if len(present) < 2:
        return present[0] if present else None
    total = np.empty(np.broadcast_shapes(*(t.shape for t in present)), present[0].dtype)
    np.add(present[0], present[1], out=total)
    for t in present[2:]:
        total += t
    return total


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
