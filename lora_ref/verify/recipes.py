"""Recipes: the orders of rounding in which frameworks merge, one formula each.

A merge is one map, W' = W + s B A, and many computations of it. A recipe states one of them as a
function of the exact product p = L R, so that a stored tensor can be compared with it bit by bit:

    correctly rounded           round(W + s p)
    float32                     round(f32(W + f32(s · f32(p))))
    delta rounded first         round(W + round(f32(s · f32(p))))
    …

`round` rounds to the grid that is computed on, `f32` to float32 (float64 where that grid is
float64). The product is summed by some BLAS in an order nobody states, which moves it by at most
γ |L| |R|, γ = (r + 3) u / (1 − (r + 3) u). Every recipe is monotone in p, so the values that this
freedom can produce lie between the recipe at p − γ|L||R| and at p + γ|L||R|: an element inside
that interval, which nearly always is one number, is explained by the recipe. The order that every
CPU's matrix product was seen to take for a small rank, k = 0, 1, …, with a fused multiply-add, is
the one whose bits are compared (`updates.in_order`).

Recipes that add the rank-one terms in turn have no such freedom: a term is a single product.

Source:
    PEFT 0.21.2, tuners/lora/layer.py, Linear.merge (safe and unsafe) and get_delta_weight; the
    bound is Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..verdict.grids import FLOAT32, FLOAT64, Grid
from .updates import Part

Array = np.ndarray


@dataclass(frozen=True)
class Rounding:
    """The roundings of a recipe: to the grid of the sum, to that of factors and update (`low`),
    and to the accumulator's."""

    grid: Grid
    update: Grid

    def store(self, v: Array) -> Array:
        return self.grid.round(v)

    def low(self, v: Array) -> Array:
        return self.update.round(v)

    @property
    def accumulator(self) -> Grid:
        return FLOAT64 if self.grid.precision > FLOAT32.precision else FLOAT32

    def acc(self, v: Array) -> Array:
        return self.accumulator.round(v)

    def scaled(self, s: float, p: Array) -> Array:
        """s p in the accumulator, where s is a number of the accumulator too."""
        return self.acc(self.acc(np.array([s])) * p)


@dataclass(frozen=True)
class Recipe:
    """One order of rounding.

    `finish` maps (W, p, s) to the merged value; `prepare` rounds the factors and the scale before
    the product is taken; `exact` marks the recipe whose product is exact, `in_turn` one that
    merges the rank-one terms one after the other.
    """

    name: str
    formula: str
    finish: Callable[[Rounding, Array, Array, float], Array]
    prepare: Callable[[Rounding, Part, float], tuple[Array, Array, float]]
    exact: bool = False
    in_turn: bool = False


def _as_stored(r: Rounding, part: Part, s: float) -> tuple[Array, Array, float]:
    return part.L, part.R, s


def _rounded_factors(r: Rounding, part: Part, s: float) -> tuple[Array, Array, float]:
    return r.low(part.L), r.low(part.R), s


def _rounded_all(r: Rounding, part: Part, s: float) -> tuple[Array, Array, float]:
    return r.low(part.L), r.low(part.R), float(r.low(np.array([s]))[0])


def _scale_in_left(r: Rounding, part: Part, s: float) -> tuple[Array, Array, float]:
    return r.low(r.scaled(s, r.low(part.L))), r.low(part.R), 1.0


def _scale_in_right(r: Rounding, part: Part, s: float) -> tuple[Array, Array, float]:
    return r.low(part.L), r.low(r.scaled(s, r.low(part.R))), 1.0


def _root_in_both(r: Rounding, part: Part, s: float) -> tuple[Array, Array, float]:
    root = abs(s) ** 0.5
    return (
        _scale_in_left(r, part, math.copysign(root, s))[0],
        _scale_in_right(r, part, root)[1],
        1.0,
    )


