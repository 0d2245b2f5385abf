"""The verdict on the outputs of a kernel, from the bounds of a contract.

Four tiers: the exact tests of `exact` need inputs of their own choice and are not run here; the
certified bound, the statistics of the variance model, and the catalogue of known mistakes are.

Limits:
    "Certified" is certified for the stated contract: an evaluation that the contract does not
    admit lies outside, however accurate it is. A tensor within its bounds is consistent with
    rounding; what else it is consistent with, the diagnoses say (UNDECIDABLE).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..trees import leaves
from .audit import audit
from .bounds import Bounds, bounds
from .calibration import Emulations, honest_statistics
from .claims import check_claim, check_on_grid, check_output_grid, check_outputs
from .contract import Contract
from .doubts import doubted, doubted_gains
from .findings import Diagnosis, Finding, Gain, Outcome, State, Status
from .forgotten import with_forgotten_bias
from .incoming import Received
from .locate import locate
from .matched_filter import diagnose
from .mistakes.names import NOT_APPLIED
from .oracle import Oracle, is_real
from .path_gains import path_gains
from .statistics import Statistics, independent, statistics
from .together import blind_spots_of
from .view import view


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def judge(
    actual: Any,
    oracle: Oracle,
    contract: Contract,
    *,
    left_out: Collection[str] = (),
    known_mistakes: bool = True,
    found: Mapping[str, Bounds] | None = None,
) -> Outcome:
    """The verdict on `actual`, a mapping of names to arrays of any library, or y alone.

    Outputs in `left_out` are not judged. Without `known_mistakes` nothing is diagnosed, which
    saves one evaluation of the kernel for each. `found` are the `bounds` of this oracle and
    contract, with variances, if they are known already.

    Errors:
        ValueError if a name or a shape is wrong, an input is not on the contract's grid of inputs,
        or an output holds numbers that the contract's output grid has not; TypeError for what is
        no array.
    """
    check_claim("judge", oracle, contract)
    _check_inputs(oracle, contract)
    found = bounds(oracle, contract) if found is None else found
    given = check_outputs(actual, {n: b.v.shape for n, b in found.items()}, left_out=left_out)
    notes = {n: (*t.notes, *check_output_grid(n, t, contract)) for n, t in given.items()}
    findings = [_finding(n, t, found[n], contract, notes[n]) for n, t in given.items()]
    findings = with_forgotten_bias(findings, oracle, given, found)
    honest = Emulations(oracle, contract)
    if any(f.status is Status.SUSPECT for f in findings):
        scores = honest_statistics(honest.outputs, found)
        findings = [_reconsidered(f, scores) for f in findings]
    if not (known_mistakes and oracle.mistakes and any(t.values.size for t in given.values())):
        return Outcome(contract, tuple(findings))
    values = {n: t.values for n, t in given.items()}
    return _diagnosed(findings, values, honest, found)


def _diagnosed(
    findings: list[Finding],
    values: Mapping[str, np.ndarray],
    honest: Emulations,
    found: Mapping[str, Bounds],
) -> Outcome:
    """The outcome with what known mistakes, path gains and other contracts say of it."""
    oracle, contract = honest.oracle, honest.contract
    variances = {n: np.where(np.isfinite(found[n].e), found[n].s, np.nan) for n in values}
    seen = view(oracle, contract, variances, values)
    diagnoses, gains = diagnose(seen), path_gains(seen)
    if not any(f.status is Status.BUG for f in findings):
        if any(d.state is State.PRESENT for d in diagnoses):
            diagnoses = doubted(diagnoses, seen, honest.outputs)
        if any(g.is_off() for g in gains):
            gains = doubted_gains(gains, seen, honest.outputs)
        findings = [_with_mistakes(f, diagnoses, gains) for f in findings]
    odd = any(f.status in (Status.BUG, Status.SUSPECT) for f in findings)
    explained = any(d.state is State.PRESENT for d in diagnoses)
    explained = explained or any(g.is_off() for g in gains)
    departures = audit(values, oracle, contract, found) if odd and not explained else ()
    return Outcome(
        contract,
        tuple(findings),
        diagnoses,
        gains,
        tuple(str(d) for d in departures),
        blind_spots_of(diagnoses),
    )


def _check_inputs(oracle: Oracle, contract: Contract) -> None:
    for path, leaf in leaves(oracle.on_grid):
        if is_real(leaf):
            check_on_grid(path.rpartition(".")[2] or path, leaf, contract.inputs)


def _finding(
    name: str, given: Received, bound: Bounds, contract: Contract, notes: tuple[str, ...]
) -> Finding:
    y, v, e = given.values, bound.v, bound.e
    if v.size == 0:
        return Finding(name, Status.EXACT, "empty: nothing to compare", v.shape, where=notes)
    unknown = ~np.isfinite(e)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(y == v, 0.0, y - v)
        ratio = np.where(error == 0, 0.0, np.abs(error) / e)
    ratio = np.where(unknown, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    outside = ratio > 1
    status, reason = _status(y, v, e, ratio, unknown, contract)
    chance = statistics(np.where(unknown, 0.0, error), np.where(unknown, 0.0, bound.s))
    if status is Status.ROUNDING and (suspicion := chance.suspicion()):
        status, reason = Status.SUSPECT, suspicion
    found = Finding(
        name,
        status,
        reason,
        v.shape,
        outside=int(np.count_nonzero(outside)),
        undecidable=int(np.count_nonzero(unknown)),
        max_z=chance.max_z,
        rms_z=chance.rms_z,
        known=chance.count,
        where=notes,
    )
    return _with_worst(found, y, v, e, ratio, contract)


def _reconsidered(found: Finding, honest: Mapping[str, Statistics]) -> Finding:
    """A suspicion stands only if honest implementations of the contract score less."""
    if found.status is not Status.SUSPECT or found.name not in honest:
        return found
    shared = independent(found.shape)
    own = Statistics(found.known, found.max_z or 0.0, found.rms_z or 0.0, shared)
    reason = own.suspicion(honest[found.name])
    return replace(found, status=Status.SUSPECT if reason else Status.ROUNDING, reason=reason)


def _status(
    y: np.ndarray,
    v: np.ndarray,
    e: np.ndarray,
    ratio: np.ndarray,
    unknown: np.ndarray,
    contract: Contract,
) -> tuple[Status, str]:
    outside = ratio > 1
    if outside.any():
        lost = int(np.count_nonzero(outside & ~np.isfinite(y)))
        return (
            Status.BUG,
            f"{lost:,} NaN or infinite where the contract has no reason" if lost else "",
        )
    if unknown.any():
        return Status.UNDECIDABLE, _unbounded(v[unknown], contract)
    with np.errstate(over="ignore"):
        if np.array_equal(contract.output.round(v * 1.0), y):
            return Status.EXACT, "every element is the correctly rounded value"
    if np.all(np.abs(v) <= e) and np.any(v != 0):
        return Status.UNDECIDABLE, "cancellation: rounding may be as large as every element"
    return Status.ROUNDING, ""


def _unbounded(v: np.ndarray, contract: Contract) -> str:
    """Why the contract admits any value for elements whose references are v."""
    count = f"{v.size:,} element{'s' if v.size != 1 else ''}"
    if not np.isfinite(v).any():
        return f"the reference of {count} is itself not finite"
    if np.all(np.isfinite(v) & (np.abs(v) + contract.output.ulp(v) / 2 > contract.output.largest)):
        return f"{count} may overflow {contract.output.name}, legally"
    grids = (contract.load, contract.store, contract.accumulate.grid, contract.output)
    first = min((g for g in grids if g is not None), key=lambda g: g.largest)
    return (
        f"{count} without a bound: an intermediate may overflow {first.name}, legally, "
        f"or a divisor or the argument of a logarithm may be zero"
    )


def _with_worst(
    found: Finding,
    y: np.ndarray,
    v: np.ndarray,
    e: np.ndarray,
    ratio: np.ndarray,
    contract: Contract,
) -> Finding:
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    with np.errstate(invalid="ignore"):
        ulps = float(np.abs(y[worst] - v[worst]) / contract.output.ulp(v[worst]))
    where = found.where
    if found.status is Status.BUG:
        where = (*locate(ratio, None, y - v, v), *where)
    return replace(
        found,
        ratio=float(ratio[worst]),
        worst=tuple(int(i) for i in worst),
        actual=float(y[worst]),
        expected=float(v[worst]),
        bound=float(e[worst]),
        ulps=ulps,
        where=where,
    )


def _with_mistakes(
    found: Finding, diagnoses: tuple[Diagnosis, ...], gains: tuple[Gain, ...]
) -> Finding:
    """Within the bounds, but a known mistake fits; or the inputs cannot show the update."""
    if 0 in found.shape:
        return found
    present = [d for d in diagnoses if d.state is State.PRESENT]
    fits = [d.name for d in present if found.name in d.outputs]
    explained = {n for d in present for n in d.outputs}  # so is a gain that has one of these
    off = [g for g in gains if g.is_off() and found.name in g.outputs]
    odd = [str(g) for g in off if explained.isdisjoint(g.outputs)]
    if fits or odd:
        text = f"within its bounds, but fits: {'; '.join(fits)}" if fits else "; ".join(odd)
        return replace(found, status=Status.SUSPECT, reason=text)
    unseen = any(d.name == NOT_APPLIED and d.state is State.UNDECIDABLE for d in diagnoses)
    if unseen and found.name == "y" and found.status in (Status.EXACT, Status.ROUNDING):
        text = "the update is swamped: an output without it would pass as well"
        return replace(found, status=Status.UNDECIDABLE, reason=text)
    return found
