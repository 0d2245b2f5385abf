"""The verdict: rounding or a bug, and which bug, for any output of any kernel.

    oracle = lora_linear(x, W, A, B, scale=16.0, dy=dy)     what should be computed, from what
    outcome = judge({"y": y, "dx": dx, …}, oracle, BFLOAT16_CONTRACT)

`lora_ref.testing.assert_matches` is the same as an assertion. In reading order: `grids` and
`contract` (what is claimed), `oracle` and `oracles` (what is computed), `bounds` (the
error-bounded reading of a kernel), `emulated` (its low-precision reading), `judge` (the verdict),
`matched_filter` and `mistakes` (which bug), `audit` (does it do what it claims), `power` (what
these inputs could not have shown), `exact` (tests that need no tolerance).

Each name is imported when it is first asked for: `lora_ref.verify` needs no more than the bounds.
"""

import sys
import types
import typing

from .. import late

if typing.TYPE_CHECKING:
    from .audit import Departure, audit
    from .bounds import Bounds, bounds
    from .choices import Choices
    from .contract import (
        BFLOAT16_CONTRACT,
        BFLOAT16_FLOAT32_INTERMEDIATES,
        FLOAT8_E4M3_CONTRACT,
        FLOAT8_E5M2_CONTRACT,
        FLOAT16_CONTRACT,
        FLOAT16_FLOAT32_INTERMEDIATES,
        FLOAT32_CONTRACT,
        MERGED_BFLOAT16,
        MERGED_FLOAT16,
        MERGED_FLOAT32,
        PRESETS,
        TF32_CONTRACT,
        Accumulator,
        Contract,
        Forms,
        ScaleSites,
    )
    from .emulated import emulate
    from .findings import Diagnosis, Finding, Gain, Outcome, State, Status
    from .grids import (
        BFLOAT16,
        FLOAT8_E4M3,
        FLOAT8_E5M2,
        FLOAT16,
        FLOAT32,
        FLOAT64,
        TF32,
        Grid,
    )
    from .judge import judge
    from .message import message
    from .oracle import Mistake, Oracle
    from .oracles import Rotation, attention, dora_linear, lora_linear, lora_merged, oracle_of
    from .orders import AnyOrder, Blocked, Pairwise, Probable

_HOMES = {
    "audit": ("Departure", "audit"),
    "bounds": ("Bounds", "bounds"),
    "choices": ("Choices",),
    "contract": (
        "BFLOAT16_CONTRACT",
        "BFLOAT16_FLOAT32_INTERMEDIATES",
        "FLOAT8_E4M3_CONTRACT",
        "FLOAT8_E5M2_CONTRACT",
        "FLOAT16_CONTRACT",
        "FLOAT16_FLOAT32_INTERMEDIATES",
        "FLOAT32_CONTRACT",
        "MERGED_BFLOAT16",
        "MERGED_FLOAT16",
        "MERGED_FLOAT32",
        "PRESETS",
        "TF32_CONTRACT",
        "Accumulator",
        "Contract",
        "Forms",
        "ScaleSites",
    ),
    "emulated": ("emulate",),
    "findings": ("Diagnosis", "Finding", "Gain", "Outcome", "State", "Status"),
    "grids": (
        "BFLOAT16",
        "FLOAT8_E4M3",
        "FLOAT8_E5M2",
        "FLOAT16",
        "FLOAT32",
        "FLOAT64",
        "TF32",
        "Grid",
    ),
    "judge": ("judge",),
    "message": ("message",),
    "oracle": ("Mistake", "Oracle"),
    "oracles": ("Rotation", "attention", "dora_linear", "lora_linear", "lora_merged", "oracle_of"),
    "orders": ("AnyOrder", "Blocked", "Pairwise", "Probable"),
}
_HOME_OF = late.homes(_HOMES)

__all__ = [
    "BFLOAT16",
    "BFLOAT16_CONTRACT",
    "BFLOAT16_FLOAT32_INTERMEDIATES",
    "FLOAT8_E4M3",
    "FLOAT8_E4M3_CONTRACT",
    "FLOAT8_E5M2",
    "FLOAT8_E5M2_CONTRACT",
    "FLOAT16",
    "FLOAT16_CONTRACT",
    "FLOAT16_FLOAT32_INTERMEDIATES",
    "FLOAT32",
    "FLOAT32_CONTRACT",
    "FLOAT64",
    "MERGED_BFLOAT16",
    "MERGED_FLOAT16",
    "MERGED_FLOAT32",
    "PRESETS",
    "TF32",
    "TF32_CONTRACT",
    "Accumulator",
    "AnyOrder",
    "Blocked",
    "Bounds",
    "Choices",
    "Contract",
    "Departure",
    "Diagnosis",
    "Finding",
    "Forms",
    "Gain",
    "Grid",
    "Mistake",
    "Oracle",
    "Outcome",
    "Pairwise",
    "Probable",
    "Rotation",
    "ScaleSites",
    "State",
    "Status",
    "attention",
    "audit",
    "bounds",
    "dora_linear",
    "emulate",
    "judge",
    "lora_linear",
    "lora_merged",
    "message",
    "oracle_of",
]


class _Lazy(types.ModuleType):
    """The module, whose functions keep their names from the files that are called the same.

    Importing `judge.py` would set the attribute `judge` to that file; it is the function of it.
    """

    def __setattr__(self, name: str, value: typing.Any) -> None:
        if not (name in _HOME_OF and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


__getattr__, __dir__ = late.attributes(__name__, _HOME_OF)
sys.modules[__name__].__class__ = _Lazy
