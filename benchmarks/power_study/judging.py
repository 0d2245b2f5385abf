"""The one place that asks for the verdict, and what the study keeps of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_ref.verdict.bounds import Bounds, bounds
from lora_ref.verdict.contract import Contract
from lora_ref.verdict.findings import Finding, Outcome, State, Status
from lora_ref.verdict.judge import judge
from lora_ref.verdict.oracle import Oracle

from .cases import Case
from .implementation import Outputs
from .oracles import oracle_of, reference


@dataclass(frozen=True)
class Verdict:
    """An outcome in short: the worst status, that of each tensor, and what was diagnosed.

    `missed` are the known mistakes that these inputs could not have shown.
    """

    status: Status
    findings: tuple[Finding, ...]
    present: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()

    @property
    def alarm(self) -> bool:
        """Whether a user is told that something is wrong."""
        return self.status in (Status.BUG, Status.SUSPECT)

    @property
    def outside(self) -> bool:
        """Whether the certified bound alone says so."""
        return self.status is Status.BUG

    def record(self) -> dict[str, Any]:
        """What is written down of a correct implementation's verdict."""
        bounded = [f.ratio for f in self.findings if np.isfinite(f.ratio)]
        return {
            "tensors": len(self.findings),
            "elements": sum(int(np.prod(f.shape)) for f in self.findings),
            "undecidable elements": sum(f.undecidable for f in self.findings),
            "bug": sum(f.status is Status.BUG for f in self.findings),
            "suspect": sum(f.status is Status.SUSPECT for f in self.findings),
            "undecidable": sum(f.status is Status.UNDECIDABLE for f in self.findings),
            "exact": sum(f.status is Status.EXACT for f in self.findings),
            "worst ratio": max(bounded, default=0.0),
            "present": list(self.present),
        }


def ask(
    actual: Outputs,
    case: Case,
    contract: Contract,
    *,
    only: tuple[str, ...] | None = None,
    diagnose: bool = True,
) -> Verdict:
    """The verdict on these outputs, or on some of them alone."""
    oracle = _oracle(case)
    shown = actual if only is None else {n: actual[n] for n in only if n in actual}
    left_out = tuple(n for n in reference(case) if n not in shown)
    outcome = judge(
        shown,
        oracle,
        contract,
        left_out=left_out,
        known_mistakes=diagnose,
        found=_bounds(case, contract),
    )
    return _in_short(outcome)


def _in_short(outcome: Outcome) -> Verdict:
    named = {state: tuple(d.name for d in outcome.diagnoses if d.state is state) for state in State}
    return Verdict(
        outcome.status,
        outcome.findings,
        named[State.PRESENT],
        named[State.EXCLUDED],
        named[State.UNDECIDABLE],
    )


def _bounds(case: Case, contract: Contract) -> dict[str, Bounds]:
    """Those of the latest case, computed once a contract."""
    oracle = _oracle(case)
    if not _BOUNDS or _BOUNDS[0][0] is not oracle:
        _BOUNDS[:] = [(oracle, {})]
    known = _BOUNDS[0][1]
    if contract not in known:
        known[contract] = bounds(oracle, contract)
    return known[contract]


_BOUNDS: list[tuple[Oracle, dict[Contract, dict[str, Bounds]]]] = []
_LAST: dict[int, tuple[Case, Oracle]] = {}


def _oracle(case: Case) -> Oracle:
    """The oracle of the latest case: one object, so that what is cached by oracle is found."""
    if id(case) not in _LAST:
        _LAST.clear()
        _LAST[id(case)] = (case, oracle_of(case))
    return _LAST[id(case)][1]


def same_mistake(case: Case, present: str, names: tuple[str, ...]) -> bool:
    """Whether a diagnosis is one of `names`, or gives the same numbers as one of them here."""
    if present in names:
        return True
    known = {m.name: m for m in _oracle(case).mistakes}
    here = known[present].outputs(_oracle(case)) if present in known else None
    if here is None:
        return False
    right = reference(case)
    for other in (known[n].outputs(_oracle(case)) for n in names if n in known):
        if other is None:
            continue
        pairs = [(here.get(n, right[n]), other.get(n, right[n])) for n in right]
        if all(np.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True) for a, b in pairs):
            return True
    return False