def _once(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return r.store(W + s * p)


def _accumulated(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return r.store(r.acc(W + r.scaled(s, r.acc(p))))


def _fused(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return r.store(r.acc(W + s * p))


def _delta_first(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return r.store(r.acc(W + r.low(r.scaled(s, r.acc(p)))))


def _product_first(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return r.store(r.acc(W + r.low(r.scaled(s, r.low(r.acc(p))))))


def _product_kept(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return r.store(r.acc(W + r.scaled(s, r.low(r.acc(p)))))


def _in_halves(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return _delta_first(r, _delta_first(r, W, p, s / 2), p, s / 2)


def _product_in_halves(r: Rounding, W: Array, p: Array, s: float) -> Array:
    return _product_first(r, _product_first(r, W, p, s / 2), p, s / 2)


RECIPES = (
    Recipe("correctly rounded", "round(W + s·BA)", _once, _as_stored, exact=True),
    Recipe("float32, rounded once", "round(f32(W + f32(s·f32(BA))))", _accumulated, _as_stored),
    Recipe("delta rounded first", "round(W + round(f32(s·f32(BA))))", _delta_first, _as_stored),
    Recipe("one fused product", "round(f32(W + s·BA))", _fused, _as_stored),
    Recipe(
        "16-bit factors, float32 product",
        "round(f32(W + f32(s·f32(round(B)·round(A)))))",
        _accumulated,
        _rounded_factors,
    ),
    Recipe(
        "16-bit factors, delta rounded first",
        "round(W + round(f32(s·f32(round(B)·round(A)))))",
        _delta_first,
        _rounded_factors,
    ),
    Recipe(
        "product rounded, then scaled", "round(W + round(s·round(BA)))", _product_first, _as_stored
    ),
    Recipe(
        "16-bit factors, product rounded, then scaled",
        "round(W + round(s·round(round(B)·round(A))))",
        _product_first,
        _rounded_factors,
    ),
    Recipe(
        "product rounded, sum in float32", "round(W + f32(s·round(BA)))", _product_kept, _as_stored
    ),
    Recipe(
        "16-bit factors, product rounded, sum in float32",
        "round(W + f32(s·round(round(B)·round(A))))",
        _product_kept,
        _rounded_factors,
    ),
    Recipe(
        "16-bit factors and scale, product rounded, then scaled",
        "round(W + round(round(s)·round(round(B)·round(A))))",
        _product_first,
        _rounded_all,
    ),
    Recipe(
        "scale folded into {left}",
        "round(W + round(round(s·{left})·…))",
        _delta_first,
        _scale_in_left,
    ),
    Recipe(
        "scale folded into {right}",
        "round(W + round(…·round(s·{right})))",
        _delta_first,
        _scale_in_right,
    ),
    Recipe(
        "scale folded into {left}, one sum", "round(W + round(s·{left})·…)", _fused, _scale_in_left
    ),
    Recipe(
        "scale folded into {right}, one sum",
        "round(W + …·round(s·{right}))",
        _fused,
        _scale_in_right,
    ),
    Recipe(
        "root of the scale in both factors",
        "round(W + round(round(√s·B)·round(√s·A)))",
        _delta_first,
        _root_in_both,
    ),
    Recipe(
        "root of the scale in both factors, one sum",
        "round(W + round(√s·B)·round(√s·A))",
        _fused,
        _root_in_both,
    ),
    Recipe(
        "added in two halves",
        "round(round(W + D/2) + D/2), D/2 = round(f32(s/2·f32(BA)))",
        _in_halves,
        _as_stored,
    ),
    Recipe(
        "product rounded, added in two halves",
        "round(round(W + D/2) + D/2), D/2 = round(s/2·round(round(B)·round(A)))",
        _product_in_halves,
        _rounded_factors,
    ),
    Recipe(
        "rank-one terms in turn",
        "round(… round(W + round(s·round(b₁a₁))) … + round(s·round(b_r a_r))), b and a rounded",
        _product_first,
        _rounded_factors,
        in_turn=True,
    ),
    Recipe(
        "rank-one terms in turn, each in float32",
        "round(… round(W + s·b₁a₁) … + s·b_r a_r)",
        _fused,
        _as_stored,
        in_turn=True,
    ),
)

ACCUMULATED, DELTA_FIRST = RECIPES[1], RECIPES[2]
