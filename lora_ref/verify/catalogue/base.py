"""Bugs of the base: the right update on the wrong W.

Source: bug catalogue rows Q5 (merged onto W16 or onto the dequantized W4: axolotl#1263,
unsloth-zoo#810), Q11 (wrong base: unsloth#869), Q4, Q7; NF4's code book is that of bitsandbytes
0.50.2 (functional.py, get_4bit_type), as float32 values.
"""

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from ..grids import grid_of
from ..measure import Take, row_blocks
from ..updates import EVERY, Columns
from .hypothesis import Hypothesis, Suspect

NF4_POSITIVE = (0.0, 0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684)
NF4_NEGATIVE = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004)
NF4 = np.array((*NF4_NEGATIVE, *NF4_POSITIVE, 1.0))
NEARLY_ALL = 0.02  # a code may differ where a value lies on the threshold between two
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
FP4 = np.unique(np.concatenate((FP4, -FP4)))


def other_tensor(suspect: Suspect) -> Iterator[Hypothesis]:
    """Another tensor of the base, with this update, with its own, or with none."""
    nothing = suspect.update.with_scale(0.0)
    for name in suspect.others():
        W = suspect.other(name)
        yield Hypothesis("another tensor's base", f"W of {name} + s·BA", suspect.update, W)
        if suspect.adapted:
            yield Hypothesis("another tensor", f"W of {name}", nothing, W)
        own = suspect.around.updates.get(name)
        if own is not None and own.shape == suspect.pair.shape:
            yield Hypothesis("tensors exchanged", f"W' of {name}", own, W)


def no_base(suspect: Suspect) -> Iterator[Hypothesis]:
    """Zeros in place of the base: only the update was stored, or nothing was."""

    def zeros(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return 0.0 * suspect.pair.base(rows, columns)

    if suspect.adapted:
        yield Hypothesis("base left out", "s·BA, where W + s·BA", suspect.update, zeros)
    yield Hypothesis("zeros", "0", suspect.update.with_scale(0.0), zeros)


def scaled_base(suspect: Suspect) -> Iterator[Hypothesis]:
    """k W in place of W, k from the least squares of merged − s BA against W."""
    along = size = 0.0
    for rows in row_blocks(suspect.pair.shape):
        W = suspect.pair.base(rows, EVERY)
        rest = suspect.pair.merged(rows, EVERY) - suspect.update.delta(rows)
        along += float(np.nansum(rest * W))
        size += float(np.vdot(W, W))
    for k in (along / size, 2.0, 0.5, -1.0) if size > 0 else ():

        def scaled(rows: np.ndarray, columns: Columns = EVERY, k: float = k) -> np.ndarray:
            return k * suspect.pair.base(rows, columns)

        if abs(k - 1) > 1e-3:
            yield Hypothesis("base scaled", f"{k:.4g}·W + s·BA", suspect.update, scaled)


def quantized(suspect: Suspect) -> Iterator[Hypothesis]:
    """The base after a round trip through a coarser format."""
    for name, (precision, through) in FORMATS.items():
        if precision >= suspect.pair.base_grid.precision:
            continue
        take = _through(suspect.pair.base, suspect.pair.shape, through)
        formula = f"Q(W) + s·BA, Q: {name} and back"
        said = f"base quantized and dequantized ({name})"
        yield Hypothesis(said, formula, suspect.update, take, NEARLY_ALL)
        if suspect.adapted:
            nothing = suspect.update.with_scale(0.0)
            said = f"not applied, and base quantized ({name})"
            yield Hypothesis(said, f"Q(W), Q: {name}", nothing, take, NEARLY_ALL)


def _through(take: Take, shape: tuple[int, int], quantize: Callable) -> Take:
    """Rows of Q(W): whole rows are quantized, with what blocks that straddle rows need besides."""

    def rows_of(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        return np.concatenate([quantize(take, shape, int(row)) for row in rows])[:, columns]

    return rows_of


def _blockwise(code: np.ndarray, size: int) -> Callable:
    """Blocks of `size` over the flattened tensor: the nearest code times the block's maximum."""

    def quantize(take: Take, shape: tuple[int, int], row: int) -> np.ndarray:
        columns = shape[1]
        start = row * columns // size * size
        stop = min(-(-(row + 1) * columns // size) * size, shape[0] * columns)
        whole = take(np.arange(start // columns, -(-stop // columns)), EVERY).reshape(-1)
        offset = start - start // columns * columns
        flat = whole[offset : offset + stop - start]
        padded = np.pad(flat, (0, -len(flat) % size)).reshape(-1, size).astype(np.float32)
        top = np.abs(padded).max(axis=1, keepdims=True)
        scaled = padded / np.where(top > 0, top, 1)
        mid = ((code[1:] + code[:-1]) / 2).astype(np.float32)
        back = code[np.searchsorted(mid, scaled)].astype(np.float32) * top
        skip = row * columns - start
        return back.reshape(-1)[skip : skip + columns].astype(np.float64)[None]

    return quantize


def _integer(levels: int) -> Callable:
    """Symmetric integers by output row: round(W · levels / max|W|)."""

    def quantize(take: Take, shape: tuple[int, int], row: int) -> np.ndarray:
        W = take(np.array([row]), EVERY)
        top = np.abs(W).max()
        return np.rint(W * levels / top) * top / levels if top > 0 else W

    return quantize


def _cast(dtype: type) -> Callable:
    grid = grid_of(np.dtype(dtype))

    def quantize(take: Take, shape: tuple[int, int], row: int) -> np.ndarray:
        return grid.round(take(np.array([row]), EVERY).copy())

    return quantize


# name: (digits kept, quantizer)
FORMATS: dict[str, tuple[int, Callable]] = {
    "NF4, blocks of 64": (4, _blockwise(NF4, 64)),
    "FP4, blocks of 64": (4, _blockwise(FP4, 64)),
    "int8 by row": (7, _integer(127)),
    "int4 by row": (3, _integer(7)),
    "float8 e4m3": (4, _cast(ml_dtypes.float8_e4m3fn)),
    "float8 e5m2": (3, _cast(ml_dtypes.float8_e5m2)),
    "bfloat16": (8, _cast(ml_dtypes.bfloat16)),
    "float16": (11, _cast(np.float16)),
}
