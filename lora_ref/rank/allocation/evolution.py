"""The ranks of all layers over the steps of a training: a record, a table and a picture.

    history = RankHistory()
    history = history.record(step, ranks(state.mask))      state in, state out
    history.table()                                        lines for a terminal
    history.plot()                                         a matplotlib figure

Units:
    A rank is how many triplets count: those of the mask, or λ ≠ 0 (`live_ranks`).
Errors:
    ValueError for a step that is not after the last one, for other layers than the first ones, and
    for a picture of nothing.
Limits:
    The history holds every step that was recorded: record those that allocate.
Source:
    Zhang et al. 2023, arXiv:2303.10512, figure 3, which shows the ranks at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...adapters.adalora import AdaLoRA
from ...arrays import namespace
from ..picture import label_of


def live_ranks(adapters: Mapping[str, AdaLoRA]) -> dict[str, int]:
    """How many λ of each layer are not zero."""
    return {n: int(namespace(a.lam).count_nonzero(a.lam)) for n, a in adapters.items()}


@dataclass(frozen=True)
class RankHistory:
    """Steps in order, and the rank of each layer at each of them."""

    steps: tuple[int, ...] = ()
    ranks: Mapping[str, tuple[int, ...]] | None = None

    def record(self, step: int, ranks: Mapping[str, int]) -> "RankHistory":
        """With one more step."""
        if self.ranks is None:
            return RankHistory((step,), {name: (rank,) for name, rank in ranks.items()})
        if step <= self.steps[-1]:
            raise ValueError(
                f"RankHistory.record: step must be after {self.steps[-1]}, the last one, got {step}"
            )
        if ranks.keys() != self.ranks.keys():
            raise ValueError(
                f"RankHistory.record: ranks must be of {sorted(self.ranks)}, got {sorted(ranks)}"
            )
        longer = {name: (*before, ranks[name]) for name, before in self.ranks.items()}
        return RankHistory((*self.steps, step), longer)

    def table(self) -> str:
        """One line for each layer, one column for each step, and the sum.

        >>> history = RankHistory().record(0, {"q": 4, "v": 4}).record(10, {"q": 1, "v": 3})
        >>> print(history.table())
        step  0  10
        q     4   1
        v     4   3
        all   8   4
        """
        ranks = self.ranks or {}
        total = tuple(sum(at) for at in zip(*ranks.values(), strict=True))
        lines = {"step": self.steps, **ranks, "all": total}
        width = max(len(name) for name in lines)
        widths = [len(str(step)) + 2 for step in self.steps]
        return "\n".join(
            f"{name:<{width}}" + "".join(f"{n:>{w}}" for n, w in zip(numbers, widths, strict=True))
            for name, numbers in lines.items()
        )

    def plot(self) -> Any:
        """A figure: the ranks as colours, a layer a row; needs the [plot] extra."""
        ranks = self.ranks or {}
        if not ranks:
            raise ValueError("RankHistory.plot: there must be a recorded step, got none")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1.5 + 0.3 * len(ranks)), layout="constrained")
        axes = figure.subplots()
        drawn = axes.imshow(
            list(ranks.values()), aspect="auto", interpolation="nearest", cmap="viridis", vmin=0
        )
        axes.set_yticks(range(len(ranks)), [label_of(name) for name in ranks])
        shown = range(0, len(self.steps), max(1, len(self.steps) // 10))
        axes.set_xticks(shown, [str(self.steps[i]) for i in shown])
        axes.set_xlabel("step")
        figure.colorbar(drawn, label="rank")
        return figure
