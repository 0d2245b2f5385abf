"""Bugs of layout: the right numbers at the wrong places.

The factors A and B, or their product, are transposed, read in another order, permuted by heads or
by the blocks of a fused projection, or belong to another module.

Source: bug catalogue rows L1 (Conv1D untransposed: lorax#106), L2 (factors read as (in, r) and
(r, out): aprender#2138), L10 (slices of k and v: vllm#36603), L14 (gate and up swapped:
sglang#34940), L16 (vmlx-swift#320).
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...verdict.mistakes import names
from ..measure import Take, row_blocks, take_from
from ..updates import EVERY, Columns, LowRank, Part
from .hypothesis import Hypothesis, Suspect
from .permutation import column_permutations, gathers, row_permutations
from .scale import NEARLY_ALL

PROBES = 8


def transposed(suspect: Suspect) -> Iterator[Hypothesis]:
    """s (BA)ᵀ in place of s BA, the base transposed, or the whole tensor; of experts, each."""
    parts = suspect.update.parts
    if any(len(p.L) != p.R.shape[1] for p in parts):
        return
    turned = tuple(Part(p.start, p.R.T, p.L.T) for p in parts)
    update = replace(suspect.update, parts=turned)
    if suspect.adapted:
        yield Hypothesis(names.TRANSPOSED, "W + s·(BA)ᵀ where W + s·BA", update)
    rows, columns = suspect.pair.shape
    if rows != columns:
        return
    W_transposed = take_from(suspect.pair.W.T)
    if suspect.adapted:
        yield Hypothesis(names.BASE_TRANSPOSED, "Wᵀ + s·BA", suspect.update, W_transposed)
    yield Hypothesis("whole tensor transposed", "(W + s·BA)ᵀ", update, W_transposed)


def memory_misread(suspect: Suspect) -> Iterator[Hypothesis]:
    """The numbers of the transposed matrix under the shape of the matrix."""
    part, (m, n) = _only_part(suspect), suspect.pair.shape
    if part is None or m == n or min(m, n) < 2:
        return
    W, scale = suspect.pair.W, suspect.update.scale

    def places(rows: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        flat = rows[:, None] * n + np.arange(n)[columns]
        return flat % m, flat // m

    def update(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        terms = (part.L[i, k] * part.R[k, j] for k in range(part.L.shape[1]))
        return scale * sum(terms, np.zeros(i.shape))

    def whole(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        i, j = places(rows, columns)
        return W[i, j].astype(np.float64) + update(i, j)

    def update_only(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return suspect.pair.base(rows, columns) + update(*places(rows, columns))

    nothing, how = suspect.update.with_scale(0.0), "transposed and reshaped"
    name = "memory read in the other order"
    yield Hypothesis(name, f"W + s·BA {how}", nothing, whole, NEARLY_ALL)
    if suspect.adapted:
        name = "update's memory read in the other order"
        yield Hypothesis(name, f"W + (s·BA {how})", nothing, update_only, NEARLY_ALL)


def factors_misread(suspect: Suspect) -> Iterator[Hypothesis]:
    """The memory of A (r, n) read as (n, r), of B (m, r) read as (r, m), or the two exchanged."""
    part = _only_part(suspect)
    if part is None or not suspect.adapted:
        return
    A, B = (part.R, part.L) if suspect.update.left == "B" else (part.L.T, part.R.T)
    (r, n), m = A.shape, B.shape[0]
    A_misread, B_misread = A.reshape(n, r).T, B.reshape(r, m).T
    yield _of(suspect, A_misread, B_misread, names.BOTH_TRANSPOSED, "A as (in, r), B as (r, out)")
    yield _of(suspect, A_misread, B, names.A_TRANSPOSED, "A as (in, r)")
    yield _of(suspect, A, B_misread, names.B_TRANSPOSED, "B as (r, out)")
    if m == n:
        swapped = B.reshape(r, m), A.reshape(n, r)
        yield _of(suspect, *swapped, names.SWAPPED, "A read as B (out, r), B as A (r, in)")
    if r > 1:
        yield _of(suspect, A[::-1], B, names.RANK_REVERSED, "Σ_k b_k a_{r−1−k}")
        yield _of(suspect, np.roll(A, 1, 0), B, names.RANK_SHIFTED, "Σ_k b_k a_{k−1}")


def _of(suspect: Suspect, A: np.ndarray, B: np.ndarray, name: str, how: str) -> Hypothesis:
    L, R = (B, A) if suspect.update.left == "B" else (A.T, B.T)
    return Hypothesis(name, f"W + s·B'A' with {how}", suspect.update.with_factors(L, R))


def permuted(suspect: Suspect) -> Iterator[Hypothesis]:
    """Rows or columns of the update at other places: heads, q/k/v blocks, gate and up, rotary.

    Of experts, the same in each; what is found in the first is tried on all.
    """
    if not suspect.adapted:
        return
    first, s = suspect.update.parts[0], suspect.update.scale
    for name, order in row_permutations(suspect, suspect.left_estimate(), first.L * s):
        name = names.ROWS_PERMUTED + name
        yield Hypothesis(name, f"W + s·P BA, P: {name}", _with_rows(suspect.update, order))
    for name, order in column_permutations(suspect, suspect.right_estimate().T, first.R.T * s):
        parts = tuple(Part(p.start, p.L, p.R[:, order]) for p in suspect.update.parts)
        name = "columns permuted: " + name
        yield Hypothesis(name, f"W + s·BA P, P: {name}", replace(suspect.update, parts=parts))


def misplaced(suspect: Suspect) -> Iterator[Hypothesis]:
    """Blocks of rows of the update at other places, some twice and some nowhere."""
    if not suspect.adapted or len(suspect.update.parts) > 1:
        return
    part = suspect.update.parts[0]
    wanted = part.L * suspect.update.scale
    for name, order, there in gathers(suspect.left_estimate(), wanted):
        update = suspect.update.with_factors(part.L[order] * there[:, None], part.R)
        yield Hypothesis("rows misplaced", f"W + s·BA with {name}", update)


def _with_rows(update: LowRank, order: np.ndarray) -> LowRank:
    return replace(update, parts=tuple(Part(p.start, p.L[order], p.R) for p in update.parts))


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


def _only_part(suspect: Suspect) -> Part | None:
    """The part of an update that has one and covers the tensor."""
    update: LowRank = suspect.update
    return update.parts[0] if len(update.parts) == 1 else None
