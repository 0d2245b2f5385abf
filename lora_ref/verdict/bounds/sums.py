"""Sums of pending terms, in any order, and with a product summed onto the others.

Math:
    e = Σ eᵢ + (k − 2) h(Σ |aᵢ|₊) + h(|v| + the rest), and γ |aⱼ|₊ for each term aⱼ beside a product
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .chunks import chunks, flat
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
        return self.arithmetic.store(self.value(), *self._errors(parts))

    def _errors(self, parts: Sequence[Enclosure]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(e, S) of the sum before it is stored, in one pass over all terms."""
        gammas, kappas = self._beside_products()
        e = s = None
        if len(parts) > 2 or any(gammas) or any(p.e is not None for p in parts):
            e = np.empty(self.shape, self.arithmetic.dtype)
        if any(kappas) or any(p.s is not None for p in parts):
            s = np.empty(self.shape, self.arithmetic.dtype)
        given: list[Any] = [flat(t, self.shape) for p in parts for t in (p.size, p.e, p.s)]
        for part in chunks(math.prod(self.shape)):
            cut = [None if t is None else t[part] for t in given]
            terms = list(zip(cut[::3], cut[1::3], cut[2::3], strict=True))
            if e is not None:
                self._sum_errors([t[:2] for t in terms], gammas, e.reshape(-1)[part])
            if s is not None:
                _sum_variances([t[::2] for t in terms], kappas, s.reshape(-1)[part])
        return e, s

    def _beside_products(self) -> tuple[list[float], list[float]]:
        """γ and 2κ of the products that each term may be summed onto, as addmm does."""
        arithmetic = self.arithmetic
        if not arithmetic.contract.forms.onto:
            return [0.0] * len(self.terms), [0.0] * len(self.terms)
        depths = [n.a.shape[-1] if isinstance(n, Product) else 0 for _, n in self.terms]
        gammas = [arithmetic.gamma(k) if k else 0.0 for k in depths]
        kappas = [0.0] * len(depths)
        if arithmetic.variance:
            kappas = [2 * arithmetic.accumulated_variance(k) if k else 0.0 for k in depths]
        return [sum(gammas) - t for t in gammas], [sum(kappas) - t for t in kappas]

    def _sum_errors(
        self, terms: Sequence[tuple[Any, Any]], gammas: Sequence[float], out: np.ndarray
    ) -> None:
        """Σ e + γ |a|₊ + (k − 2) h(Σ |a|₊)."""
        grid, number = self.arithmetic.contract.store, self.arithmetic.dtype.type
        total: Any = 0
        out[...] = 0
        for (size, e), gamma in zip(terms, gammas, strict=True):
            upper = size if e is None else size + e
            if e is not None:
                out += e
            if gamma:
                out += upper * number(gamma)
            if len(terms) > 2:
                total = total + upper
        if len(terms) > 2:
            if len(terms) > 4:  # so many roundings may carry a partial sum into the next binade
                total *= number(1 + 2 * len(terms) * grid.roundoff)
            extra = half_ulp(total, grid)
            extra *= number(len(terms) - 2)
            if self.arithmetic.ends_near(grid):
                extra[total > grid.largest] = np.inf
            out += extra


def _sum_variances(
    terms: Sequence[tuple[Any, Any]], kappas: Sequence[float], out: np.ndarray
) -> None:
    """Σ S + 2κ a²."""
    out[...] = 0
    for (size, s), kappa in zip(terms, kappas, strict=True):
        if s is not None:
            out += s
        if kappa:
            out += size * size * out.dtype.type(kappa)


def _remaining(total: np.ndarray, others: Sequence[tuple[float, Node]]) -> np.ndarray:
    """What the other terms leave of a total."""
    for c, node in others:
        total = _accumulated(total, -c, node.value())
    return total


def _accumulated(total: np.ndarray, c: float, value: np.ndarray) -> np.ndarray:
    """total + c value, without an array of c value."""
    if abs(c) == 1:
        return total + value if c == 1 else total - value
    shape = np.broadcast_shapes(total.shape, value.shape)
    found = np.empty(shape)
    given, to = [flat(t, shape) for t in (total, value)], found.reshape(-1)
    for part in chunks(found.size):
        np.multiply(given[1][part], c, out=to[part])
        to[part] += given[0][part]
    return found


def _scaled(value: np.ndarray, c: float) -> np.ndarray:
    return value if c == 1 else c * value
