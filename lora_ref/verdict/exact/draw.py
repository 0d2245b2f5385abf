"""Sparse small integers for exact tests, drawn so that no row and no column is empty.

`exact_round` draws the inputs of an oracle at falling densities until `Counted` proves that
nothing is ever rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..grids import Grid
from ..oracle import Oracle
from .counted import counted

DENSITIES = (0.5, 0.3, 0.18, 0.1, 0.05, 0.02, 0.0)
Draw = Callable[..., np.ndarray]


@dataclass(frozen=True, eq=False)
class Round:
    """An oracle with exact inputs, and the arguments of the author's function for them."""

    oracle: Oracle
    arguments: tuple[Any, ...]


Draft = Callable[[Draw, np.random.Generator], Round]


class NotExact(ValueError):
    """No inputs of these shapes are exact on this grid."""


def sparse(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> np.ndarray:
    """±1 and ±2: a permutation's pattern over the last two axes, and a random part of the rest.

    The pattern alone gives every row and every column of each matrix an element, so that an
    implementation that leaves one out cannot be right.

    >>> t = sparse(np.random.default_rng(0), (3, 5), 0.0)
    >>> np.count_nonzero(t, axis=0), np.count_nonzero(t, axis=1) > 0
    (array([1, 1, 1, 1, 1]), array([ True,  True,  True]))
    """
    if len(shape) < 2:
        return sparse(rng, (*shape, 1), density).reshape(shape)
    *batch, rows, columns = shape
    values = rng.choice([-2.0, -1.0, 1.0, 2.0], size=shape)
    kept = rng.random(shape) < density
    for place in np.ndindex(*batch):
        across, down = rng.permutation(rows), rng.permutation(columns)
        i = np.arange(max(rows, columns))
        if rows and columns:
            kept[place][across[i % rows], down[i % columns]] = True
    return np.where(kept, values, 0.0)


def exact_round(draft: Draft, grid: Grid, seed: int) -> Round:
    """`draft` at the largest density at which every partial sum is exact on the grid.

    `draft(draw, rng)` makes a round with draw(*shape) for its arrays. The grid is the coarsest
    that any sum is stored or accumulated on. Inputs are ±1 and ±2, which float8 holds as well, so
    for float8 inputs it is that of the intermediates.

    Errors:
        NotExact if not even the sparsest inputs are.
    """
    largest = 0.0
    for density in DENSITIES:
        rng = np.random.default_rng(seed)
        found = draft(partial(_drawn, rng, density), rng)
        largest = quanta(found.oracle)
        if largest <= 2.0**grid.precision:
            return found
    raise NotExact(
        f"exact_round: partial sums must stay below 2^{grid.precision} quanta on {grid.name}, and "
        f"the sparsest inputs of these shapes reach {largest:g}; give smaller shapes"
    )


def _drawn(rng: np.random.Generator, density: float, *shape: int) -> np.ndarray:
    return sparse(rng, shape, density)


def quanta(oracle: Oracle) -> float:
    """The largest number of quanta in any partial sum of any route, forward and backward."""
    kernels = [None] if oracle.merged is None else [None, oracle.merged]
    outputs = [t for kernel in kernels for t in oracle.outputs(counted, kernel).values()]
    return max(t.worst for t in outputs)
