"""Emulated hardware: accumulators of 16 bits, truncating ones, tf32 and fp8 loads, split-K.

The library's own emulated reading runs the kernel's text as a contract says; each is judged by
that very contract, so a false alarm here is a contradiction between two readings.
"""

from lora_ref.verdict.accumulate import Split
from lora_ref.verdict.choices import Choices, Fusion, ScaleSite
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT8_E4M3_CONTRACT,
    FLOAT8_E5M2_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    TF32_CONTRACT,
    Accumulator,
    Contract,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32

from .cases import KINDS, Case
from .dtypes import stored
from .implementation import Implementation, Outputs
from .oracles import oracle_of

PLAIN = {
    "bfloat16": BFLOAT16_CONTRACT,
    "float16": FLOAT16_CONTRACT,
    "float32": FLOAT32_CONTRACT,
}
SMALL = 60_000  # products whose every addition is rounded one by one cost too much beyond


def tf32(dtype: str) -> Contract:
    return TF32_CONTRACT


def accumulates_bfloat16(dtype: str) -> Contract:
    return PLAIN[dtype].relax(accumulate=Accumulator(BFLOAT16))


def accumulates_float16(dtype: str) -> Contract:
    return PLAIN[dtype].relax(accumulate=Accumulator(FLOAT16))


def truncates(dtype: str) -> Contract:
    return PLAIN[dtype].relax(accumulate=Accumulator(FLOAT32, truncates=True))


def e4m3(dtype: str) -> Contract:
    return FLOAT8_E4M3_CONTRACT


def e5m2(dtype: str) -> Contract:
    return FLOAT8_E5M2_CONTRACT


def plain_contract(dtype: str) -> Contract:
    return PLAIN[dtype]


WAYS = {
    "tf32 loads": (tf32, ("float32",), Choices()),
    "bfloat16 accumulator": (accumulates_bfloat16, ("bfloat16",), Choices()),
    "float16 accumulator": (accumulates_float16, ("float16",), Choices()),
    "truncating accumulator": (truncates, ("bfloat16", "float16", "float32"), Choices()),
    "fp8 e4m3 loads": (e4m3, ("bfloat16",), Choices()),
    "fp8 e5m2 loads": (e5m2, ("bfloat16",), Choices()),
    "split-K by four": (plain_contract, tuple(PLAIN), Choices(order=Split(4))),
    "scale on an operand": (plain_contract, tuple(PLAIN), Choices(scale=ScaleSite.LEFT)),
    "second formula of each": (plain_contract, tuple(PLAIN), Choices(alternative=1)),
    "weights recomputed": (plain_contract, tuple(PLAIN), Choices(recompute=True)),
    "fused": (plain_contract, tuple(PLAIN), Choices(fusion=Fusion.EVERYTHING)),
}


def _is_small(case: Case) -> bool:
    """Whether emulating every addition is affordable."""
    if case.kind == "attention":
        (H, T, d), S = case["q"].shape, case["k"].shape[-2]
        return H * T * S * d < 10 * SMALL
    x = case["x"] if "x" in case.arrays else case["A"]
    return x.size * case["W"].shape[0] < 10 * SMALL


def _run(contract: Contract, choices: Choices, case: Case) -> Outputs:
    found = emulate(oracle_of(case), contract, choices)
    return {name: stored(t, case.dtype) for name, t in found.items()}


def _by(name: str, kind: str) -> Implementation:
    contract, dtypes, choices = WAYS[name]

    def run(case: Case) -> Outputs:
        return _run(contract(case.dtype), choices, case)

    return Implementation(f"emulated: {name}", kind, run, contract, dtypes, _is_small, every=3)


IMPLEMENTATIONS = tuple(_by(name, kind) for kind in KINDS for name in WAYS)
