"""Does some recipe explain a tensor, element by element? And if not all of it, how much?

`fit` looks for a way (a recipe and the grids it runs on) whose interval holds every element. A
small sample spread over the tensor refutes nearly all ways at once, because a way that explains
everything explains the sample; the survivors are then held against the whole tensor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..verdict.grids import FLOAT32
from .measure import Pair, Take, row_blocks, sample_of
from .updates import EVERY, Columns, LowRank, Terms, in_order
from .ways import Way, ways

FIRST_LOOK = 8  # rows of the sample that every way is tried on
TOGETHER = 3  # ways held against the whole tensor in one pass


@dataclass(frozen=True)
class Fit:
    """A way that explains a tensor: elements inside its interval, and those equal bit by bit."""

    way: Way
    inside: int
    equal: int
    elements: int

    @property
    def is_bitwise(self) -> bool:
        return self.equal == self.elements

    def describe(self, update: LowRank) -> str:
        """One clause, for a report."""
        name = self.way.name(update)
        if self.is_bitwise:
            return f"{name}: bit for bit"
        moved, wrong = self.inside - self.equal, self.elements - self.inside
        said = f"{name}: bit for bit but {moved:,} of {self.elements:,} that the sum's order moves"
        return f"{said} and {wrong:,} that it does not explain" if wrong else said


def fit(
    pair: Pair,
    update: LowRank,
    rng: np.random.Generator,
    base: Take | None = None,
    tolerated: float = 0.0,
    among: Sequence[Way] | None = None,
) -> Fit | None:
    """The likeliest way that explains every element, or all but a tolerated share; or None.

    `among` are the ways that are tried, without it all.
    """
    # A base that is not the tensor's own may have been held in float32 before the merge.
    alive = list(among or ways(pair.base_grid if base is None else FLOAT32, pair.grid))
    base = base or pair.base
    rows, columns = sample_of(pair.shape, rng)
    for some in (rows[:: max(1, len(rows) // FIRST_LOOK)], rows):
        least = (1 - 2 * tolerated) * len(some) * len(columns)
        counts = _counts(pair, base, update, alive, some, columns)
        alive = [way for way, inside, _ in counts if inside >= least]
    for start in range(0, len(alive), TOGETHER):
        found = _fit_all(pair, base, update, alive[start : start + TOGETHER], tolerated)
        if found:
            return max(found, key=lambda f: (f.inside, f.equal))
    return None


def _counts(
    pair: Pair,
    base: Take,
    update: LowRank,
    alive: Sequence[Way],
    rows: np.ndarray,
    columns: Columns,
) -> Iterator[tuple[Way, int, int]]:
    """(way, elements inside its interval, elements equal to its value) of a block."""
    W, M = base(rows, columns), pair.merged(rows, columns)
    ready: dict[tuple, tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float, Terms]] = {}
    for way in alive:
        key = (way.recipe.prepare, way.rounding)
        if key not in ready:
            prepared = way.prepared(update)
            product = *prepared.product(rows, columns), in_order(prepared, rows, columns)
            ready[key] = product, prepared.scale, Terms(prepared, rows, columns)
        value, low, high = way.interval(W, *ready[key])
        equal = value == M
        inside = equal | ((low <= M) & (high >= M))
        yield way, int(inside.sum()), int(equal.sum())


def _fit_all(
    pair: Pair, base: Take, update: LowRank, alive: list[Way], tolerated: float
) -> list[Fit]:
    total = int(np.prod(pair.shape))
    inside, equal, seen = dict.fromkeys(alive, 0), dict.fromkeys(alive, 0), 0
    for rows in row_blocks(pair.shape):
        seen += len(rows) * pair.shape[1]
        for way, in_count, equal_count in list(_counts(pair, base, update, alive, rows, EVERY)):
            inside[way] += in_count
            equal[way] += equal_count
        alive = [way for way in alive if seen - inside[way] <= tolerated * total]
        if not alive:
            return []
    return [Fit(way, inside[way], equal[way], total) for way in alive]
