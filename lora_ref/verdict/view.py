"""What the filters of known mistakes look at: outputs, their noise, and what honest kernels do.

It is computed when it is first asked for, and once: the diagnosis, the path gains and the power
report look at the same.
"""

from dataclasses import dataclass
from functools import cached_property

from .contract import Contract
from .honest import Honest, honest_kernels, mutated, noises_of
from .noise import Arrays, Noises
from .oracle import Mistake, Oracle
from .residual import Residual
from .sample import in_parts, sample_of
from .signature import Signature, signatures


@dataclass(frozen=True, eq=False)
class View:
    """Outputs by name, in float64, in all rows or in a `part` of them; without them, right ones.

    `variance` is that of an honest result under the contract. Outputs that are not in both do not
    count.
    """

    oracle: Oracle
    contract: Contract
    variance: Arrays
    actual: Arrays | None = None
    part: float = 1.0

    @cached_property
    def noises(self) -> Noises:
        return noises_of(self.oracle, self.contract, self.variance, self.actual)

    @cached_property
    def honest(self) -> Honest:
        return honest_kernels(self.oracle, self.contract, self.noises)

    @property
    def errors(self) -> Residual:
        return Residual({n: noise.z for n, noise in self.noises.items()}, self.noises)

    def signatures(self, mistake: Mistake) -> tuple[Signature, ...]:
        """What a mistake would look like here."""
        outputs = mutated(mistake, self.oracle)
        return tuple(signatures(mistake, outputs, self.noises, self.honest))

    def sampled(self) -> "View | None":
        """The same in a sample of the rows, if there are enough of them."""
        sample = sample_of(self.oracle)
        if sample is None:
            return None
        actual = None if self.actual is None else sample.of(self.actual)
        variance = sample.of(self.variance)
        return View(sample.oracle, self.contract, variance, actual, sample.part)


def view(
    oracle: Oracle, contract: Contract, variance: Arrays, actual: Arrays | None = None
) -> View:
    """The view of an oracle's outputs, whose products are computed once for all mistakes."""
    return View(in_parts(oracle), contract, variance, actual)
