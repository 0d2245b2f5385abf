"""The verdict: rounding or a bug, and which bug, for any output of any kernel.

    oracle = lora_linear(x, W, A, B, scale=16.0, dy=dy)     what should be computed, from what
    outcome = judge({"y": y, "dx": dx, …}, oracle, BFLOAT16_CONTRACT)

`lora_ref.testing.assert_matches` is the same as an assertion. In reading order: `grids` and
`contract` (what is claimed), `oracle` and `oracles` (what is computed), `bounds` (the
error-bounded reading of a kernel), `emulated` (its low-precision reading), `judge` (the verdict),
`matched_filter` and `mistakes` (which bug), `audit` (does it do what it claims), `power` (what
these inputs could not have shown), `exact` (tests that need no tolerance).
"""

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
from .judge import judge
from .message import message
from .oracle import Mistake, Oracle
from .oracles import attention, dora_linear, lora_linear, lora_merged, oracle_of
from .orders import AnyOrder, Blocked, Pairwise, Probable

__all__ = [
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
    "Mistake",
    "Oracle",
    "Outcome",
    "Pairwise",
    "Probable",
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
