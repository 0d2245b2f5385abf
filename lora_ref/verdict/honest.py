"""What is known of an honest kernel's errors, before and beside those that one has made.

Math:
    base + update, where |update| is below half an ulp of a base that was rounded before, gives
    the base again: the update is lost by rounding alone, always and not at random. `Honest` has
    the errors of kernels that lose it so.
    Up to an ulp or so, what rounding leaves of the update still depends on the order of the
    operations: `near_base` says where that is.
Source:
    60 % of the weights do not change when an update of 0.2 % is merged at bfloat16; a filter for
    "not applied" then finds it in correct kernels.
    Rounding is independent of what is rounded where that spreads over more than an ulp: Widrow
    and Kollár, Quantization Noise, 2008, section 5.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .contract import Contract
from .mistakes.mutation import changed, reference, value_of
from .noise import Arrays, Noise, Noises, noise_of
from .oracle import Mistake, Oracle


def noises_of(
    oracle: Oracle, contract: Contract, variance: Arrays, actual: Arrays | None = None
) -> dict[str, Noise]:
    """The noise of every output with a variance, and an actual value if those are given."""
    grid, shared = contract.output, variance if actual is None else {*variance} & {*actual}
    return {
        n: noise_of(t, variance[n], grid, None if actual is None else actual[n])
        for n, t in reference(oracle).items()
        if n in shared
    }


@dataclass(frozen=True, eq=False)
class Honest:
    """Kernels that are exact but for roundings that can swamp an update; `errors` are theirs.

    `base` is what the update is added to; `merged` the error, in σ, of a merged weight that is
    stored.
    """

    contract: Contract
    noises: Noises
    base: Arrays
    merged: Arrays | None

    def errors(self, outputs: Arrays) -> Iterator[dict[str, np.ndarray]]:
        """In σ: of rounding these outputs, and of adding their update to a rounded base."""
        grid, base, stored = self.contract.output, self.base, self._stored
        rounded = {n: grid.round(t * 1.0) - t for n, t in outputs.items()}
        yield {n: self.noises[n].in_sigma(t) for n, t in rounded.items()}
        if base:
            added = {n: grid.round(stored[n] + (t - base[n])) - t for n, t in outputs.items()}
            yield {n: self.noises[n].in_sigma(t) for n, t in added.items()}

    @cached_property
    def reach(self) -> dict[str, np.ndarray]:
        """In σ: as large as these errors can be, beside u |D| of a mutated output."""
        grid = self.contract.output
        reach = {
            n: grid.roundoff * abs(t.reference) + grid.smallest for n, t in self.noises.items()
        }
        for n, t in self.base.items():
            reach[n] = reach[n] + abs(self._stored[n] - t)
        return {n: self.noises[n].in_sigma(t) for n, t in reach.items()}

    @cached_property
    def right_errors(self) -> tuple[Arrays, ...]:
        """Those of the right kernel, and of its merged form."""
        own = self.errors({n: noise.reference for n, noise in self.noises.items()})
        return (*own, *(() if self.merged is None else (self.merged,)))

    def near_base(self, name: str, mutated: np.ndarray) -> np.ndarray:
        """Where neither the right nor the mutated update is as large as an ulp of the output."""
        if name not in self.base:
            return np.zeros(mutated.shape, dtype=bool)
        ulp, base = self.noises[name].ulp, self.base[name]
        return self._near[name] & (abs(mutated - base) < ulp)

    @cached_property
    def _near(self) -> dict[str, np.ndarray]:
        noises = self.noises
        return {n: abs(noises[n].reference - t) < noises[n].ulp for n, t in self.base.items()}

    @cached_property
    def _stored(self) -> dict[str, np.ndarray]:
        return {n: self.contract.store.round(t * 1.0) for n, t in self.base.items()}


def honest_kernels(oracle: Oracle, contract: Contract, noises: Noises) -> Honest:
    """The honest kernels that a contract admits."""
    adapter = next((a for a in oracle.inputs.values() if hasattr(a, "merge")), None)
    W = value_of(oracle, "W")
    if adapter is None or W is None:
        return Honest(contract, noises, {}, None)
    base = changed(oracle, noises, scale=0.0)
    if not contract.forms.merged:
        return Honest(contract, noises, base, None)
    merged = adapter.merge(W)
    moved = changed(oracle, W=W + (contract.store.round(merged * 1.0) - merged))
    errors = {n: noise.in_sigma(moved[n] - noise.reference) for n, noise in noises.items()}
    return Honest(contract, noises, base, errors)


def mutated(mistake: Mistake, oracle: Oracle) -> dict[str, np.ndarray] | None:
    """The outputs that a mistake changes."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return mistake.outputs(oracle)
