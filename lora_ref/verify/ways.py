"""Ways: a recipe on the grids that it computes and stores on, and what it leaves open.

A recipe does not say on which dtype it runs: a merge may be computed in a coarser one than it is
stored in, and its base or its update may have been rounded to a coarser one first. `ways` has all
of these, likeliest first.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..verdict.grids import BFLOAT16, FLOAT16, FLOAT32, Grid
from .recipes import RECIPES, Array, Recipe, Rounding
from .updates import LowRank, Part, Terms


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
        self, W: Array, product: tuple[Array, Array, Array], s: float, terms: Terms
    ) -> tuple[Array, Array, Array]:
        """(value, lowest, highest) that the recipe stores, given L R, |L| |R| and `in_order`."""
        rounding, rank = self.rounding, len(terms)
        if self.held is not None:
            W = self.held.round(W.copy())
        if self.recipe.in_turn:
            for p in terms:
                W = self.stored.round(self.recipe.finish(rounding, W, p, s))
            return W, W, W
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
