"""Exact tests of whatever is made of sums and products: linear layers, tables, merged weights.

Math:
    The inputs are small sparse integers and s is a power of two, or 3. `counted` proves that every
    partial sum is on the grid, so each order, each fusion, the merged and the factored form, all
    give the one exact result, and anything else is a bug.
Limits:
    Weights of real size are seen by no exact input, nor are a wrong dtype or an overflow.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..grids import Grid
from ..oracle import Mistake, Oracle
from .draw import Draft, Round, exact_round
from .failure import Failure, Implementation, compared

Outputs = Mapping[str, np.ndarray]
SCALES = (2.0, 0.5, 3.0)  # one a round


@dataclass(frozen=True)
class ProductsCase:
    """Rounds of exact inputs, each with other numbers."""

    rounds: tuple[Round, ...]


def exact_rounds(draft: Callable[[float], Draft], grid: Grid, seed: int = 0) -> tuple[Round, ...]:
    """An `exact_round` at each of `SCALES`: `draft(s)` makes the draft at the scale s."""
    return tuple(exact_round(draft(s), grid, seed + i) for i, s in enumerate(SCALES))


def exact_values(mine: Implementation, case: Any) -> Iterator[Failure]:
    """Every output, value or gradient, equals the exact result number for number.

    Where the oracle of a round has no cotangent, gradients are not looked at.
    """
    seen: list[tuple[Oracle, Outputs, Outputs]] = []
    for a_round in case.rounds:
        actual: Outputs = mine(*a_round.arguments)
        expected = a_round.oracle.reference()
        if a_round.oracle.cotangent is None:
            actual = {"y": actual["y"]}
        seen.append((a_round.oracle, actual, expected))
    for _, actual, expected in seen:
        for failure in compared("exact_values", actual, expected, "is not the exact result"):
            yield Failure(failure.test, failure.says + explained(seen), failure.where)


def explained(seen: list[tuple[Oracle, Outputs, Outputs]]) -> str:
    """The known mistakes that give the actual outputs of all rounds exactly, as a clause.

    `seen` has each round's oracle, its actual outputs and the expected ones.
    """
    names = [m.name for m in seen[0][0].mistakes if all(_gives(m, *each) for each in seen)]
    return f": {' or '.join(names)}" if names else ""


def _gives(mistake: Mistake, oracle: Oracle, actual: Outputs, expected: Outputs) -> bool:
    with np.errstate(all="ignore"):  # a mistake may divide by 0
        made = mistake.outputs(oracle)
    if made is None:
        return False
    return all(np.array_equal(t, made.get(name, expected[name])) for name, t in actual.items())
