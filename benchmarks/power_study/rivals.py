"""How others tell rounding from a bug: each as a severity, where more than 1 is an alarm.

Every rival is given the float64 reference, which is more than its authors have, and
flash-attention's rule the eager PyTorch result in the same dtype. Elements that the dtype cannot
hold are left out.

Source:
    PyTorch 2.13, torch.testing.assert_close (default tolerances); vLLM, tests/lora:
    test_punica_ops.py (6e-2) and test_layers.py (3e-2, 2e-2); punica, tests/test_ops.py;
    array-api-tests, pytest_helpers (0.25, 1, as math.isclose); ggml, test-backend-ops (NMSE 5e-4
    for matrix products); flash-attention, tests/test_flash_attn.py: at most 2 (gradients 3) times
    the error of the low-precision reference, and its later form, which adds the error of adding
    and taking off 0.3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .dtypes import GRIDS, exact, on_grid
from .implementation import Outputs

Severity = Callable[["Tensor"], float]


@dataclass(frozen=True)
class Tensor:
    """One output: what came (y), what is right (r), and what eager PyTorch makes of it (p)."""

    name: str
    dtype: str
    y: np.ndarray
    r: np.ndarray
    p: np.ndarray

    @property
    def error(self) -> np.ndarray:
        return np.abs(self.y - self.r)


def _closeness(tolerances: Mapping[str, tuple[float, float]]) -> Severity:
    """|y − r| against atol + rtol |r|, by dtype."""

    def severity(t: Tensor) -> float:
        rtol, atol = tolerances[t.dtype]
        return _worst(t.error / (atol + rtol * np.abs(t.r)))

    return severity


def _worst(ratio: np.ndarray) -> float:
    found = np.where(np.isnan(ratio), np.inf, ratio)
    return float(found.max(initial=0.0))


def _either(t: Tensor) -> float:
    larger = np.maximum(np.abs(t.y), np.abs(t.r))
    return _worst(t.error / np.maximum(0.25 * larger, 1.0))


def _ratio(a: float, b: float) -> float:
    """a / b, where 0 / 0 is no error at all."""
    return 0.0 if a == 0 else float("inf") if b == 0 or not np.isfinite(a) else a / b


def _nmse(t: Tensor) -> float:
    size = _worst(np.abs(t.r)) or 1.0  # squares of 10^30 would overflow
    return _ratio(float(np.sum((t.error / size) ** 2)), float(np.sum((t.r / size) ** 2))) / 5e-4


def _cosine(t: Tensor) -> float:
    a, b = (v.ravel() / (_worst(np.abs(v)) or 1.0) for v in (t.y, t.r))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths == 0:
        return 0.0 if np.array_equal(a, b) else float("inf")
    found = (1 - float(a @ b) / lengths) / (1 - 0.999)
    return found if np.isfinite(found) else float("inf")


def _maximum(t: Tensor) -> float:
    return _ratio(_worst(t.error), _worst(np.abs(t.r))) / 1e-2


def _times(t: Tensor) -> float:
    return 2.0 if t.name == "y" else 3.0


def _flash(t: Tensor) -> float:
    return _ratio(_worst(t.error), _times(t) * _worst(np.abs(t.p - t.r)))


def _flash_later(t: Tensor) -> float:
    kept = on_grid(t.r, t.dtype)
    moved = on_grid(on_grid(kept + 0.3, t.dtype) - 0.3, t.dtype)
    allowed = _times(t) * _worst(np.abs(t.p - t.r)) + 2 * _worst(np.abs(moved - kept))
    return _ratio(_worst(t.error), allowed)


RIVALS: dict[str, Severity] = {
    "torch assert_close": _closeness(
        {"bfloat16": (1.6e-2, 1e-5), "float16": (1e-3, 1e-5), "float32": (1.3e-6, 1e-5)}
    ),
    "vLLM punica_ops 6e-2": _closeness(
        {"bfloat16": (6e-2, 6e-2), "float16": (6e-2, 6e-2), "float32": (1e-2, 1e-2)}
    ),
    "vLLM layers 3e-2/2e-2": _closeness(dict.fromkeys(GRIDS, (3e-2, 2e-2))),
    "punica": _closeness(
        {"bfloat16": (3e-2, 2e-2), "float16": (5e-3, 5e-3), "float32": (5e-3, 5e-3)}
    ),
    "array-api-tests .25/1": _either,
    "NMSE 5e-4": _nmse,
    "cosine .999": _cosine,
    "max |d| / max |r| 1e-2": _maximum,
    "flash 2×/3×": _flash,
    "flash 2×/3×, later form": _flash_later,
}


def severities(
    actual: Outputs, reference: Outputs, eager: Outputs, dtype: str
) -> dict[str, dict[str, float]]:
    """Output -> rival -> severity."""
    found = {}
    for name, y in actual.items():
        r = reference[name]
        fits = np.abs(r) <= GRIDS[dtype].largest
        t = Tensor(name, dtype, *(exact(a)[fits] for a in (y, r, eager[name])))
        with np.errstate(all="ignore"):
            found[name] = {rival: severity(t) for rival, severity in RIVALS.items()}
    return found
