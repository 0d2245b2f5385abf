"""Nodes of functions of one number.

Math, with v = f(a):
    f(a)           e = the largest |f(a + t) − f(a)| for |t| ≤ e_a, plus the ulps of f itself
    |a|, clip(a)   e = e_a, computed exactly
    S = f'(a)² S_a
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...arrays import erf as plain_erf
from .elementwise import Rounded, total_of
from .enclosure import Enclosure
from .nodes import Node


@dataclass(frozen=True)
class Function:
    """f, and the largest change and the derivative of f, from (v, f(v), e_a)."""

    f: Callable[[np.ndarray], np.ndarray]
    change: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ulps: bool = True  # whether f has an error of its own, the contract's exp_ulps


class Applied(Rounded):
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
            if not arithmetic.variance:
                return e, None
            own_s = None
            if f.ulps and arithmetic.functions_show:
                own_s = arithmetic.function_variance(np.abs(v).astype(a.dtype))
            if a.s is None:
                return e, own_s
            slope = f.derivative(a.v, v)
            return e, total_of((slope * slope).astype(a.dtype) * a.s, own_s)

    def _roundoff(self) -> float:
        return self.arithmetic.contract.accumulate.roundoff


class Lipschitz(Node):
    """|f(a) − f(b)| ≤ |a − b|, computed exactly."""

    def __init__(self, a: Node, c: float, f: Callable[[np.ndarray], np.ndarray]):
        super().__init__(a.arithmetic, a.shape)
        self.a, self.c, self.f = a, c, f

    def _evaluate(self) -> np.ndarray:
        return self.f(self.c * self.a.value())

    def _enclose(self, c: float) -> Enclosure:
        a = self.a.enclosure(self.c)
        return self.arithmetic.scaled(Enclosure(self.value(), a.e, a.s, a.dtype), c)


EXP = Function(np.exp, lambda a, v, e: v * np.expm1(e), lambda a, v: v)
LOG = Function(np.log, lambda a, v, e: -np.log1p(-e / a), lambda a, v: 1 / a)
TANH = Function(np.tanh, lambda a, v, e: np.minimum(e, 2), lambda a, v: 1 - v * v)
ERF = Function(
    plain_erf,
    lambda a, v, e: np.minimum(2 / np.pi**0.5 * e, 2),
    lambda a, v: 2 / np.pi**0.5 * np.exp(-a * a),
)
SQRT = Function(
    np.sqrt,
    lambda a, v, e: np.where(a > e, v - np.sqrt(np.maximum(a - e, 0)), np.sqrt(np.abs(a) + e)),
    lambda a, v: np.where(v > 0, 0.5 / v, 0),
)
