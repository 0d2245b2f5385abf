"""A hypothesis: what a merge would be if it had one particular bug.

Every entry of the catalogue turns a tensor that is wrong (`Suspect`) into hypotheses, each a
base and an update from which the wrong tensor would follow exactly as the right one does from the
right base and update: by some recipe, element by element. That is how a diagnosis is proved and
not guessed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..measure import EVERY, Measure, Pair, Take, row_blocks, take_from
from ..updates import Columns, LowRank


@dataclass(frozen=True)
class Hypothesis:
    """One bug: its name in a word or two, the formula that it makes of the merge, its two inputs.

    `base` None is the tensor's own; `tolerated` is the share of elements that may stay
    unexplained where the bug cannot be reproduced to the last element.
    """

    name: str
    formula: str
    update: LowRank
    base: Take | None = None
    tolerated: float = 0.0


@dataclass(frozen=True)
class Surroundings:
    """What else the merge could have mixed up: other tensors, other updates, the head geometry."""

    tensors: Mapping[str, tuple[int, ...]]
    tensor: Callable[[str], np.ndarray]
    updates: Mapping[str, LowRank]
    config: Mapping[str, Any] = field(default_factory=dict)

    def number(self, *names: str) -> int | None:
        """The first of these entries of the model's config.json that is a positive integer."""
        for name in names:
            value = self.config.get(name)
            if isinstance(value, int) and value > 0:
                return value
        return None


@dataclass(frozen=True)
class Suspect:
    """A tensor that no recipe explains, with the least-squares factors of what was done to it."""

    name: str
    pair: Pair
    update: LowRank
    measure: Measure
    around: Surroundings

    @property
    def adapted(self) -> bool:
        return not self.update.is_zero

    def left_estimate(self, k: int = 0) -> np.ndarray:
        """L̂ = D Rᵀ (R Rᵀ)⁻¹ of part k, what s L would be if D = L̂ R there: (rows, r)."""
        part = self.update.parts[k]
        inverse = np.linalg.pinv(part.R)
        blocks = row_blocks((len(part.L), self.pair.shape[1]))
        return np.concatenate([self.done(part.start + rows) @ inverse for rows in blocks])

    def right_estimate(self, k: int = 0) -> np.ndarray:
        """R̂ = (Lᵀ L)⁻¹ Lᵀ D of part k, what s R would be if D = L R̂ there: (r, columns)."""
        part = self.update.parts[k]
        inverse = np.linalg.pinv(part.L)
        total = np.zeros(part.R.shape)
        for rows in row_blocks((len(part.L), self.pair.shape[1])):
            total += inverse[:, rows] @ self.done(part.start + rows)
        return total

    def done(self, rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        """D = merged − base, zero where that is not finite."""
        D = self.pair.merged(rows, columns) - self.pair.base(rows, columns)
        return np.where(np.isfinite(D), D, 0.0)

    def unchanged_lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Which rows, and which columns, of merged are still the base's."""
        rows_same = np.ones(self.pair.shape[0], dtype=bool)
        columns_same = np.ones(self.pair.shape[1], dtype=bool)
        for rows in row_blocks(self.pair.shape):
            cast = self.pair.grid.round(self.pair.base(rows, EVERY))
            same = cast == self.pair.merged(rows, EVERY)
            rows_same[rows] = same.all(axis=1)
            columns_same &= same.all(axis=0)
        return rows_same, columns_same

    def others(self) -> Iterator[str]:
        """Other base tensors of the same shape: same name in other layers first."""
        # A tensor that the adapter brings along, or that is tied, is not among the base's.
        own = tuple(self.around.tensors.get(self.name, self.pair.shape))
        last = self.name.rsplit(".", 2)[-2:]
        same = [n for n, s in self.around.tensors.items() if tuple(s) == own and n != self.name]
        yield from sorted(same, key=lambda n: n.rsplit(".", 2)[-2:] != last)[:OTHERS]

    def other(self, name: str) -> Take:
        """How to read another base tensor, in this one's view."""

        def take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
            # Mapped for one block at a time: pages that were read count as memory.
            return take_from(self.around.tensor(name).reshape(self.pair.shape))(rows, columns)

        return take


OTHERS = 96  # other tensors that are tried; a model has one of a shape per layer
Entry = Callable[[Suspect], Iterator[Hypothesis]]
