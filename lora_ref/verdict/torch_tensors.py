"""A PyTorch tensor on the host in float64, by its own methods: PyTorch is never imported.

Errors:
    TypeError for tensors without plain numbers: each says what to give instead.
Limits:
    `Tensor.double` widens bfloat16, float16 and every float8 kind exactly; the packed
    float4_e2m1fn_x2 has no conversion, and is refused.
Source:
    PyTorch 2.13: all 256 codes of float8_e4m3fn, e5m2, e4m3fnuz, e5m2fnuz and e8m0fnu widen to
    what ml_dtypes 0.6 makes of them.
"""

from typing import Any

import ml_dtypes
import numpy as np


def host_of_tensor(tensor: Any, name: str) -> tuple[np.ndarray, np.dtype, tuple[int, ...]]:
    """Its numbers (floats as float64), the NumPy dtype of its own and its strides in bytes."""
    _refuse_unreadable(tensor, name)
    dtype = _dtype(tensor, name)
    strides = tuple(step * dtype.itemsize for step in tensor.stride())
    try:
        plain = tensor.detach().cpu()
        plain = plain.double() if tensor.dtype.is_floating_point else plain
        host = plain.resolve_conj().resolve_neg().numpy()
    except (RuntimeError, TypeError) as error:
        raise TypeError(
            f"received: {name} ({type(tensor).__name__}, {tensor.dtype}) cannot be read as a NumPy "
            f"array: {str(error).partition(chr(10))[0]}"
        ) from error
    return host, dtype, strides


def _dtype(tensor: Any, name: str) -> np.dtype:
    """The dtype of the same name in NumPy or ml_dtypes."""
    own = str(tensor.dtype).removeprefix("torch.")
    try:
        return np.dtype(getattr(ml_dtypes, own, own))
    except TypeError:
        raise TypeError(
            f"received: {name} must be of a dtype with one number an element, got {tensor.dtype}; "
            f"decode it first"
        ) from None


def _refuse_unreadable(tensor: Any, name: str) -> None:
    """Tensors that hold no numbers, several shapes, codes, or only some of the numbers."""
    reason = None
    if tensor.is_nested:
        reason = f"is nested and has no one shape; give {name}.unbind() one by one"
    elif tensor.device.type == "meta":
        reason = "is on the meta device, which keeps shapes and no numbers; give a real tensor"
    elif tensor.is_quantized:
        reason = f"is quantized ({tensor.dtype}); give {name}.dequantize()"
    elif str(tensor.layout) != "torch.strided":
        reason = f"is not dense ({tensor.layout}, a sparse or packed layout); "
        reason += f"give {name}.to_dense()"
    elif hasattr(tensor, "full_tensor"):
        reason = f"is distributed, this process has a part; give {name}.full_tensor()"
    if reason:
        raise TypeError(f"received: {name} {reason}")
