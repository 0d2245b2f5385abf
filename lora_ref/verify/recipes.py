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

Source:
    PEFT 0.21.2, tuners/lora/layer.py, Linear.merge (safe and unsafe) and get_delta_weight; the
    bound is Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..verdict.grids import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Grid
from .updates import LowRank, Part

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
    the product is taken; `exact` marks the recipe whose product is exact.
    """

    name: str
    formula: str
    finish: Callable[[Rounding, Array, Array, float], Array]
    prepare: Callable[[Rounding, Part, float], tuple[Array, Array, float]]
    exact: bool = False


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
)

ACCUMULATED, DELTA_FIRST = RECIPES[1], RECIPES[2]


@dataclass(frozen=True)
class Way:
    """A recipe, the grids it computes and stores on, those that W and the update were held on."""

    recipe: Recipe
    grid: Grid
    stored: Grid
    held: Grid | None = None  # None: as in the base
    update: Grid | None = None  # None: the grid computed on

    @property
    def rounding(self) -> Rounding:
        return Rounding(self.grid, self.update or self.grid)

    def name(self, update: LowRank) -> str:
        """For example 'delta rounded first, base rounded to bfloat16 first'."""
        text = self.recipe.name.format(left=update.left, right=update.right)
        if self.held is not None:
            text += f", base rounded to {self.held.name} first"
        if self.update is not None:
            text += f", update in {self.update.name}"
        if self.grid != self.stored:
            text += f", computed in {self.grid.name} and stored in {self.stored.name}"
        return text

    def prepared(self, update: LowRank) -> LowRank:
        """The update with the factors and the scale that the product is taken of."""
        ready = [self.recipe.prepare(self.rounding, p, update.scale) for p in update.parts]
        parts = tuple(Part(p.start, L, R) for p, (L, R, _) in zip(update.parts, ready, strict=True))
        return replace(update, parts=parts, scale=ready[0][2])

    def interval(
        self, W: Array, product: tuple[Array, Array, Array], s: float, rank: int
    ) -> tuple[Array, Array, Array]:
        """(value, lowest, highest) that the recipe stores, given L R, |L| |R| and `in_order`."""
        rounding = self.rounding
        if self.held is not None:
            W = self.held.round(W.copy())
        p, size, ordered = product
        single = not self.recipe.exact and rounding.accumulator is FLOAT32
        u = 2.0 ** -(24 if single else 53)
        freedom = (rank + 3) * u / (1 - (rank + 3) * u) * size
        values = [
            self.stored.round(self.recipe.finish(rounding, W, q, s))
            for q in (ordered if single else p, p - freedom, p + freedom)
        ]
        return values[0], np.minimum(values[1], values[2]), np.maximum(values[1], values[2])


def plain_ways(base: Grid, stored: Grid) -> list[Way]:
    """Those that compute on the grid they store on, from the base as it is or loaded on it."""
    held = (None, stored) if stored.precision < base.precision else (None,)
    return [Way(recipe, stored, stored, h) for h in held for recipe in RECIPES]


def ways(base: Grid, stored: Grid) -> list[Way]:
    """Every way to merge a base on one grid into a tensor on another, likeliest first."""
    found = []
    for grid in (stored, *_coarser(stored)):
        held = [None, *(g for g in (grid, *_coarser(grid)) if g.precision < base.precision)]
        for h in held:
            found += [Way(recipe, grid, stored, h) for recipe in RECIPES]
    for low in _coarser(stored):
        held = [None, *(g for g in _coarser(stored) if g.precision < base.precision)]
        found += [Way(recipe, stored, stored, h, low) for h in held for recipe in RECIPES[2:]]
    return found


def _coarser(grid: Grid) -> list[Grid]:
    return [g for g in (FLOAT32, FLOAT16, BFLOAT16) if g.precision < grid.precision]
