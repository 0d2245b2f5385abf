"""Products of matrices, with the factor on every place where a contract admits it.

Math:
    e = (E_A + γ |A|₊) |B|₊ + |A| E_B                 |A|₊ = |A| + E_A
    S = (S_A + κA²) B² + A² S_B + ⅔ κ v²
    c (c_a a) (c_b b): c on the stored result, on a, on b, or where the text has c_a and c_b; the
    largest error and variance of all of these.
"""

import math
from typing import Any

import numpy as np

from ..tiles import between
from .arithmetic import Arithmetic
from .chunks import chunks, flat
from .enclosure import VARIANCE_UNIT, Enclosure, half_ulp, is_power_of_two
from .nodes import Node


class Product(Node):
    """(c_a a) (c_b b) of matrices, the factors pending in the term that holds the node."""

    def __init__(
        self, a: Node, b: Node, c_a: float, c_b: float, loads: bool = True, tile: int | None = None
    ):
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        super().__init__(a.arithmetic, (*batch, a.shape[-2], b.shape[-1]))
        self.a, self.b, self.c_a, self.c_b = a, b, abs(c_a), abs(c_b)
        self.load = self.arithmetic.loaded if loads else _as_it_is
        self.tile = tile

    @property
    def cost(self) -> int:
        """Multiplications that its value still takes."""
        return 0 if self._value is not None else math.prod(self.shape) * self.a.shape[-1]

    def _evaluate(self) -> np.ndarray:
        return self.a.value() @ self.b.value()

    def _enclose(self, c: float) -> Enclosure:
        sites = self.arithmetic.contract.scale
        exact = is_power_of_two(self.c_a) and is_power_of_two(self.c_b)
        same = sites.operand and 1 in (self.c_a, self.c_b)
        if self.c_a == self.c_b == 1 or (exact and (same or not self._may_leave_range)):
            return self._anywhere(c, 1.0, 1.0)
        found = [self._anywhere(c / (self.c_a * self.c_b), self.c_a, self.c_b)]
        if sites.operand or sites.result:
            found.append(self._anywhere(c, 1.0, 1.0))
            if 1 not in (self.c_a, self.c_b):  # one of two factors waits, the other does not
                found.append(self._anywhere(c / self.c_a, self.c_a, 1.0))
                found.append(self._anywhere(c / self.c_b, 1.0, self.c_b))
        return self.arithmetic.union(*found)

    @property
    def _may_leave_range(self) -> bool:
        """Whether a power of two may cost something, on the way to a product or from it."""
        contract, ends_near = self.arithmetic.contract, self.arithmetic.ends_near
        grids = (contract.store, contract.load, contract.accumulate.grid)
        return any(ends_near(grid) for grid in grids if grid)

    def _anywhere(self, c: float, c_a: float, c_b: float) -> Enclosure:
        """c (c_a a) (c_b b) with c on the result, or on either operand."""
        arithmetic = self.arithmetic
        a, b = (
            self.load(node.enclosure(factor)) for node, factor in ((self.a, c_a), (self.b, c_b))
        )
        v, inner = self.value(), c_a * c_b
        e, s = product(arithmetic, a, b, v, inner)
        e = self._stored_between(e, inner) if self.tile else e
        exact = is_power_of_two(c)
        if c == 1 or (exact and not self._may_leave_range):
            return arithmetic.store(v, *_times(e, s, c), factor=c * inner)
        stored = arithmetic.store(v, e, s, factor=inner)
        of_e, of_s = self._in_place(e, c), self._in_place(s, c * c)
        if arithmetic.may_leave_range:  # with c on an operand the sums themselves are c times that
            gamma = arithmetic.gamma(a.base.shape[-1])
            arithmetic.leave_range(of_e, of_e / of_e.dtype.type(gamma), a.base.shape[-1])
        if exact:
            found = [arithmetic.scaled(stored, c)]
            if arithmetic.contract.scale.operand and arithmetic.may_leave_range:
                found.append(arithmetic.store(v, of_e, of_s, factor=c * inner))
            for side, operand in ((0, a), (1, b)):
                if arithmetic.contract.scale.operand and self._scaling(operand, c).any():
                    more, more_s = self._on(side, a, b, c)
                    more, more_s = more + of_e, _plus(more_s, of_s)
                    found.append(arithmetic.store(v, more, more_s, factor=c * inner))
                if arithmetic.contract.scale.operand and self._leaves_load(operand, c):
                    more, more_s = self._loaded_on(side, c, c_a, c_b)
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

    def _stored_between(self, e: np.ndarray, c: float) -> np.ndarray:
        """e of c times the sum, rounded after each tile but the last: h(|S_j| + e) for each."""
        arithmetic, tile, terms = self.arithmetic, self.tile or 1, self.a.shape[-1]
        contract = arithmetic.contract
        if terms <= tile or contract.store.roundoff <= contract.accumulate.roundoff:
            return e
        a, b = (t.value().astype(arithmetic.dtype) for t in (self.a, self.b))
        total: Any = 0
        for stop in between(terms, tile):
            part = slice(stop - tile, stop)
            total = total + a[..., part] @ b[..., part, :]
            upper = np.abs(total)
            upper *= arithmetic.dtype.type(abs(c))
            upper += e
            e = e + half_ulp(upper, contract.store)
        return e

    @staticmethod
    def _in_place(t: Any, factor: float) -> Any:
        return t if t is None else np.multiply(t, t.dtype.type(factor), out=t)

    def _loaded_on(
        self, side: int, c: float, c_a: float, c_b: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(e, S) with c on one operand, which is stored, and loaded then: perhaps a binade up."""
        arithmetic = self.arithmetic
        operands = [self.a.enclosure(c_a), self.b.enclosure(c_b)]
        operands[side] = arithmetic.scaled(operands[side], c)
        a, b = (self.load(t) for t in operands)
        return product(arithmetic, a, b, self.value(), c * c_a * c_b)

    def _leaves_load(self, operand: Enclosure, c: float) -> bool:
        """Whether c times an operand is where the grid of a product's inputs ends."""
        grid = self.arithmetic.contract.load
        if grid is None or not self.arithmetic.ends_near(grid):
            return False
        upper = operand.upper * self.arithmetic.dtype.type(c)
        ends = (upper > grid.largest) | ((upper > 0) & (upper < 2.0**grid.emin))
        return bool(ends.any())

    def _scaling(self, operand: Enclosure, c: float) -> np.ndarray:
        """The rounding of an operand that c has been applied to."""
        upper = operand.upper * self.arithmetic.dtype.type(c)
        if is_power_of_two(c):
            return self.arithmetic.lost(upper, c)
        grid = self.arithmetic.contract.store
        rounding = half_ulp(upper, grid)
        if self.arithmetic.ends_near(grid):
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


def product(
    arithmetic: Arithmetic, a: Enclosure, b: Enclosure, v: np.ndarray, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray | None]:
    """(e, S) of a b = factor · v, summed on the accumulator, not stored yet; fresh arrays."""
    terms = a.base.shape[-1]
    gamma, inflation = arithmetic.gamma(terms), arithmetic.inflation(terms)
    if a.e is None and b.e is None:
        e = a.size @ b.size
        e *= arithmetic.dtype.type(gamma * inflation)
    elif a.e is None:
        e = a.size @ _widened(b, gamma, inflation)
    else:
        e = _widened(a, gamma, inflation) @ b.upper
        if b.e is not None:
            e += (a.size @ b.e) * arithmetic.dtype.type(inflation)
    if arithmetic.may_leave_range:
        arithmetic.leave_range(e, e / arithmetic.dtype.type(gamma), terms)
    return e, _product_variance(arithmetic, a, b, v, factor) if arithmetic.variance else None


def _widened(a: Enclosure, gamma: float, inflation: float) -> np.ndarray:
    """E + γ (|A| + E), inflated."""
    of_size, of_e = (a.dtype.type(t * inflation) for t in (gamma, 1 + gamma))
    size, e = a.size, np.broadcast_to(np.asarray(a.e), a.size.shape)
    turned = size.ndim > 1 and not size.flags.c_contiguous and size.mT.flags.c_contiguous
    if turned:
        size, e = size.mT, e.mT
    wide = np.empty(size.shape, a.dtype)
    from_size, from_e, out = flat(size, size.shape), flat(e, size.shape), wide.reshape(-1)
    for part in chunks(wide.size):
        np.multiply(from_size[part], of_size, out=out[part])
        out[part] += from_e[part] * of_e
    return wide.mT if turned else wide


def _product_variance(
    arithmetic: Arithmetic, a: Enclosure, b: Enclosure, v: np.ndarray, factor: float
) -> np.ndarray | None:
    terms = a.base.shape[-1]
    kappa = arithmetic.accumulated_variance(terms)
    of_a = a.s
    if kappa:
        own = a.square * arithmetic.dtype.type(kappa)
        of_a = own if of_a is None else np.add(of_a, own, out=own)
    s = None if of_a is None else of_a @ b.square
    if b.s is not None:
        other = a.square @ b.s
        s = other if s is None else np.add(s, other, out=s)
    if kappa and s is not None:
        s += arithmetic.of_partial_sums(v, kappa * factor * factor)
    if arithmetic.may_leave_range:
        least = arithmetic.contract.accumulate.grid.smallest
        floor = arithmetic.dtype.type(terms * least * least / (12 * VARIANCE_UNIT))
        if s is None:
            return np.full(v.shape, floor)
        s += floor
    return s


def _as_it_is(a: Enclosure) -> Enclosure:
    return a


def _plus(a: np.ndarray | None, b: np.ndarray | None) -> Any:
    if a is None or b is None:
        return a if b is None else b
    return np.add(a, b, out=a)


def _times(e: np.ndarray, s: np.ndarray | None, c: float) -> tuple[np.ndarray, np.ndarray | None]:
    if c == 1:
        return e, s
    return e * e.dtype.type(c), None if s is None else s * e.dtype.type(c * c)
