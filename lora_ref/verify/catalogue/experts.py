"""Bugs of stacked experts: their factors read in another order, or given to other experts.

Source: bug catalogue rows L11, L13 (vllm#31534, unsloth-zoo#1269): PEFT saves A (E·r, in) with the
expert slowest and B (out, r·E) with the expert fastest.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...verdict.mistakes import names
from ..measure import row_blocks
from ..updates import LowRank, Part
from .extent import spans
from .hypothesis import Hypothesis, Suspect

SOME = 0.25  # the least multiple of an expert's update that counts as there


def experts_misread(suspect: Suspect) -> Iterator[Hypothesis]:
    """The order of the experts in the memory of A, of B or of both read the other way round."""
    if len(suspect.update.parts) < 2:
        return
    A, B = _factors(suspect.update)  # (E, r, n), (E, m, r)
    E, m, r = B.shape
    saved = B.transpose(1, 2, 0).reshape(m, r * E)
    B_misread = saved.reshape(m, E, r).transpose(1, 0, 2)
    A_misread = A.reshape(E * r, -1).reshape(r, E, -1).transpose(1, 0, 2)
    of_A = "A read as (r, E, in), saved (E, r, in)"
    of_B = "B read as (out, E, r), saved (out, r, E)"
    yield _experts(suspect, A, B_misread, "expert order of B", of_B)
    yield _experts(suspect, A_misread, B, "expert order of A", of_A)
    both = "A read as (r, E, in) and B as (out, E, r)"
    yield _experts(suspect, A_misread, B_misread, "expert order of A and B", both)


def experts_permuted(suspect: Suspect) -> Iterator[Hypothesis]:
    """Each expert with the update of another: the one whose product is found there, or none."""
    update = suspect.update
    if len(update.parts) < 2 or not suspect.adapted:
        return
    A, B = _factors(update)
    along, size = _overlaps(suspect)
    times = along / np.where(size > 0, size, 1.0)
    order = (along * times).argmax(axis=1)
    there = times[np.arange(len(order)), order] > SOME
    if not there.any() or (there.all() and np.array_equal(order, np.arange(len(order)))):
        return
    if there.all() and (order == 0).all():
        how = "every expert takes expert 0's"
        yield _experts(suspect, A[order], B[order], "first expert everywhere", how)
        return
    if not there.all():
        keep = tuple(p for p, kept in zip(update.parts, there, strict=True) if kept)
        formula = f"W + s·BA, but W in the experts {spans(~there)}"
        left_out = replace(update, parts=keep)
        yield Hypothesis(f"{names.NOT_APPLIED} to some experts", formula, left_out)
    kind = "permuted" if len(set(order)) == len(order) else "misplaced"
    how = f"expert e taking the update of {', '.join(map(str, order[:8]))}"
    moved = B[order] * there[:, None, None]
    yield _experts(suspect, A[order], moved, f"experts {kind}", how)


def _overlaps(suspect: Suspect) -> tuple[np.ndarray, np.ndarray]:
    """⟨D of expert e, s L R of expert f⟩ and ‖s L R of f‖², over all elements."""
    parts, s = suspect.update.parts, suspect.update.scale
    R = np.concatenate([p.R for p in parts])
    r, along = parts[0].R.shape[0], np.zeros((len(parts), len(parts)))
    for e, part in enumerate(parts):
        for rows in row_blocks((len(part.L), R.shape[1])):
            DR = suspect.done(part.start + rows) @ R.T
            for f, other in enumerate(parts):
                along[e, f] += s * float(np.vdot(other.L[rows], DR[:, f * r : (f + 1) * r]))
    size = [s * s * float(np.vdot(p.L.T @ p.L, p.R @ p.R.T)) for p in parts]
    return along, np.array(size)


def _factors(update: LowRank) -> tuple[np.ndarray, np.ndarray]:
    """A (E, r, n) and B (E, m, r) of all experts."""
    by_B = update.left == "B"
    A = np.stack([p.R if by_B else p.L.T for p in update.parts])
    B = np.stack([p.L if by_B else p.R.T for p in update.parts])
    return A, B


def _experts(suspect: Suspect, A: np.ndarray, B: np.ndarray, name: str, how: str) -> Hypothesis:
    old = suspect.update
    parts = tuple(
        Part(p.start, B[e], A[e]) if old.left == "B" else Part(p.start, A[e].T, B[e].T)
        for e, p in enumerate(old.parts)
    )
    return Hypothesis(name, f"W + s·B'A' with {how}", replace(old, parts=parts))
