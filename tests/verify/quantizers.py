"""Round trips of a weight through storage formats, in plain NumPy, as the frameworks make them."""

from collections.abc import Callable

import numpy as np

F = np.float32
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
                -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
                0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], dtype=F)  # fmt: skip
FP4 = np.sort(np.array([t * s for t in (0, 0.0625, 2, 3, 4, 6, 8, 12) for s in (1, -1)]))
FP4 = np.unique(FP4 / 12).astype(F)


def dynamic_map() -> np.ndarray:
    """bitsandbytes' 8-bit dynamic code, signed, as create_dynamic_map(True, 7, 8) builds it."""
    data: list[float] = []
    for i in range(7):
        items = 2 ** (i + 1 - 1) + 1
        edges = np.linspace(0.1, 1, items)
        means = (edges[:-1] + edges[1:]) / 2
        data += [*(10.0 ** (i - 6) * means), *(-(10.0 ** (i - 6)) * means)]
    return np.sort(np.array([*data, 0.0, 1.0])).astype(F)


def blockwise(code: np.ndarray, size: int, nested: bool = False) -> Callable:
    def through(W: np.ndarray) -> np.ndarray:
        flat = np.pad(W.astype(F).reshape(-1), (0, -W.size % size)).reshape(-1, size)
        top = np.abs(flat).max(axis=1)
        used = _nested(top) if nested else top
        scaled = flat / np.where(top > 0, top, 1)[:, None]
        index = np.abs(scaled[..., None] - code).argmin(axis=-1)
        return (code[index] * used[:, None]).reshape(-1)[: W.size].reshape(W.shape)

    return through


def _nested(top: np.ndarray) -> np.ndarray:
    """The maxima less their mean, in blocks of 256 of the dynamic 8-bit code."""
    mean = top.mean(dtype=F)
    rest = blockwise(dynamic_map(), 256)((top - mean).astype(F))
    return (rest + mean).astype(F)


def by_row(levels: int) -> Callable:
    def through(W: np.ndarray) -> np.ndarray:
        W = W.astype(F)
        scale = np.abs(W).max(axis=1, keepdims=True) / F(levels)
        return np.rint(W / scale) * scale

    return through


def by_tensor(levels: int) -> Callable:
    def through(W: np.ndarray) -> np.ndarray:
        scale = np.abs(W).max() / F(levels)
        return np.rint(W.astype(F) / scale) * scale

    return through


# The formats and the names that the report must give them.
QUANTIZERS = {
    "NF4, blocks of 64": blockwise(NF4, 64),
    "NF4, blocks of 64, double": blockwise(NF4, 64, nested=True),
    "NF4, blocks of 128": blockwise(NF4, 128),
    "FP4, blocks of 64": blockwise(FP4, 64),
    "int8 by row": by_row(127),
    "int8 by tensor": by_tensor(127),
    "int4 by row": by_row(7),
}
