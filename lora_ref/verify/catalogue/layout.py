"""Bugs of layout: the right numbers at the wrong places.

The factors A and B, or their product, are transposed, read in another order, permuted by heads or
by the blocks of a fused projection, or belong to another module.

Source: bug catalogue rows L1 (Conv1D untransposed: lorax#106), L2 (factors read as (in, r) and
(r, out): aprender#2138), L10, L11, L13 (slices and expert orders: vllm#36603, #31534,
unsloth-zoo#1269), L14 (gate and up swapped: sglang#34940), L16 (vmlx-swift#320).
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..measure import Take, row_blocks, take_from
from ..updates import EVERY, Columns, LowRank, Part
from .hypothesis import Hypothesis, Suspect
from .permutation import column_permutations, row_permutations

PROBES = 8


def transposed(suspect: Suspect) -> Iterator[Hypothesis]:
    """s (BA)ᵀ in place of s BA."""
    part = _only_part(suspect)
    rows, columns = suspect.pair.shape
    if part is None or rows != columns:
        return
    update = suspect.update.with_factors(part.R.T, part.L.T)
    W_transposed = take_from(suspect.pair.W.T)
    if suspect.adapted:
        yield Hypothesis("transposed", "W + s·(BA)ᵀ where W + s·BA", update)
        yield Hypothesis("base transposed", "Wᵀ + s·BA", suspect.update, W_transposed)
    yield Hypothesis("whole tensor transposed", "(W + s·BA)ᵀ", update, W_transposed)


def factors_misread(suspect: Suspect) -> Iterator[Hypothesis]:
    """The memory of A (r, n) read as (n, r), of B (m, r) read as (r, m), or the two exchanged."""
    part = _only_part(suspect)
    if part is None or not suspect.adapted:
        return
    A, B = (part.R, part.L) if suspect.update.left == "B" else (part.L.T, part.R.T)
    (r, n), m = A.shape, B.shape[0]
    A_misread, B_misread = A.reshape(n, r).T, B.reshape(r, m).T
    yield _of(
        suspect, A_misread, B_misread, "A and B read transposed", "A as (in, r), B as (r, out)"
    )
    yield _of(suspect, A_misread, B, "A read transposed", "A as (in, r)")
    yield _of(suspect, A, B_misread, "B read transposed", "B as (r, out)")
    if m == n:
        swapped = B.reshape(r, m), A.reshape(n, r)
        yield _of(suspect, *swapped, "A and B swapped", "A read as B (out, r), B as A (r, in)")
    if r > 1:
        yield _of(suspect, A[::-1], B, "rank order reversed in A", "Σ_k b_k a_{r−1−k}")
        yield _of(suspect, np.roll(A, 1, 0), B, "rank order shifted in A", "Σ_k b_k a_{k−1}")


def _of(suspect: Suspect, A: np.ndarray, B: np.ndarray, name: str, how: str) -> Hypothesis:
    L, R = (B, A) if suspect.update.left == "B" else (A.T, B.T)
    return Hypothesis(name, f"W + s·B'A' with {how}", suspect.update.with_factors(L, R))


def permuted(suspect: Suspect) -> Iterator[Hypothesis]:
    """Rows or columns of the update at other places: heads, q/k/v blocks, gate and up, rotary."""
    part = _only_part(suspect)
    if part is None or not suspect.adapted:
        return
    scale = suspect.update.scale
    left, right = suspect.left_estimate(), suspect.right_estimate()
    for name, order in row_permutations(suspect, left, part.L * scale):
        update = suspect.update.with_factors(part.L[order], part.R)
        yield Hypothesis(f"rows permuted: {name}", f"W + s·P BA, P: {name}", update)
    for name, order in column_permutations(suspect, right.T, part.R.T * scale):
        update = suspect.update.with_factors(part.L, part.R[:, order])
        yield Hypothesis(f"columns permuted: {name}", f"W + s·BA P, P: {name}", update)


def whole_permuted(suspect: Suspect) -> Iterator[Hypothesis]:
    """Rows or columns of the merged tensor itself at other places, base and update together."""
    part = _only_part(suspect)
    if part is None or min(suspect.pair.shape) < 2:
        return
    W, M = suspect.pair.W, suspect.pair.M
    for name, order in row_permutations(suspect, *_projected(W, M)):
        update = suspect.update.with_factors(part.L[order], part.R)
        base = _rows_of(suspect.pair.base, order)
        yield Hypothesis(f"whole rows permuted: {name}", f"P (W + s·BA), P: {name}", update, base)
    for name, order in column_permutations(suspect, *_projected(W.T, M.T)):
        update = suspect.update.with_factors(part.L, part.R[:, order])
        base = _columns_of(suspect.pair.base, order)
        name = f"whole columns permuted: {name}"
        yield Hypothesis(name, f"(W + s·BA) P, P: {name}", update, base)


def _projected(W: np.ndarray, M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(merged, base), each row by its products with a few random vectors."""
    probe = np.random.default_rng(0).standard_normal((W.shape[1], PROBES))

    def project(t: np.ndarray) -> np.ndarray:
        blocks = row_blocks(t.shape)
        return np.concatenate([np.nan_to_num(take_from(t)(rows)) @ probe for rows in blocks])

    return project(M), project(W)


