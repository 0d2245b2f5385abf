"""What is known of an honest kernel's errors, before and beside those that one has made.

Math:
    base + update, where |update| is below half an ulp of a base that was rounded before, gives
    the base again: the update is lost by rounding alone, always and not at random. `Honest` has
    the errors of kernels that lose it so.
Source:
    60 % of the weights do not change when an update of 0.2 % is merged at bfloat16; a filter for
    "not applied" then finds it in correct kernels.
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

    `bases` is what the update is added to, as it is stored; `merged` the error, in σ, of a merged
    weight that is.
    """

    contract: Contract
    noises: Noises
    bases: Arrays
    merged: Arrays | None

    def errors(self, outputs: Arrays) -> Iterator[dict[str, np.ndarray]]:
        """In σ: of rounding these outputs, and of adding their update to a rounded base."""
        grid, bases = self.contract.output, self.bases
        rounded = {n: grid.round(t * 1.0) - t for n, t in outputs.items()}
        yield {n: self.noises[n].in_sigma(t) for n, t in rounded.items()}
        if bases:
            added = {n: grid.round(bases[n] + (t - bases[n])) - t for n, t in outputs.items()}
            yield {n: self.noises[n].in_sigma(t) for n, t in added.items()}

    @cached_property
    def right_errors(self) -> tuple[Arrays, ...]:
        """Those of the right kernel, and of its merged form."""
        own = self.errors({n: noise.reference for n, noise in self.noises.items()})
        return (*own, *(() if self.merged is None else (self.merged,)))


def honest_kernels(oracle: Oracle, contract: Contract, noises: Noises) -> Honest:
    """The honest kernels that a contract admits."""
    adapter = next((a for a in oracle.inputs.values() if hasattr(a, "merge")), None)
    W = value_of(oracle, "W")
    if adapter is None or W is None:
        return Honest(contract, noises, {}, None)
    base = changed(oracle, noises, scale=0.0)
    bases = {n: contract.store.round(t * 1.0) for n, t in base.items()}
    if not contract.forms.merged:
        return Honest(contract, noises, bases, None)
    merged = adapter.merge(W)
    moved = changed(oracle, W=W + (contract.store.round(merged * 1.0) - merged))
    errors = {n: noise.in_sigma(moved[n] - noise.reference) for n, noise in noises.items()}
    return Honest(contract, noises, bases, errors)


def mutated(mistake: Mistake, oracle: Oracle) -> dict[str, np.ndarray] | None:
    """The outputs that a mistake changes."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return mistake.outputs(oracle)
