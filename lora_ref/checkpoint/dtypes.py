"""The element types of safetensors and the NumPy types that hold them.

The table is in the format's own order of increasing alignment, which is also the order a
header is sorted by (largest first). ml_dtypes gives NumPy the types it lacks.

Units:   sizes in bits, because F4 and F6 fill only part of a byte
Errors:  `dtype_name` raises ValueError for a NumPy type that the format cannot store
Limits:  F4, F6_E2M3 and F6_E3M2 have no NumPy type here: a tensor of them is read and written
         as its packed bytes (uint8), since NumPy holds one element a byte at least.
         Data are little-endian; bfloat16 and float8 are read right on little-endian machines only
Source:  safetensors 0.8.0, safetensors/src/tensor.rs, enum Dtype and Dtype::bitsize
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike


@dataclass(frozen=True)
class StoredDtype:
    """One element type: its name in a header, its bits, its NumPy type (None: packed bytes)."""

    name: str
    bits: int
    numpy: np.dtype | None


_TABLE: tuple[tuple[str, int, DTypeLike | None], ...] = (
    ("BOOL", 8, "?"),
    ("F4", 4, None),
    ("F6_E2M3", 6, None),
    ("F6_E3M2", 6, None),
    ("U8", 8, "u1"),
    ("I8", 8, "i1"),
    ("F8_E5M2", 8, ml_dtypes.float8_e5m2),
    ("F8_E4M3", 8, ml_dtypes.float8_e4m3fn),
    ("F8_E8M0", 8, ml_dtypes.float8_e8m0fnu),
    ("F8_E4M3FNUZ", 8, ml_dtypes.float8_e4m3fnuz),
    ("F8_E5M2FNUZ", 8, ml_dtypes.float8_e5m2fnuz),
    ("I16", 16, "<i2"),
    ("U16", 16, "<u2"),
    ("F16", 16, "<f2"),
    ("BF16", 16, ml_dtypes.bfloat16),
    ("I32", 32, "<i4"),
    ("U32", 32, "<u4"),
    ("F32", 32, "<f4"),
    ("C64", 64, "<c8"),
    ("F64", 64, "<f8"),
    ("I64", 64, "<i8"),
    ("U64", 64, "<u8"),
)

DTYPES: dict[str, StoredDtype] = {
    name: StoredDtype(name, bits, None if numpy is None else np.dtype(numpy))
    for name, bits, numpy in _TABLE
}
ALIGNMENT_RANK: dict[str, int] = {name: rank for rank, name in enumerate(DTYPES)}
_NAMES = {stored.numpy: name for name, stored in DTYPES.items() if stored.numpy is not None}


def dtype_name(dtype: DTypeLike) -> str:
    """Return the format's name of a NumPy type.

    >>> dtype_name("float32"), dtype_name(ml_dtypes.bfloat16)
    ('F32', 'BF16')
    """
    numpy = np.dtype(dtype)
    if numpy not in _NAMES:
        kinds = ", ".join(str(known) for known in _NAMES)
        raise ValueError(
            f"dtype_name: dtype must be one that safetensors stores ({kinds}), got {numpy}"
        )
    return _NAMES[numpy]
