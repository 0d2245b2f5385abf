"""Bugs of extent: the right update on a part of the tensor, or a part of the update.

Source: bug catalogue rows L22, L10 (slices of a fused projection: miles#1792, vllm#36603), Q17 (a
subset merged: peft#3756), C14 (twice), vLLM's test replayed without its last columns.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...verdict.mistakes import names
from ..updates import LowRank, Part
from .hypothesis import Hypothesis, Suspect

MULTIPLES = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0])


def rows_left_out(suspect: Suspect) -> Iterator[Hypothesis]:
    """The update missing from the rows, or the columns, that are still the base's."""
    if not suspect.adapted:
        return
    rows, columns = suspect.unchanged_lines()
    for what, same, size in (("rows", rows, 0), ("columns", columns, 1)):
        if same.any() and not same.all():
            name = f"{names.NOT_APPLIED} to some {what}"
            formula = f"W + s·BA, but W in {what} {spans(same)}"
            keep = np.where(same, 0.0, 1.0)
            yield Hypothesis(name, formula, _weighted(suspect.update, keep, size))


def rows_in_multiples(suspect: Suspect) -> Iterator[Hypothesis]:
    """The update −1, 0, ½, 2 or 3 times in some rows or columns, or at one wrong scale there."""
    part = suspect.update.parts[0]
    if not suspect.adapted or len(suspect.update.parts) > 1:
        return
    s = suspect.update.scale
    sides = (
        ("rows", suspect.left_estimate(), part.L * s),
        ("columns", suspect.right_estimate().T, part.R.T * s),
    )
    for axis, (what, found, wanted) in enumerate(sides):
        size = (wanted**2).sum(axis=1)
        ratio = (found * wanted).sum(axis=1) / np.where(size > 0, size, 1.0)
        for smoothed in _smoothed(ratio, size):
            nearest = MULTIPLES[np.abs(smoothed[:, None] - MULTIPLES).argmin(axis=1)]
            odd = nearest != 1.0
            if nearest[odd].any() and not odd.all():  # zeros alone are rows left out
                times = ", ".join(f"{t:g}" for t in np.unique(nearest[odd]))
                formula = f"W + t·s·BA with t = {times} in {what} {spans(odd)}"
                update = _weighted(suspect.update, nearest, axis)
                yield Hypothesis(f"other multiple in some {what}", formula, update)


def _smoothed(ratio: np.ndarray, size: np.ndarray) -> Iterator[np.ndarray]:
    """The ratios line by line, and averaged over blocks of a power of two."""
    yield ratio
    for b in (8, 32, 64, 128):
        if len(ratio) % b == 0 and len(ratio) > b:
            weight = np.maximum(size.reshape(-1, b), 1e-300)
            mean = (ratio.reshape(-1, b) * weight).sum(axis=1) / weight.sum(axis=1)
            yield np.repeat(mean, b)


def _weighted(update: LowRank, weights: np.ndarray, axis: int) -> LowRank:
    """Rows (axis 0) or columns (axis 1) of the update times `weights`."""
    parts = tuple(
        Part(p.start, p.L * weights[p.start : p.stop, None], p.R)
        if axis == 0
        else Part(p.start, p.L, p.R * weights)
        for p in update.parts
    )
    return replace(update, parts=parts)


def ranks_left_out(suspect: Suspect) -> Iterator[Hypothesis]:
    """Some of the r rank-one terms b_k a_kᵀ missing: a truncated or partly loaded adapter."""
    r = suspect.update.rank
    if not suspect.adapted or r < 2:
        return
    part = suspect.update.parts[0]
    core = np.diag(np.linalg.pinv(part.L) @ suspect.left_estimate()) / suspect.update.scale
    here = np.abs(core - 1) < np.abs(core)
    tried = [here, *(np.arange(r) < k for k in range(1, r)), *(np.arange(r) != k for k in range(r))]
    for keep in tried:
        if keep.any() and not keep.all():
            terms = ", ".join(str(k) for k in np.flatnonzero(~keep))
            parts = tuple(Part(p.start, p.L * keep, p.R) for p in suspect.update.parts)
            formula = f"W + s·Σ b_k a_k without k = {terms} (of {r})"
            yield Hypothesis(names.RANK_TRUNCATED, formula, replace(suspect.update, parts=parts))


def spans(mask: np.ndarray) -> str:
    """The True places of a mask as ranges, at most four of them.

    >>> spans(np.array([True, True, False, True]))
    '0–1, 3 (3 of 4)'
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(int)))
    runs = [f"{a}–{b - 1}" if b - a > 1 else f"{a}" for a, b in edges.reshape(-1, 2)]
    shown = ", ".join(runs[:4]) + (", …" if len(runs) > 4 else "")
    return f"{shown} ({int(mask.sum())} of {len(mask)})"
