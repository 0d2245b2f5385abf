"""The storage dtypes of the study, and the ways between NumPy, PyTorch and float64.

Inputs are float64 numbers that the dtype can hold, so every conversion here is exact. Outputs are
NumPy arrays of the dtype itself, whichever library computed them.
"""

from typing import Any

import ml_dtypes
import numpy as np

from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32, Grid

GRIDS: dict[str, Grid] = {"bfloat16": BFLOAT16, "float16": FLOAT16, "float32": FLOAT32}
NUMPY: dict[str, np.dtype] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}


def on_grid(t: np.ndarray, dtype: str) -> np.ndarray:
    """`t` rounded to what the dtype can hold, as float64; too large becomes the largest."""
    grid = GRIDS[dtype]
    return np.clip(grid.round(np.asarray(t, dtype=np.float64)), -grid.largest, grid.largest)


def stored(t: np.ndarray, dtype: str) -> np.ndarray:
    """`t` (float64) rounded once to an array of the dtype."""
    grid = GRIDS[dtype]
    with np.errstate(over="ignore"):
        return grid.round(np.ascontiguousarray(t, dtype=np.float64)).astype(NUMPY[dtype])


def exact(t: np.ndarray) -> np.ndarray:
    """A low-precision array as float64."""
    return np.asarray(t).astype(np.float64)


def to_torch(t: np.ndarray, dtype: str, device: str = "cpu") -> Any:
    """A tensor of the dtype that holds exactly the numbers of `t`."""
    import torch

    if t.dtype == bool:
        return torch.from_numpy(np.ascontiguousarray(t)).to(device)
    return torch.from_numpy(np.ascontiguousarray(t)).to(device, getattr(torch, dtype))


def from_torch(t: Any) -> np.ndarray:
    """The same numbers as a NumPy array of the same dtype."""
    import torch

    t = t.detach().to("cpu").contiguous()
    if t.dtype is torch.bfloat16:
        return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.numpy()
