"""Sums of pending terms, in any order, and with a product summed onto the others.

Math:
    e = Σ eᵢ + (k − 2) h(Σ |aᵢ|₊) + h(|v| + the rest), and γ |aⱼ|₊ for each term aⱼ beside a product
"""

from collections.abc import Sequence

import numpy as np

from .arithmetic import Arithmetic
from .enclosure import Enclosure, half_ulp
from .nodes import Node
from .products import Product


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
            c, node = self.terms[dearest]
            others = [term for i, term in enumerate(self.terms) if i != dearest]
            # Not of self, which holds the node: such a cycle would keep its arrays alive.
            node.defer(lambda: _remaining(value, others) / c)

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


def _remaining(total: np.ndarray, others: Sequence[tuple[float, Node]]) -> np.ndarray:
    """What the other terms leave of a total."""
    for c, node in others:
        total = _accumulated(total, -c, node.value())
    return total


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


def _scaled(value: np.ndarray, c: float) -> np.ndarray:
    return value if c == 1 else c * value
