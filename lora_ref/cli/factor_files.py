"""What the commands share that write factors: the types they may have, and how errors are shown."""

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike

from .failures import Usage

DTYPES: dict[str, DTypeLike] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": bfloat16,
}


def dtype_of(name: str | None) -> DTypeLike | None:
    """The type that --dtype names, None if it was not given."""
    if name is not None and name not in DTYPES:
        raise Usage(f"--dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return None if name is None else DTYPES[name]


def share(error: float) -> str:
    """A relative error: in percent where that has digits to show, else as a power of ten.

    >>> share(0.1234), share(3e-8), share(0.0)
    ('12.34%', '3e-08', '0.00%')
    """
    return f"{error:.2%}" if error == 0 or 1e-4 <= error < 1e3 else f"{error:.0e}"
