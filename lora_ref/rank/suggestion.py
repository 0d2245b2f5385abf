"""Which rank would have been enough, judged by the spectra of what was trained.

Math:
    uniform   the least r with Σ_layers Σ_{i≤r} σ² ≥ share · Σ_layers Σ σ²
    ranks     the fewest directions of all layers together that hold the same share: the largest
              σ² of the pool; a layer's rank is how many of them are its own, and at least 1
    full      layers that need every direction they have for the share of their own update
Shapes:
    σ (k,) for each layer
Units:
    share is of Σ ‖ΔW‖² over all layers; ranks are counts.
Errors:
    ValueError for a share outside (0, 1], for no layers, for a layer without singular values or
    with NaN or infinity among them.
Limits:
    A rank is suggested for keeping this update. What a larger rank would have learned is in no
    spectrum: where many layers are full, train with more and look again.
    A direction counts the same in a large and in a small layer, though it costs m + n parameters.
    Layers are added up by ‖ΔW‖², which says little of what each means for the task.
Source:
    The second is the greedy choice that Eckart & Young's theorem makes optimal; compare AdaLoRA
    (arXiv:2303.10512), which spends a budget of triplets over the layers during training.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..arrays import Array
from ..values import checked_finite
from .measures import energy_rank, retained


@dataclass(frozen=True)
class Suggestion:
    """One rank for all layers, a rank for each, and which layers are full.

    `places` is how many directions the uniform rank takes in all layers, `least` the layer of which
    it keeps the least, and how much.
    """

    share: float
    uniform: int
    places: int
    ranks: Mapping[str, int]
    full: tuple[str, ...]
    least: tuple[str, float]

    @property
    def directions(self) -> int:
        """The sum of the ranks of all layers."""
        return sum(self.ranks.values())

    def reasons(self) -> tuple[str, ...]:
        """What the figures mean, a sentence each."""
        count = len(self.ranks)
        name, kept = self.least
        lines = [
            f"rank {self.uniform} keeps {self.share:.0%} of all updates together; "
            f"least kept is {name}, {kept:.1%}",
            f"{self.directions} directions shared out by size keep as much as "
            f"{self.places}, at most {self.uniform} a layer",
        ]
        if self.full:
            lines.append(
                f"{len(self.full)} of {count} layers need every direction they have: "
                "whether more would have served the task is in no spectrum"
            )
        return tuple(lines)


def suggested(spectra: Mapping[str, Array], share: float = 0.99) -> Suggestion:
    """The ranks that keep `share` of the updates whose spectra are given."""
    if not 0 < share <= 1:
        raise ValueError(f"suggested: share must be in (0, 1], got {share}")
    if not spectra:
        raise ValueError("suggested: spectra must have a layer, got none")
    if empty := [name for name, sigma in spectra.items() if sigma.shape[0] == 0]:
        raise ValueError(f"suggested: every spectrum must have a value, got none of {empty[0]}")
    values = {n: np.asarray([float(s) for s in sigma]) for n, sigma in spectra.items()}
    for name, v in values.items():
        checked_finite("suggested", f"spectra[{name!r}]", v)
    top = max(float(v[0]) for v in values.values()) or 1.0
    squares = {n: (v / top) ** 2 for n, v in values.items()}
    uniform = _uniform(squares, share)
    least = min(((n, retained(v, uniform)) for n, v in values.items()), key=lambda pair: pair[1])
    full = tuple(n for n, v in values.items() if energy_rank(v, share) == len(v))
    places = sum(min(len(v), uniform) for v in values.values())
    return Suggestion(share, uniform, places, _shared_out(squares, share), full, least)


def _uniform(squares: Mapping[str, np.ndarray], share: float) -> int:
    by_place = np.zeros(max(len(v) for v in squares.values()))
    for v in squares.values():
        by_place[: len(v)] += v
    return _first(np.cumsum(by_place), share)


def _shared_out(squares: Mapping[str, np.ndarray], share: float) -> dict[str, int]:
    pool = np.concatenate(list(squares.values()))
    owners = np.repeat(np.arange(len(squares)), [len(v) for v in squares.values()])
    order = np.argsort(-pool, kind="stable")
    chosen = owners[order[: _first(np.cumsum(pool[order]), share)]]
    mine = np.bincount(chosen, minlength=len(squares))
    return {name: max(1, int(n)) for name, n in zip(squares, mine, strict=True)}


def _first(kept: np.ndarray, share: float) -> int:
    """How many terms it takes until the sum is `share` of all."""
    return 1 + int(np.count_nonzero(kept < share * kept[-1]))
