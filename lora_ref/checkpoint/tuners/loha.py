"""LoHa in PEFT's layout.

    PATH.hada_w1_a (m, r)   hada_w1_b (r, n)   hada_w2_a (m, r)   hada_w2_b (r, n)

They are B₁, A₁, B₂, A₂; the scale is α/r.

Limits:  a kernel in Tucker's form (hada_t1, hada_t2) is refused. One without is read as the matrix
         (m, n·kernel), which no key tells from a linear layer's
Source:  PEFT 0.21.2, tuners/loha/layer.py, LoHaLayer.create_adapter_parameters
"""

from ...adapters.base import Adapter
from ...adapters.loha import LoHa
from ..config_fields import Field, is_alpha, is_rank
from .tuner import PATTERNS, Arrays, Module, Tuner, missing, wrong_adapter

_SLOTS = {"hada_w1_a": "B1", "hada_w1_b": "A1", "hada_w2_a": "B2", "hada_w2_b": "A2"}


def _read(module: Module, arrays: Arrays, shared: Arrays) -> LoHa:
    missing(module, arrays, tuple(_SLOTS))
    rank = module.settings.of("r", module.path)
    m, _ = module.shaped("hada_w1_a", arrays["hada_w1_a"], (None, rank)).shape
    _, n = module.shaped("hada_w1_b", arrays["hada_w1_b"], (rank, None)).shape
    factors = {
        letter: module.shaped(slot, arrays[slot], (m, rank) if letter[0] == "B" else (rank, n))
        for slot, letter in _SLOTS.items()
    }
    return LoHa(**factors, scale=module.settings.scale(module.path))


def _write(module: Module, adapter: Adapter) -> Arrays:
    if not isinstance(adapter, LoHa):
        raise wrong_adapter(module, adapter, "LoHa")
    return {slot: getattr(adapter, letter) for slot, letter in _SLOTS.items()}


TUNER = Tuner(
    "LOHA",
    {
        "r": Field(8, is_rank, "a rank, an integer of at least 1"),
        "alpha": Field(8, is_alpha, "a finite number"),
        **PATTERNS,
    },
    (*_SLOTS, "hada_t1", "hada_t2"),
    _read,
    _write,
)
