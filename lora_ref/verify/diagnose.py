"""Which entry of the catalogue explains a wrong tensor, and how well?

Every hypothesis predicts the tensor. A small sample ranks them by how far the prediction is off,
in ulps and on a logarithmic scale, so that one outlier decides nothing; the best are then held
against the whole tensor by the same recipes as the reference was. A hypothesis that explains every
element is a diagnosis; several that do are all named. If none does, the nearest one is reported
with the share of the difference that it explains.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from .catalogue import CATALOGUE, Hypothesis, Suspect
from .fit import fit
from .measure import Take, row_blocks, sample_of
from .updates import EVERY, LowRank
from .ways import Way, plain_ways

MOST_TRIED = 12
MOST_AT_LENGTH = 3  # tried with every way to merge, not only the likeliest
NEAR_BEST = 0.5  # doublings of the error within which a hypothesis is still worth a full look
WORTH_NAMING = 0.95  # of the squared difference from the reference


@dataclass(frozen=True)
class Diagnosis:
    """A bug, the formula it made of the merge, and how well that explains the tensor."""

    name: str
    formula: str
    explained: float
    how: str
    proved: bool = False  # element by element


def diagnose(suspect: Suspect, rng: np.random.Generator) -> list[Diagnosis]:
    """The hypotheses that explain the tensor; else the nearest, if it is near; else nothing."""
    near = _best(suspect, rng)
    likeliest = plain_ways(suspect.pair.base_grid, suspect.pair.grid)
    found = _proved(suspect, near, rng, likeliest) or _proved(suspect, near[:MOST_AT_LENGTH], rng)
    return found or _nearest(suspect, near)


def _best(suspect: Suspect, rng: np.random.Generator) -> list[Hypothesis]:
    """The hypotheses nearest to a sample, best first; the others are not kept while it looks."""
    rows, columns = sample_of(suspect.pair.shape, rng)
    scored: list[tuple[float, Hypothesis]] = []
    for hypothesis in _hypotheses(suspect):
        insort(
            scored, (_distance(suspect, hypothesis, rows, columns), hypothesis), key=itemgetter(0)
        )
        del scored[MOST_TRIED:]
    return [h for d, h in scored if d <= scored[0][0] + NEAR_BEST]


def _hypotheses(suspect: Suspect) -> Iterator[Hypothesis]:
    for entry in CATALOGUE:
        yield from entry(suspect)


def _distance(
    suspect: Suspect, hypothesis: Hypothesis, rows: np.ndarray, columns: np.ndarray
) -> float:
    """The mean of log₂(1 + |M − prediction| / ulp) over the sample, less a share for outliers."""
    grid = suspect.pair.grid
    W = (hypothesis.base or suspect.pair.base)(rows, columns)
    M = suspect.pair.merged(rows, columns)
    wanted = grid.round(W + hypothesis.update.delta(rows, columns))
    error = np.abs(M - wanted) / grid.ulp(np.maximum(np.abs(M), np.abs(W)))
    error = np.where(np.isfinite(error), error, 1e6)
    return float(np.mean(np.log2(1 + error)))


def _proved(
    suspect: Suspect,
    near: list[Hypothesis],
    rng: np.random.Generator,
    among: list[Way] | None = None,
) -> list[Diagnosis]:
    """The hypotheses that some way makes explain the elements: all of them, or all but few."""
    found: list[tuple[int, Diagnosis]] = []  # with the number of elements given bit by bit
    for h in near:
        if h.tolerated and any(d.explained == 1.0 for _, d in found):
            continue  # something explains every element: no need for what explains nearly all
        best = fit(suspect.pair, h.update, rng, h.base, h.tolerated, among)
        if best is not None:
            how, share = best.describe(h.update), best.inside / best.elements
            found.append((best.equal, Diagnosis(h.name, h.formula, share, how, proved=True)))
    found.sort(key=lambda pair: (-pair[1].explained, -pair[0]))
    exact = _distinct([d for _, d in found if d.explained == 1.0])
    return exact or [d for _, d in found[:1]]


def _distinct(found: list[Diagnosis]) -> list[Diagnosis]:
    """One diagnosis a name, and the scale as a bare number only if it has no name."""
    by_name = {d.name: d for d in reversed(found)}
    if len(by_name) > 1:
        by_name.pop("scale", None)
    return list(reversed(by_name.values()))


def _nearest(suspect: Suspect, near: list[Hypothesis]) -> list[Diagnosis]:
    """The hypothesis that explains most of the squared difference from the reference."""
    shares = [_explained(suspect, h.base or suspect.pair.base, h.update) for h in near]
    if not shares or max(shares) < WORTH_NAMING:
        return []
    best = near[int(np.argmax(shares))]
    how = f"explains {max(shares):.2%} of the squared difference from the reference"
    return [Diagnosis(best.name, best.formula, max(shares), how)]


def _explained(suspect: Suspect, base: Take, update: LowRank) -> float:
    """1 − ‖M − hypothesis‖² / ‖M − reference‖²."""
    left = off = 0.0
    for rows in row_blocks(suspect.pair.shape):
        M = suspect.pair.merged(rows, EVERY)
        wanted = suspect.pair.base(rows, EVERY) + suspect.update.delta(rows)
        left += float(np.nansum((M - base(rows, EVERY) - update.delta(rows)) ** 2))
        off += float(np.nansum((M - wanted) ** 2))
    return 1 - left / off if off > 0 else 0.0
