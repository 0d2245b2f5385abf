"""What is said of the outputs of a kernel: one `Finding` a tensor, one `Outcome` for all.

exact        every element is the correctly rounded value
rounding     every element is within the bound of the contract, and the errors look random
suspect      within the bound, but not what random roundings leave; statistics, no proof
bug          an element is outside the bound: no evaluation that the contract admits gives it
undecidable  the contract admits everything for some elements, and nothing else is wrong
"""

from dataclasses import dataclass
from enum import StrEnum

from .contract import Contract


class Status(StrEnum):
    """In order of rising severity."""

    EXACT = "exact"
    ROUNDING = "rounding"
    UNDECIDABLE = "undecidable"
    SUSPECT = "suspect"
    BUG = "bug"


class State(StrEnum):
    """What the numbers say about one known mistake."""

    PRESENT = "PRESENT"
    EXCLUDED = "EXCLUDED"
    UNDECIDABLE = "UNDECIDABLE"


LOST = "most elements that could show it are NaN or infinite"
DISTURBED = ("another error hides it", "not this mistake as it is known", LOST)


@dataclass(frozen=True)
class Diagnosis:
    """How much of a known mistake is in the outputs: `share` 1 is all of it, 0 nothing.

    `error` is the standard deviation of `share`; `signal` is how many standard deviations the
    whole mistake would stand out by. Below 8 nothing is decided: these inputs at this precision
    cannot show it. `reason` says why nothing is decided, and `advice` which inputs would show the
    mistake. `outputs` are the names of those that it changes.
    """

    name: str
    formula: str
    state: State
    share: float
    error: float
    signal: float
    reason: str = ""
    outputs: tuple[str, ...] = ()
    advice: str = ""

    @property
    def is_blind(self) -> bool:
        """Whether it is the inputs that cannot show the mistake, and not what else is wrong."""
        return self.state is State.UNDECIDABLE and not self.reason.endswith(DISTURBED)


@dataclass(frozen=True)
class Gain:
    """A path and its strength in the `outputs` that it is in, 1 if right, with its error.

    Rounding alone may bring it down to `least`, or up to `most`.
    """

    name: str
    value: float
    error: float
    outputs: tuple[str, ...] = ()
    least: float = 1.0
    most: float = 1.0

    def is_off(self, slack: float = 2.0**-8) -> bool:
        """Whether it is not 1, beyond its error and what rounding the factor itself can do."""
        beyond = max(self.value - self.most, self.least - self.value)
        return beyond > 6 * self.error + slack

    def __str__(self) -> str:
        return f"{self.name} path {self.value:.5g} ± {self.error:.2g}"


@dataclass(frozen=True)
class Finding:
    """The verdict on one tensor, with its figures.

    `ratio` is the largest error in units of its bound, at the index `worst`; `ulps` is that
    error in ulps of the output's grid. `max_z` and `rms_z` are the largest and the root mean
    square error in standard deviations of the variance model (None: not asked for).
    """

    name: str
    status: Status
    reason: str
    shape: tuple[int, ...]
    ratio: float = 0.0
    worst: tuple[int, ...] = ()
    actual: float = 0.0
    expected: float = 0.0
    bound: float = 0.0
    ulps: float = 0.0
    outside: int = 0
    undecidable: int = 0
    max_z: float | None = None
    rms_z: float | None = None
    known: int = 0
    where: tuple[str, ...] = ()

    def line(self) -> str:
        """One line for a report: "y: rounding, worst error/bound 0.82"."""
        if self.status is Status.EXACT:
            return f"{self.name}: {self.status}"
        if self.status is Status.UNDECIDABLE and self.reason:
            return f"{self.name}: {self.status}, {self.reason}"
        left = f", {self.undecidable:,} undecidable" if self.undecidable else ""
        return f"{self.name}: {self.status}, worst error/bound {self.ratio:.3g}{left}"


@dataclass(frozen=True)
class Outcome:
    """The verdict on all outputs that were judged together.

    `audit` says what an implementation does instead of what it claims, `power` which mistakes
    these inputs could not have shown, and which inputs would.
    """

    contract: Contract
    findings: tuple[Finding, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    gains: tuple[Gain, ...] = ()
    audit: tuple[str, ...] = ()
    power: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The most severe one."""
        order = list(Status)
        return max((f.status for f in self.findings), key=order.index, default=Status.EXACT)

    def finding(self, name: str) -> Finding:
        """That of the tensor `name`."""
        return next(f for f in self.findings if f.name == name)

    @property
    def present(self) -> tuple[Diagnosis, ...]:
        """The known mistakes that are in the outputs."""
        return tuple(d for d in self.diagnoses if d.state is State.PRESENT)
