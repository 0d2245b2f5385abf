"""What these inputs at this precision could not reveal, before any implementation has run.

For every known mistake the reference and the variance of an honest result say by how many standard
deviations it would stand out. What stands out by fewer than 8 is UNDECIDABLE whatever the kernel
does, and the report says which inputs would show it.

Math:
    signal as in `signature`; with k times as many rows it is about √k times as large, and with a
    unit roundoff u' about u/u' times.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .contract import Contract
from .grids import FLOAT32, Grid
from .matched_filter import LEAST_SIGNAL, why_undecidable
from .mistakes.advice import advice_for
from .noise import Arrays
from .oracle import Oracle
from .signature import Signature
from .view import view


@dataclass(frozen=True)
class Power:
    """Whether a mistake would be seen: by how much, why not, and what to do about it."""

    name: str
    signal: float
    effect: float
    reason: str = ""
    advice: str = ""

    @property
    def is_decidable(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        if self.is_decidable:
            return f"{self.name}: would stand out by {self.signal:.3g} standard deviations"
        return f"{self.name}: UNDECIDABLE, {self.reason}; {self.advice}"


def power(oracle: Oracle, contract: Contract, variance: Arrays) -> tuple[Power, ...]:
    """One for each mistake that the kernel can have, from reference and variance alone."""
    seen = view(oracle, contract, variance)
    found = (s for mistake in seen.oracle.mistakes for s in seen.signatures(mistake))
    return tuple(_power(s, oracle) for s in found if not s.where)


def blind_spots(oracle: Oracle, contract: Contract, variance: Arrays) -> tuple[str, ...]:
    """A sentence for each mistake that would not be seen."""
    found = power(oracle, contract, variance)
    return tuple(str(p) for p in found if not p.is_decidable)


def _power(s: Signature, oracle: Oracle) -> Power:
    effect = _effect(s)
    reason = why_undecidable(s)
    if not reason:
        return Power(s.mistake.name, s.signal, effect)
    grid = min((s.mutant.noises[n].grid for n in s.D), key=lambda g: g.precision)
    if s.signal > 0:
        reason = f"{reason}: it changes {_list(s.D)} by {effect:.2g} of the norm at {grid.name}"
    return Power(s.mistake.name, s.signal, effect, reason, _advice(s, oracle, grid))


def _effect(s: Signature) -> float:
    """The largest relative change of an output, in the norm."""
    sizes, outputs = [0.0], s.mutant.outputs
    for n in s.D:
        right = s.mutant.noises[n].reference
        size = float(np.linalg.norm(right))
        if size > 0 and np.isfinite(size):
            sizes.append(float(np.linalg.norm(outputs[n] - right)) / size)
    return max(sizes)


def _advice(s: Signature, oracle: Oracle, grid: Grid) -> str:
    """Inputs that would show it."""
    ways = [t for t in [advice_for(s.mistake, oracle, changes=s.signal > 0)] if t]
    if 0 < s.signal < LEAST_SIGNAL:
        ways.append(f"about {(LEAST_SIGNAL / s.signal) ** 2:.2g} times as many rows")
    if s.signal > 0 and grid.precision < FLOAT32.precision:
        ways.append("float32 inputs")
    return f"to see it: {'; or '.join(ways)}" if ways else "no larger inputs of this kind show it"


def _list(names: Mapping[str, object]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
