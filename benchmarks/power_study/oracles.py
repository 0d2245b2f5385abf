"""The oracle of a case, by the library's own constructors."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from lora_ref.adapters.lora import LoRA
from lora_ref.layers.rotary import rotary_half, rotary_interleaved
from lora_ref.verdict import oracles
from lora_ref.verdict.oracle import Oracle

from .cases import Case


def oracle_of(case: Case) -> Oracle:
    """What the case's kernel computes in exact arithmetic, and the mistakes it is known for."""
    if case.kind == "attention":
        return _attention(case)
    t = case.arrays
    common = {"scale": case.s, "others": (LoRA(t["A2"], t["B2"], case.s),)}
    if case.kind == "lora_merged":
        return oracles.lora_merged(t["W"], t["A"], t["B"], dW=t["dy"], **common)
    factors = t["x"], t["W"], t["A"], t["B"]
    if case.kind == "lora_linear":
        return oracles.lora_linear(*factors, b=t["b"], dy=t["dy"], **common)
    detached = bool(case.static["detached"])
    return oracles.dora_linear(*factors, t["m"], dy=t["dy"], detach_norm=detached, **common)


def _attention(case: Case) -> Oracle:
    t, causal, rope = case.arrays, case.static["causal"], case.static["rope"]
    rotation = rope and oracles.Rotation(
        cos=t["q_cos"],
        sin=t["q_sin"],
        turn=rotary_half if rope.halves else rotary_interleaved,
    )
    oracle = oracles.attention(
        *(t[name] for name in "qkv"),
        mask=case.static["mask"],
        causal=causal is not None,
        offset=causal or 0,
        scale=case.static["scale"],
        rotation=rotation,
        do=t["dy"],
    )
    if rope is None:
        return oracle
    known = {"positions": rope.positions(t["q"].shape[-2]), "base": rope.base}
    return replace(oracle, static={**oracle.static, **known})


@lru_cache(maxsize=8)
def reference(case: Case) -> dict[str, np.ndarray]:
    """Every output in float64."""
    with np.errstate(all="ignore"):
        return oracle_of(case).reference()
