"""What honest implementations score in the statistics: the check on the variance model itself.

The model takes roundings to be independent. Where a rounding is shared (D of a row of attention),
or partial sums of one sign grow together, or an accumulator truncates, honest errors are larger
than it says. So before errors are suspected, the contract is emulated, with the choices that it
leaves open made in several ways, and what these score counts as honest.

Math:
    suspected if max z > TRUST · max(limit, that of the emulations), likewise the rms of z
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .accumulate import Sequential, Split
from .bounds import Bounds
from .choices import Choices, Fusion, ScaleSite
from .contract import Contract
from .emulated import emulate
from .oracle import Oracle
from .statistics import Statistics, statistics

CHOICES = (
    Choices(),
    Choices(alternative=1, recompute=True, tiled=True),
    Choices(scale=ScaleSite.ACCUMULATOR, fusion=Fusion.ELEMENTWISE),
    Choices(order=Sequential()),
    Choices(order=Split(4), scale=ScaleSite.LEFT),
    Choices(merged=True),
    Choices(merged=True, order=Sequential()),
)


def honest_outputs(
    oracle: Oracle, contract: Contract, choices: Iterable[Choices] = CHOICES
) -> Iterator[dict[str, np.ndarray]]:
    """The outputs of emulated implementations, without choices that the contract forbids."""
    for choice in choices:
        try:
            choice.check(contract)
            yield emulate(oracle, contract, choice)
        except ValueError:  # also an order too deep for a sum of this length, or no merged route
            continue


@dataclass(frozen=True, eq=False)
class Emulations:
    """The outputs of emulated implementations, computed when they are first asked for."""

    oracle: Oracle
    contract: Contract

    @cached_property
    def outputs(self) -> tuple[dict[str, np.ndarray], ...]:
        return tuple(honest_outputs(self.oracle, self.contract))


def honest_statistics(
    honest: Iterable[Mapping[str, np.ndarray]], found: Mapping[str, Bounds]
) -> dict[str, Statistics]:
    """By output, the largest that an honest implementation scored."""
    worst: dict[str, Statistics] = {}
    for outputs in honest:
        for name, y in outputs.items():
            b = found[name]
            with np.errstate(invalid="ignore"):
                one = statistics(np.where(np.isfinite(b.e), y - b.v, np.nan), b.s)
            worst[name] = one.larger(worst.get(name, one))
    return worst