def _rows_of(take: Take, order: np.ndarray) -> Take:
    def permuted_take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return take(order[rows], columns)

    return permuted_take


def _columns_of(take: Take, order: np.ndarray) -> Take:
    def permuted_take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return take(rows, order[columns])

    return permuted_take


def other_module(suspect: Suspect) -> Iterator[Hypothesis]:
    """The update of another module in place of this one's, or in addition to it."""
    for name, update in suspect.around.updates.items():
        if name == suspect.name or update.shape != suspect.pair.shape:
            continue
        what = f"W + ΔW of {update.module}"
        moved = replace(update, target=suspect.name)
        if not suspect.adapted:
            yield Hypothesis("adapted by mistake", f"{what}, where W", moved)
            continue
        yield Hypothesis(
            "another module's update", f"{what}, where ΔW of {suspect.update.module}", moved
        )
        yield from _mixed_factors(suspect, update)
        ratio = update.scale / suspect.update.scale
        extra = tuple(Part(p.start, p.L * ratio, p.R) for p in update.parts)
        both = replace(suspect.update, parts=suspect.update.parts + extra)
        yield Hypothesis(
            "another module's update as well", f"W + s·BA + ΔW of {update.module}", both
        )


def _mixed_factors(suspect: Suspect, other: LowRank) -> Iterator[Hypothesis]:
    """One factor of this module, one of another."""
    mine, its = _only_part(suspect), other.parts[0]
    if mine is None or its.L.shape != mine.L.shape or its.R.shape != mine.R.shape:
        return
    left, right = suspect.update.left, suspect.update.right
    mixed = ((left, its.L, mine.R), (right, mine.L, its.R))
    for factor, L, R in mixed:
        formula = f"W + s·BA with {factor} of {other.module}"
        update = suspect.update.with_factors(L, R)
        yield Hypothesis(f"another module's {factor}", formula, update)


def experts_misread(suspect: Suspect) -> Iterator[Hypothesis]:
    """Experts: their order in B read the other way round, or the experts exchanged."""
    parts = suspect.update.parts
    if len(parts) < 2:
        return
    left = suspect.update.left
    B = np.stack([p.L if left == "B" else p.R.T for p in parts])  # (E, m, r)
    A = np.stack([p.R if left == "B" else p.L.T for p in parts])  # (E, r, n)
    E, m, r = B.shape
    saved = B.transpose(1, 2, 0).reshape(m, r * E)  # expert fastest, as PEFT saves it
    misread = saved.reshape(m, E, r).transpose(1, 0, 2)
    yield _experts(
        suspect, A, misread, "expert order of B", "B read as (out, E, r), saved (out, r, E)"
    )
    saved_A = A.reshape(E * r, -1).reshape(r, E, -1).transpose(1, 0, 2)
    yield _experts(
        suspect, saved_A, B, "expert order of A", "A read as (r, E, in), saved (E, r, in)"
    )
    both = "A read as (r, E, in) and B as (out, E, r)"
    yield _experts(suspect, saved_A, misread, "expert order of A and B", both)
    yield _experts(
        suspect, A[::-1], B[::-1], "experts reversed", "expert e takes the update of E−1−e"
    )
    for shift in (1, E - 1):
        order = np.roll(np.arange(E), shift)
        how = f"expert e takes the update of e − {shift} (mod {E})"
        yield _experts(suspect, A[order], B[order], "experts shifted", how)
    first = np.zeros(E, dtype=int)
    yield _experts(
        suspect, A[first], B[first], "first expert everywhere", "every expert takes expert 0's"
    )


def _experts(suspect: Suspect, A: np.ndarray, B: np.ndarray, name: str, how: str) -> Hypothesis:
    old = suspect.update
    parts = tuple(
        Part(p.start, B[e], A[e]) if old.left == "B" else Part(p.start, A[e].T, B[e].T)
        for e, p in enumerate(old.parts)
    )
    return Hypothesis(name, f"W + s·B'A' with {how}", replace(old, parts=parts))


def _only_part(suspect: Suspect) -> Part | None:
    """The part of an update that has one and covers the tensor."""
    update: LowRank = suspect.update
    return update.parts[0] if len(update.parts) == 1 else None
