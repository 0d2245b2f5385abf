"""Nodes of sums and norms along axes.

Math:
    Σ a     e = Σ e_a + γ Σ |a|₊                          S = Σ S_a + κ a²
    ‖a‖     e = ‖e_a‖ + (γ/2 + 2u) ‖a‖₊, since ‖a + t‖ − ‖a‖ ≤ ‖t‖;  S = Σ a² S_a / ‖a‖²
"""

import numpy as np

from .elementwise import Operation, total_of
from .enclosure import Enclosure
from .nodes import Node

_UNDERFLOW = 2.0**-75  # the root of what a square loses to underflow in float32


class SumAlong(Operation):
    """Σ of c_a a along axes, which are kept with length one or dropped; the value is Σ a."""

    def __init__(self, a: Node, axis: tuple[int, ...], keepdims: bool, c_a: float = 1.0):
        shape = tuple(
            1 if i in axis else size for i, size in enumerate(a.shape) if keepdims or i not in axis
        )
        super().__init__(shape, abs(c_a), (abs(c_a), a))
        self.a, self.axis = a, axis
        self.terms = int(np.prod([a.shape[i] for i in axis]))

    def _evaluate(self) -> np.ndarray:
        return self.a.value().sum(axis=self.axis).reshape(self.shape)

    def _error_of(
        self, v: np.ndarray, *operands: Enclosure
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        (a,), arithmetic = operands, self.arithmetic
        e = arithmetic.summed(a.e, a.upper, self.axis, self.terms).reshape(self.shape)
        s = None
        if arithmetic.variance:
            kappa = arithmetic.accumulated_variance(self.terms)
            of = total_of(a.s, a.square * a.dtype.type(kappa) if kappa else None)
            s = None if of is None else of.sum(axis=self.axis).reshape(self.shape)
            if kappa and s is not None:
                s = s + arithmetic.of_partial_sums(v, kappa)
        return e, s


class Norm(Operation):
    """‖c_a a‖ along an axis, kept with length one; the value is ‖a‖."""

    def __init__(self, a: Node, axis: int, c_a: float = 1.0):
        shape = list(a.shape)
        shape[axis] = 1
        super().__init__(tuple(shape), abs(c_a), (abs(c_a), a))
        self.a, self.axis = a, axis

    def _evaluate(self) -> np.ndarray:
        return np.sqrt(self._dot(self.a.value(), self.a.value()))

    def _dot(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """⟨a, b⟩ along the axis, without their product in memory."""
        moved = (np.moveaxis(t, self.axis, -1) for t in (a, b))
        return np.expand_dims(np.vecdot(*moved), self.axis)

    def _error_of(
        self, v: np.ndarray, *operands: Enclosure
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        (a,), arithmetic, terms = operands, self.arithmetic, self.a.shape[self.axis]
        number, size = arithmetic.dtype.type, np.abs(v).astype(arithmetic.dtype)
        inflation = number(arithmetic.inflation(terms))
        moved = 0 if a.e is None else np.sqrt(self._dot(a.e, a.e))
        moved += number(terms**0.5 * _UNDERFLOW)
        own = arithmetic.gamma(terms) / 2 + 2 * arithmetic.contract.accumulate.roundoff
        e = (moved + (size + moved) * number(own)) * inflation
        if arithmetic.may_leave_range:
            grid = arithmetic.contract.accumulate.grid
            e += number((terms * grid.smallest) ** 0.5)
            e[(size + e) ** 2 > grid.largest] = np.inf
        if not arithmetic.variance or a.s is None:
            return e, None
        with np.errstate(divide="ignore", invalid="ignore"):
            s = self._dot(a.square, a.s) / (size * size)
        return e, np.where(size > 0, s, 0).astype(arithmetic.dtype)
