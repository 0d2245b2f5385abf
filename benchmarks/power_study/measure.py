"""One unit of the sweep: a case with everything that is measured on it, as a JSON record."""

import traceback
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from lora_ref.verdict import signature

from .cases import Case, draw
from .implementation import Implementation, Outputs, plain
from .implementations_all import MODULES, all_implementations, eager, siblings
from .judging import ask, same_mistake
from .mutant import Mutant, changes
from .mutants import MUTANTS
from .oracles import oracle_of, reference
from .rivals import severities
from .tier_zero import Subject, exact_failures, prepared

FORWARD = ("y",)


@dataclass(frozen=True)
class Unit:
    """What to measure: `sound` counts false alarms on any case, `train` gives the rivals their
    thresholds, `test` compares methods on correct implementations and mutants of other seeds,
    `exact` runs the tests that choose their own inputs."""

    role: str
    kind: str
    dtype: str
    seed: int
    modules: tuple[str, ...] = tuple(MODULES)

    @property
    def key(self) -> str:
        return f"{self.role}/{self.kind}/{self.dtype}/{self.seed}"


def measure(unit: Unit) -> dict[str, Any]:
    """The record of a unit; what goes wrong is part of it, with no runs."""
    case = draw(unit.kind, unit.dtype, unit.seed, planted=unit.role != "sound")
    try:
        with np.errstate(all="ignore"):
            found = _ROLES[unit.role](case, unit)
    except Exception:
        found = {"error": traceback.format_exc(limit=-3), "runs": [], "mutants": []}
    return {"key": unit.key, **asdict(unit), "regime": case.regime, **found}


def _sound(case: Case, unit: Unit) -> dict[str, Any]:
    """Every correct implementation against its own contract."""
    runs = []
    for one in _all(unit.modules):
        if one.takes(case):
            contract = one.contract(case.dtype)
            verdict = ask(one.run(case), case, contract, diagnose=case.seed % 4 == 0)
            runs.append({"implementation": one.name, "contract": contract.name})
            runs[-1] |= verdict.record()
    return {"runs": runs}


def _train(case: Case, unit: Unit) -> dict[str, Any]:
    """Severities of correct outputs, by rival."""
    baseline, right = eager(case).run(case), reference(case)
    runs = [
        {"implementation": one.name, "severity": severities(found, right, baseline, case.dtype)}
        for one in _plain_siblings(case)
        for found in [one.run(case)]
    ]
    return {"runs": runs}


def _test(case: Case, unit: Unit) -> dict[str, Any]:
    """The same with our verdict, and all of it for each mutant in one of the implementations."""
    baseline, honest = eager(case).run(case), _plain_siblings(case)
    correct = [
        {"implementation": one.name, **_compared(case, one.run(case), baseline)} for one in honest
    ]
    return {"runs": correct, "mutants": _planted(case, honest, baseline)}


def _planted(
    case: Case, honest: tuple[Implementation, ...], baseline: Outputs
) -> list[dict[str, Any]]:
    known = {m.name for m in oracle_of(case).mistakes}
    found = []
    for i, mutant in enumerate(MUTANTS):
        if case.kind not in mutant.kinds:
            continue
        order = case.rng(11, i).permutation(len(honest))
        for sibling in (honest[k] for k in order):
            outputs = mutant.planted(case, sibling)
            changed = () if outputs is None else changes(outputs, sibling.run(case))
            if changed:
                record = _described(mutant, sibling, changed, known)
                record |= _compared(case, outputs, baseline, mutant, changed)
                found.append(record)
                break
    return found


def _whole(name: str) -> str:
    """The mistake that is in some outputs only, by its name."""
    for suffix in (signature.FORWARD, signature.BACKWARD):
        name = name.removesuffix(suffix)
    return name


def _exact(case: Case, unit: Unit) -> dict[str, Any]:
    """Correct implementations and mutants under the exact tests."""
    honest = _plain_siblings(prepared(case))
    arguments = case.kind, case.dtype, case.seed
    runs = [
        {"implementation": one.name, "failures": [str(f) for f in found]}
        for one in honest
        for found in [exact_failures(Subject(one, None, *arguments))]
    ]
    planted = []
    for i, mutant in enumerate(MUTANTS):
        if case.kind in mutant.kinds:
            sibling = honest[int(case.rng(12, i).integers(len(honest)))]
            subject = Subject(sibling, mutant, *arguments)
            seen = bool(exact_failures(subject))
            if subject.changed:
                described = _described(mutant, sibling, (), set())
                planted.append(described | {"seen": seen})
    return {"runs": runs, "mutants": planted}


def _described(
    mutant: Mutant, sibling: Implementation, changed: tuple[str, ...], known: set[str]
) -> dict[str, Any]:
    return {
        "mutant": mutant.name,
        "gross": mutant.gross,
        "held out": mutant.held_out,
        "sibling": sibling.name,
        "changed": list(changed),
        "catalogued": any(name in known for name in mutant.names),
    }


def _compared(
    case: Case,
    outputs: Outputs,
    baseline: Outputs,
    mutant: Mutant | None = None,
    changed: tuple[str, ...] = FORWARD,
) -> dict[str, Any]:
    """What every method says of these outputs, all of them and the forward alone."""
    found: dict[str, Any] = {
        "severity": severities(outputs, reference(case), baseline, case.dtype),
        "all": _ours(case, outputs, None, mutant),
    }
    if "y" in changed:
        found["forward"] = _ours(case, outputs, FORWARD, mutant)
    return found


def _ours(
    case: Case, outputs: Outputs, only: tuple[str, ...] | None, mutant: Mutant | None
) -> dict[str, Any]:
    contract = plain(case.dtype)
    blind = ask(outputs, case, contract, only=only, diagnose=False)
    full = ask(outputs, case, contract, only=only)
    found: dict[str, Any] = {
        "bound": blind.outside,
        "statistics": blind.alarm,
        "catalogue": full.alarm,
        "status": str(full.status),
        "present": list(full.present),
    }
    if mutant is not None:
        found["diagnosis"] = _diagnosis(case, full.present, mutant)
    return found


def _diagnosis(case: Case, present: tuple[str, ...], mutant: Mutant) -> str:
    """right, wrong, akin or undecided."""
    if not present:
        return "undecided"
    # Several that fit alike are one diagnosis, "one or another".
    named = {_whole(part) for name in present for part in name.split(" or ")}
    if any(same_mistake(case, name, mutant.names) for name in named):
        return "right"
    return "akin" if named & set(mutant.akin) else "wrong"


@cache
def _all(modules: tuple[str, ...]) -> tuple[Implementation, ...]:
    return all_implementations(modules)


def _plain_siblings(case: Case) -> tuple[Implementation, ...]:
    """Implementations that claim no more than `plain` does, and give every output."""
    ours = (one for one in siblings(case) if one.contract is plain)
    return tuple(one for one in ours if not one.name.startswith("PEFT's") or "x" in case.arrays)


_ROLES = {"sound": _sound, "train": _train, "test": _test, "exact": _exact}
