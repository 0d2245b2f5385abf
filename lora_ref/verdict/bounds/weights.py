"""Softmax weights, the same again from a stored logsumexp, and log-softmax.

Math, with d_j the most that the logit z_j − max z may be off, relative factors e^{±d_j}:
    d_j = e_j + u (|z_j − m| + 2 e_j + 2 e_max) + 2 ulps u
    x = e^d − 1, y = 1 − e^−d, X = Σ p x, Y = Σ p y (the interval is exact, and cancels nothing):
        p⁺ − p = p ((1 − p) x + Y − p y) / (1 + p x − Y + p y)
        p − p⁻ = p ((1 − p) y + X − p x) / (1 − p y + X − p x)
        e = the larger, plus (K + 3) u p
    again:  exp(z' − logsumexp) does not normalise, so e = p (e^(d + log Σ p e^d + lse) − 1)
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

from .arithmetic import Arithmetic
from .enclosure import Enclosure, is_power_of_two
from .nodes import Node

EXCLUDED = -(2.0**60)  # additive masks of finite numbers mean this or less

_LOST = 60.0  # logits that may be off by so much say nothing about the weights


class Logits:
    """z with what is masked left out: values, errors, and the sums along the last axis."""

    def __init__(self, z: Enclosure, keep: np.ndarray | None, arithmetic: Arithmetic):
        self.arithmetic, dtype = arithmetic, arithmetic.dtype
        v = z.v if keep is None else np.where(keep, z.v, -np.inf)
        with np.errstate(invalid="ignore", over="ignore"):
            top = v.max(axis=-1, keepdims=True)
            self.shifted = v - np.where(np.isfinite(top), top, 0.0)
            p = np.exp(self.shifted)
            total = p.sum(axis=-1, keepdims=True)
            p /= np.where(total == 0, 1.0, total)
        self.v, self.p, self.s = v, p, z.s
        self.log_total = np.abs(top + np.log(np.where(total == 0, 1.0, total)))
        self.e = np.zeros(v.shape, dtype) if z.e is None else z.e
        if keep is not None:
            self.e = np.where(keep, self.e, dtype.type(0))

    def relative(self) -> np.ndarray:
        """d: the most that each exp(z − max z) may be off, as an exponent."""
        contract, number = self.arithmetic.contract, self.arithmetic.dtype.type
        u = contract.accumulate.roundoff
        d = np.where(np.isfinite(self.shifted), -self.shifted, 0).astype(self.arithmetic.dtype)
        d += 2 * self.e + 2 * self.e.max(axis=-1, keepdims=True, initial=0)
        d *= number(u)
        d += self.e
        d += number(2 * contract.exp_ulps * u)
        return d


class Weights(Node):
    """softmax of z along the last axis."""

    def __init__(self, z: Node, c: float, keep: np.ndarray | None):
        super().__init__(z.arithmetic, z.shape)
        self.z, self.c, self.keep = z, c, keep
        self._logits: Logits | None = None

    def logits(self) -> Logits:
        if self._logits is None:
            self._logits = Logits(self.z.enclosure(self.c), self.keep, self.arithmetic)
        return self._logits

    def _evaluate(self) -> np.ndarray:
        return self.logits().p

    def _enclose(self, c: float) -> Enclosure:
        arithmetic, logits = self.arithmetic, self.logits()
        number, p = arithmetic.dtype.type, logits.p.astype(arithmetic.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            e = _interval(p, logits.relative())
            e += p * number(arithmetic.gamma(p.shape[-1] + 2))
            e[np.isnan(e)] = np.inf
        s = _variance(p, logits.s) if arithmetic.variance else None
        stored = arithmetic.store(logits.p, e, s, size=p).times(c)
        return stored if is_power_of_two(c) else arithmetic.rounded(stored)


class WeightsAgain(Node):
    """The weights as exp(z − logsumexp z), where the normalisation no longer cancels errors."""

    def __init__(self, weights: Weights):
        super().__init__(weights.arithmetic, weights.shape)
        self.weights = weights

    def _evaluate(self) -> np.ndarray:
        return self.weights.value()

    def _enclose(self, c: float) -> Enclosure:
        arithmetic, logits = self.arithmetic, self.weights.logits()
        number, p = arithmetic.dtype.type, logits.p.astype(arithmetic.dtype)
        u = arithmetic.contract.accumulate.roundoff
        with np.errstate(over="ignore", invalid="ignore"):
            d = logits.relative()
            grown = np.log1p((p * np.expm1(d)).sum(axis=-1, keepdims=True))
            grown += (3 * u * logits.log_total + (2 * p.shape[-1] + 8) * u).astype(p.dtype)
            size = np.where(np.isfinite(logits.v), np.abs(logits.v), 0).astype(p.dtype)
            d += size * number(u)
            d += grown
            e = np.expm1(d, out=d)
            e *= p
            e[np.isnan(e)] = np.inf
        s = _variance(p, logits.s) if arithmetic.variance else None
        stored = arithmetic.store(logits.p, e, s, size=p).times(c)
        return stored if is_power_of_two(c) else arithmetic.rounded(stored)


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
        shifted = self.logits().shifted
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    def _enclose(self, c: float) -> Enclosure:
        arithmetic, logits = self.arithmetic, self.logits()
        u = arithmetic.contract.accumulate.roundoff
        p, v = logits.p.astype(arithmetic.dtype), self.value()
        d = logits.relative()
        e = d + np.log1p((p * np.expm1(d)).sum(axis=-1, keepdims=True))
        e += (2 * u * np.abs(v) + (p.shape[-1] + 8) * u).astype(p.dtype)
        s = None
        if arithmetic.variance and logits.s is not None:
            s = logits.s * (1 - 2 * p) + (p * p * logits.s).sum(axis=-1, keepdims=True)
        stored = arithmetic.store(v, e, s).times(c)
        return stored if is_power_of_two(c) else arithmetic.rounded(stored)


def _interval(p: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The larger half of the exact interval, at most 1; d is overwritten."""
    lost = d.max(axis=-1, keepdims=True, initial=0) > _LOST
    x = np.expm1(d, out=d)
    y = x / (1 + x)
    px, py = p * x, p * y
    up = x - px
    up += py.sum(axis=-1, keepdims=True) - py
    X_rest = px.sum(axis=-1, keepdims=True) - px
    down = y - py
    down += X_rest
    up /= 1 + px - (py.sum(axis=-1, keepdims=True) - py)
    down /= 1 - py + X_rest
    e = np.maximum(up, down, out=up)
    e *= p
    if lost.any():
        e[np.broadcast_to(lost & np.isfinite(d), e.shape)] = 1  # some distribution, but any
    return e


def _variance(p: np.ndarray, s: np.ndarray | None) -> np.ndarray | None:
    if s is None:
        return None
    square = p * p
    return square * (s * (1 - 2 * p) + (square * s).sum(axis=-1, keepdims=True))
