"""Does some recipe explain a tensor, element by element? And if not all of it, how much?

`fit` looks for a way (a recipe and the grids it runs on) whose interval holds every element. A
small sample spread over the tensor refutes nearly all ways at once, because a way that explains
everything explains the sample; the survivors are then held against the whole tensor.

`envelope` is what remains when no recipe is found: whether every element is within the bound that
any order of the same roundings keeps, and whether what is left over is free of the update.

Math:
    E = ulp(|W| + |D*|) + 3/2 ulp(D*) + (4 + min(r, 5√r)) u |s| |L||R| + e             per element
    e = |s| ((|L| + τ)(|R| + τ) − |L||R| + (r + 2) τ), τ the least positive number of the grid
        the factors, the product and the scale rounded to the stored dtype, the product summed
        in it (worst case r u, probable 5√r u), and the sum rounded twice, as in two halves
    β = ⟨M − round(W + D*), D*⟩ / ‖D*‖²                                      0 if nothing is wrong
Source:
    Higham, Mary, A new approach to probabilistic rounding error analysis, 2019, theorem 2.4: √r
    in place of r.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..verdict.grids import FLOAT32
from .measure import Pair, Take, row_blocks, sample_of
from .recipes import Way, ways
from .updates import EVERY, Columns, LowRank, Part, in_order

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
    ready: dict[tuple, tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]] = {}
    for way in alive:
        key = (way.recipe.prepare, way.rounding)
        if key not in ready:
            prepared = way.prepared(update)
            product = *prepared.product(rows, columns), in_order(prepared, rows, columns)
            ready[key] = product, prepared.scale
        value, low, high = way.interval(W, *ready[key], update.rank)
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


@dataclass(frozen=True)
class Envelope:
    """Whether every element is inside the bound, and the share β of the update left over."""

    outside: int
    beta: float
    beta_error: float
    beta_lost: float  # the most that underflow of factors and products can make of it
    precision: int

    @property
    def holds(self) -> bool:
        """No element outside, and no more of the update missing than rounding s can explain."""
        allowed = 5 * self.beta_error + 3 * 2.0**-self.precision + self.beta_lost
        return self.outside == 0 and abs(self.beta) <= allowed

    @property
    def is_blind(self) -> bool:
        """Whether honest underflow could take a quarter of the update away."""
        return self.beta_lost > 0.25


def envelope(pair: Pair, update: LowRank) -> Envelope:
    """The bound of any order of the same roundings, and the regression on the update.

    One pass, which ends where the first elements are outside: nothing else matters then.
    """
    grid, s, r = pair.grid, abs(update.scale), update.rank
    steps = (4 + min(r, 5 * r**0.5)) * 2.0**-grid.precision + (r + 2) * 2.0**-24
    least = 2.0 ** (grid.emin - grid.precision + 1)
    parts = [Part(p.start, abs(p.L) + least, abs(p.R) + least) for p in update.parts]
    padded = replace(update, parts=tuple(parts))
    outside, sums = 0, np.zeros(4)
    for rows in row_blocks(pair.shape):
        W, M = pair.base(rows, EVERY), pair.merged(rows, EVERY)
        p, size = update.product(rows, EVERY)
        lost = np.maximum(padded.product(rows)[0] - size, 0.0) + (r + 2) * least
        D = update.scale * p
        bound = grid.ulp(abs(W) + abs(D)) + 1.5 * grid.ulp(D) + s * (steps * size + lost)
        outside += int((~(np.abs(M - (W + D)) <= bound)).sum())
        if outside:
            break
        rest = M - grid.round(W + D)
        sums += [np.vdot(rest, D), np.vdot(rest * rest, D * D), np.vdot(s * lost, abs(D)),
                 np.vdot(D, D)]  # fmt: skip
    along, scatter, taken, wanted = (float(t) for t in sums)
    wanted = wanted or 1.0
    return Envelope(outside, along / wanted, scatter**0.5 / wanted, taken / wanted, grid.precision)
