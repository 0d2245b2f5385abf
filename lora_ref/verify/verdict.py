"""What is said of one tensor.

exact        every element is the correctly rounded value of W + D*
rounding     a recipe explains every element, or all are within the bounds of a merge's contract
bug          neither; with the diagnosis that explains the data, if there is one
undecidable  the storage grid swallows the update, or so much of it that a bug fits as well
"""

from dataclasses import dataclass, field

from ..checkpoint.header import TensorInfo
from ..verdict.findings import Status
from .diagnose import Diagnosis
from .measure import Measure


@dataclass(frozen=True)
class Verdict:
    """A status and its reasons; `measure` is None where nothing could be measured."""

    name: str
    status: Status
    text: str
    module: str | None = None
    measure: Measure | None = None
    recipe: str | None = None
    diagnoses: list[Diagnosis] = field(default_factory=list)
    info: TensorInfo | None = None


def said(found: list[Diagnosis]) -> str:
    """The first diagnosis in full and the names of the others."""
    first = found[0]
    also = f"; the same data also fit: {', '.join(d.name for d in found[1:])}" if found[1:] else ""
    return f"{first.name}: {first.formula} [{first.how}]{also}"
