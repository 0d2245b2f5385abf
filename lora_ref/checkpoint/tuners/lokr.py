"""LoKr in PEFT's layout.

    PATH.lokr_w1 (m₁, n₁)   C       or lokr_w1_a (m₁, r) and lokr_w1_b (r, n₁), its B and A
    PATH.lokr_w2 (m₂, n₂)   D       or lokr_w2_a (m₂, r) and lokr_w2_b (r, n₂)

The scale is α/r. Which factor is a product, and its shape, PEFT computes from r, decompose_both and
decompose_factor; a file that has them otherwise is one it does not load.

Limits:  a kernel (lokr_t2, or lokr_w2 of more than two axes) is refused
Source:  PEFT 0.21.2, tuners/lokr/layer.py, LoKrLayer.update_layer
"""

from ...adapters.base import Adapter
from ...adapters.lokr import Factor, LoKr, LowRank, factorization
from ...arrays import Array
from ..config_fields import Field, is_alpha, is_flag, is_rank
from .tuner import PATTERNS, Arrays, Module, Tuner, missing, wrong_adapter


def _read(module: Module, arrays: Arrays, shared: Arrays) -> LoKr:
    slots = [
        (name,) if name in arrays else (f"{name}_a", f"{name}_b") for name in ("lokr_w1", "lokr_w2")
    ]
    missing(module, arrays, (*slots[0], *slots[1]))
    C, D = (_factor(module, arrays, names) for names in slots)
    _check_sizes(module, C, D)
    return LoKr(C, D, module.settings.scale(module.path))


def _factor(module: Module, arrays: Arrays, names: tuple[str, ...]) -> Factor:
    if len(names) == 1:
        return module.shaped(names[0], arrays[names[0]], (None, None))
    rank = module.settings.of("r", module.path)
    B, A = (arrays[name] for name in names)
    return LowRank(
        module.shaped(names[1], A, (rank, None)), module.shaped(names[0], B, (None, rank))
    )


def _check_sizes(module: Module, C: Factor, D: Factor) -> None:
    settings = module.settings
    rank, near = settings.of("r", module.path), settings["decompose_factor"]
    sizes = [_sizes(C), _sizes(D)]
    (m1, m2), (n1, n2) = (
        factorization(a * b, None if near == -1 else near) for a, b in zip(*sizes, strict=True)
    )
    if sizes != [(m1, n1), (m2, n2)]:
        need = f"factors {(m1, n1)} and {(m2, n2)}, as decompose_factor {near} cuts its weight"
        raise module.refused(f"must have {need}, got {sizes[0]} and {sizes[1]}")
    cut = (settings["decompose_both"] and 2 * rank < max(m1, n1), 2 * rank < max(m2, n2))
    found = (isinstance(C, LowRank), isinstance(D, LowRank))
    if found != cut:
        words = {True: "a product", False: "whole"}
        need, got = (f"lokr_w1 {words[c]} and lokr_w2 {words[d]}" for c, d in (cut, found))
        raise module.refused(f"must have {need} at rank {rank}, got {got}")


def _sizes(factor: Factor) -> tuple[int, int]:
    if isinstance(factor, LowRank):
        return factor.B.shape[0], factor.A.shape[1]
    return factor.shape[0], factor.shape[1]


def _write(module: Module, adapter: Adapter) -> Arrays:
    if not isinstance(adapter, LoKr):
        raise wrong_adapter(module, adapter, "LoKr")
    found: dict[str, Array] = {}
    for name, factor in (("lokr_w1", adapter.C), ("lokr_w2", adapter.D)):
        if isinstance(factor, LowRank):
            found |= {f"{name}_a": factor.B, f"{name}_b": factor.A}
        else:
            found[name] = factor
    return found


TUNER = Tuner(
    "LOKR",
    {
        "r": Field(8, is_rank, "a rank, an integer of at least 1"),
        "alpha": Field(8, is_alpha, "a finite number"),
        "decompose_both": Field(False, is_flag, "true or false"),
        "decompose_factor": Field(-1, lambda v: type(v) is int, "an integer"),
        **PATTERNS,
    },
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    _read,
    _write,
)
