"""Softmax weights, the same again from a stored logsumexp, and log-softmax.

Math, with d_j, p, x and e of `logits`:
    again:  exp(z' − logsumexp) does not normalise: e = p (e^(d + t) − 1), t = log Σ p e^d + …
    log:    e = d_j + log Σ p e^d + u (…)
    S of p: p² ((1 − 2 p) S_z + Σ p² S_z)
Limits:
    The whole softmax is computed on the accumulator's grid, and stored once: no contract asks for
    exp, sum and quotient to be rounded one by one.
Source:
    The rule for attention that recomputes its weights: Dao et al. 2022, arXiv:2205.14135,
    algorithm 4, line 11.
"""

import numpy as np

from .chunks import row_chunks
from .enclosure import Enclosure
from .logits import Logits, matrix
from .nodes import Node

EXCLUDED = -(2.0**60)  # additive masks of finite numbers mean this or less


class Weights(Node):
    """softmax of z along the last axis."""

    def __init__(self, z: Node, c: float, keep: np.ndarray | None, additive: bool = False):
        super().__init__(z.arithmetic, z.shape)
        self.z, self.c, self.keep, self.additive = z, c, keep, additive
        self._logits: Logits | None = None

    def logits(self) -> Logits:
        if self._logits is None:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                enclosure = self.z.enclosure(self.c)
                self._logits = Logits(enclosure, self.keep, self.arithmetic, self.additive)
        return self._logits

    def _evaluate(self) -> np.ndarray:
        return self.logits().p

    def _enclose(self, c: float) -> Enclosure:
        logits = self.logits()
        s = _variance(logits.size_p, logits.s) if self.arithmetic.variance else None
        return _stored(self, logits.e, s, c)


class WeightsAgain(Node):
    """The weights as exp(z − logsumexp z), where the normalisation no longer cancels errors."""

    def __init__(self, weights: Weights):
        super().__init__(weights.arithmetic, weights.shape)
        self.weights = weights

    def _evaluate(self) -> np.ndarray:
        return self.weights.value()

    def _enclose(self, c: float) -> Enclosure:
        """p (e^(d + t) − 1) = p x (1 + T) + p T, with T = e^t − 1 of a row."""
        logits = self.weights.logits()
        u = self.arithmetic.contract.accumulate.roundoff
        with np.errstate(over="ignore", invalid="ignore"):
            grown = np.log1p(logits.px.sum(axis=-1, keepdims=True, dtype=np.float64))
            log_total = np.abs(logits.top + np.log(logits.total))
            t = grown + u * (3 * log_total + np.abs(logits.top) + 2 * self.shape[-1] + 8)
            T = np.expm1(t).astype(self.arithmetic.dtype)
            e = np.empty_like(logits.px)
            given = [matrix(t) for t in (logits.size_p, logits.px, T, e)] if e.size else []
            for part in row_chunks(len(given[0]) if given else 0, self.shape[-1]):
                p_, px_, T_, e_ = (t[part] for t in given)
                np.multiply(px_, 1 + T_, out=e_)
                e_ += p_ * T_
                e_[np.isnan(e_)] = np.inf
        return _stored(self.weights, e, self._variance(logits, log_total), c)

    def _variance(self, logits: Logits, log_total: np.ndarray) -> np.ndarray | None:
        """p² (S_z + Σ p² S_z + what rounding the logsumexp leaves), which do not cancel."""
        arithmetic = self.arithmetic
        if not arithmetic.variance:
            return None
        of_row = np.zeros((), arithmetic.dtype)
        if arithmetic.functions_show:
            of_row = arithmetic.function_variance(log_total.astype(arithmetic.dtype))
        p = logits.size_p
        if logits.s is None:
            return p * p * of_row
        return p * p * (logits.s + (p * p * logits.s).sum(axis=-1, keepdims=True) + of_row)


def _stored(weights: Weights, e: np.ndarray, s: np.ndarray | None, c: float) -> Enclosure:
    """The weights as they are written, within e."""
    arithmetic, logits = weights.arithmetic, weights.logits()
    return arithmetic.scaled(arithmetic.store(logits.p, e, s, size=logits.size_p), c)


class LogWeights(Node):
    """log softmax of z along the last axis."""

    def __init__(self, z: Node, c: float):
        super().__init__(z.arithmetic, z.shape)
        self.z, self.c = z, c
        self._logits: Logits | None = None

    def logits(self) -> Logits:
        if self._logits is None:
            self._logits = Logits(self.z.enclosure(self.c), None, self.arithmetic)
        return self._logits

    def _evaluate(self) -> np.ndarray:
        logits = self.logits()
        return self.z.enclosure(self.c).v - logits.top - np.log(logits.total)

    def _enclose(self, c: float) -> Enclosure:
        arithmetic, logits = self.arithmetic, self.logits()
        p, v, z_e = logits.size_p, self.value(), self.z.enclosure(self.c).e
        d = logits.relative(logits.shifted, np.zeros_like(p) if z_e is None else z_e)
        own = 2 * np.abs(v) + (p.shape[-1] + 8)
        e = d + np.log1p(logits.px.sum(axis=-1, keepdims=True))
        e += (own * arithmetic.contract.accumulate.roundoff).astype(p.dtype)
        s = None
        if arithmetic.variance and logits.s is not None:
            of_row = (p * p * logits.s).sum(axis=-1, keepdims=True)
            s = np.maximum(logits.s * (1 - 2 * p) + of_row, 0)
        return arithmetic.scaled(arithmetic.store(v, e, s), c)


def _variance(p: np.ndarray, s: np.ndarray | None) -> np.ndarray | None:
    if s is None:
        return None
    square = p * p
    of_row = (square * s).sum(axis=-1, keepdims=True)
    return square * np.maximum(s * (1 - 2 * p) + of_row, 0)  # 0 at p = 1, but for rounding
