"""Softmax weights, the same again from a stored logsumexp, and log-softmax.

Math, with d_j the most that the logit z_j − max z may be off, relative factors e^{±d_j}:
    d_j = e_j + 2 u (|z_j − m| + e_j + e_max) + 2 ulps u
    x = e^d − 1, y = 1 − e^−d, X = Σ p x, Y = Σ p y (the interval is exact, and cancels nothing):
        p⁺ − p = p ((1 − p) x + Y − p y) / (1 + p x − Y + p y)
        p − p⁻ = p ((1 − p) y + X − p x) / (1 − p y + X − p x)
        e = the larger, plus (K + 3) u p
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

from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .chunks import row_chunks
from .enclosure import Enclosure
from .nodes import Node

EXCLUDED = -(2.0**60)  # additive masks of finite numbers mean this or less

_UNDERFLOW = 1024.0  # exp(−1024) is 0 on every grid
_SMALLEST_EXP = 2.0**-125  # exp of less may be subnormal in float32, or 0
_LOST = 60.0  # logits that may be off by so much say nothing about the weights


class Logits:
    """z with what is masked left out, row by row: weights p and their e, x = e^d − 1 and p x."""

    def __init__(
        self, z: Enclosure, keep: np.ndarray | None, arithmetic: Arithmetic, additive: bool = False
    ):
        self.arithmetic, self.s, shape = arithmetic, z.s, z.v.shape
        self.p, self.shifted = np.empty(shape), np.empty(shape, arithmetic.dtype)
        self.size_p, self.px, self.e = (np.empty(shape, arithmetic.dtype) for _ in range(3))
        row = (*shape[:-1], 1)
        self.top, self.total = np.empty(row), np.empty(row)
        e = np.zeros((), arithmetic.dtype) if z.e is None else z.e
        given: list[Any] = [_rows(t, shape) for t in (z.v, e)]
        given.append(None if keep is None else _rows(keep, shape))
        made = (self.shifted, self.p, self.size_p, self.px, self.e, self.top, self.total)
        outs = [_matrix(t) for t in made] if self.p.size else []
        for part in row_chunks(len(outs[0]) if outs else 0, shape[-1]):
            v_, e_, keep_ = given[0][part], given[1][part], given[2]
            keep_ = None if keep_ is None else keep_[part]
            self._weights(v_, keep_, *(outs[i][part] for i in (0, 1, 2, 5, 6)))
            if keep_ is not None:  # what is added to inf leaves NaN
                counts = keep_ | np.isinf(e_) if additive else keep_
                e_ = np.where(counts, e_, e_.dtype.type(0))
            d = self.relative(outs[0][part], e_)
            self._interval(outs[2][part], d, outs[3][part], outs[4][part])
        if arithmetic.variance and arithmetic.functions_show:
            own = arithmetic.function_variance(1 - self.shifted)
            self.s = own if self.s is None else own + self.s

    def _weights(
        self,
        v: np.ndarray,
        keep: np.ndarray | None,
        shifted: np.ndarray,
        p: np.ndarray,
        size_p: np.ndarray,
        top: np.ndarray,
        total: np.ndarray,
    ) -> None:
        if keep is not None:
            v = np.where(keep, v, -np.inf)
        np.max(v, axis=-1, keepdims=True, out=top)
        top[top == -np.inf] = 0.0
        np.subtract(v, top, out=p)
        np.maximum(p, -_UNDERFLOW, out=shifted, casting="same_kind")
        np.exp(p, out=p)
        np.sum(p, axis=-1, keepdims=True, out=total)
        total[total == 0] = 1.0
        p /= total
        np.copyto(size_p, p, casting="same_kind")

    def relative(self, shifted: np.ndarray, e: np.ndarray) -> np.ndarray:
        """d: the most that each exp(z − max z) may be off, as an exponent."""
        contract, number = self.arithmetic.contract, self.arithmetic.dtype.type
        u = contract.accumulate.roundoff
        d = shifted * number(-2 * u)
        d += e * number(1 + 2 * u)
        top = e.max(axis=-1, keepdims=True, initial=0)
        d += number(2 * u) * top + number(2 * contract.exp_ulps * u)
        return d

    def _interval(self, p: np.ndarray, d: np.ndarray, px: np.ndarray, e: np.ndarray) -> None:
        """p x, and the e of what an accumulator makes of the weights."""
        _interval(p, d, px, e)
        number = self.arithmetic.dtype.type
        e += p * number(self.arithmetic.gamma(p.shape[-1] + 2))
        e += (p > 0) * number(_SMALLEST_EXP)


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
            given = [_matrix(t) for t in (logits.size_p, logits.px, T, e)] if e.size else []
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


def _interval(p: np.ndarray, d: np.ndarray, px: np.ndarray, e: np.ndarray) -> None:
    """p x and the larger half of the exact interval, at most 1; d is overwritten."""
    most = d.max(axis=-1, keepdims=True, initial=0)
    lost = most > _LOST
    x = np.expm1(d, out=d)
    np.multiply(p, x, out=px)
    y = x / (1 + x)
    py = p * y
    X, Y = (t.sum(axis=-1, keepdims=True) for t in (px, py))
    both = px + py
    down = y - py
    down -= px
    down += X
    down /= (1 + X) - both
    np.subtract(x, px, out=e)
    e -= py
    e += Y
    both += 1 - Y
    e /= both
    np.maximum(e, down, out=e)
    e *= p
    if lost.any():
        e[np.broadcast_to(lost, e.shape) & (p > 0)] = 1  # some distribution, but any
        e[np.broadcast_to(most == np.inf, e.shape)] = np.inf  # or NaN, of ∞ − ∞
    e[np.isnan(e)] = np.inf


def _matrix(t: np.ndarray) -> np.ndarray:
    return t.reshape(-1, t.shape[-1])


def _rows(t: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`t`, broadcast to a shape, as a matrix of rows."""
    return np.broadcast_to(t, shape).reshape(-1, shape[-1])


def _variance(p: np.ndarray, s: np.ndarray | None) -> np.ndarray | None:
    if s is None:
        return None
    square = p * p
    of_row = (square * s).sum(axis=-1, keepdims=True)
    return square * np.maximum(s * (1 - 2 * p) + of_row, 0)  # 0 at p = 1, but for rounding
