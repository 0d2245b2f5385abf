"""Logits row by row: softmax weights, and how far they may be off.

Math, with d_j the most that the logit z_j − max z may be off, relative factors e^{±d_j}:
    d_j = e_j + 2 u (|z_j − m| + e_j + e_max) + 2 ulps u
    x = e^d − 1, y = 1 − e^−d, X = Σ p x, Y = Σ p y (the interval is exact, and cancels nothing):
        p⁺ − p = p ((1 − p) x + Y − p y) / (1 + p x − Y + p y)
        p − p⁻ = p ((1 − p) y + X − p x) / (1 − p y + X − p x)
        e = the larger, plus γ (p + e)
Limits:
    float32 would lose the differences where d is large, so those rows take float64.
"""

from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .chunks import row_chunks
from .enclosure import Enclosure

_UNDERFLOW = 1024.0  # exp(−1024) is 0 on every grid
_SMALLEST_EXP = 2.0**-125  # exp of less may be subnormal in float32, or 0
_LOST = 60.0  # logits that may be off by so much say nothing about the weights
_WIDE = 1.0  # logits that may be off by more need float64
_CANCELS = 2.0**-21  # of p x and Σ p x, which differences of float32 numbers may have lost


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
        outs = [matrix(t) for t in made] if self.p.size else []
        for part in row_chunks(len(outs[0]) if outs else 0, shape[-1]):
            v_, e_, keep_ = given[0][part], given[1][part], given[2]
            keep_ = None if keep_ is None else keep_[part]
            self._weights(v_, keep_, *(outs[i][part] for i in (0, 1, 2, 5, 6)))
            if keep_ is not None:  # what is added to inf leaves NaN
                counts = keep_ | np.isinf(e_) if additive else keep_
                e_ = np.where(counts, e_, e_.dtype.type(0))
            e_ = _without_far(v_ - outs[5][part], e_) if additive else e_
            d = self.relative(outs[0][part], e_)
            self._interval(outs[1][part], outs[2][part], d, outs[3][part], outs[4][part])
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

    def _interval(
        self, p: np.ndarray, size_p: np.ndarray, d: np.ndarray, px: np.ndarray, e: np.ndarray
    ) -> None:
        """p x, and the e of what an accumulator makes of the weights; d is overwritten."""
        number, gamma = self.arithmetic.dtype.type, self.arithmetic.gamma(p.shape[-1] + 2)
        if self.arithmetic.dtype == np.float64:
            _interval(p, d, px, e)
        else:
            wide = d.max(axis=-1, initial=0) > _WIDE
            d64 = d[wide].astype(np.float64)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                _interval(size_p, d, px, e)
                e += px * number(_CANCELS)
                e += size_p * (px.sum(axis=-1, keepdims=True) * number(_CANCELS))
            if len(d64):
                px64, e64 = np.empty_like(d64), np.empty_like(d64)
                _interval(p[wide], d64, px64, e64)
                px[wide], e[wide] = px64, e64
        e *= number(1 + gamma)
        e += size_p * number(gamma)
        e += (size_p > 0) * number(_SMALLEST_EXP)


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


def _without_far(shifted: np.ndarray, e: np.ndarray) -> np.ndarray:
    """e without that of logits so far below the largest that their weights are 0 on every grid.

    A mask of −10⁹ is off by its own half ulp, which says nothing about the others.
    """
    if not e.max(initial=0) > _WIDE:
        return e
    slack = np.where(shifted > -_UNDERFLOW, e, 0).max(axis=-1, keepdims=True)
    return np.where(shifted + e + slack < -_UNDERFLOW, e.dtype.type(0), e)


def matrix(t: np.ndarray) -> np.ndarray:
    """The last axis, and all others as one."""
    return t.reshape(-1, t.shape[-1])


def _rows(t: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`t`, broadcast to a shape, as a matrix of rows."""
    return np.broadcast_to(t, shape).reshape(-1, shape[-1])
