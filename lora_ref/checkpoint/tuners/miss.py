"""MiSS in PEFT's layout.

    PATH.miss_block (r, m)           D
    PATH.miss_block (r, mini_r)      with init_weights "mini", which PEFT repeats over the outputs
    PATH.miss_block (m/r, r, r)      with "bat": M of `Bat`, another map

Source:  PEFT 0.21.2, tuners/miss/layer.py, MissLayer.update_layer
"""

from typing import Any

from ...adapters.base import Adapter
from ...adapters.miss import MiSS
from ...adapters.miss_bat import Bat
from ..config_fields import Field, is_flag, is_rank
from .tuner import Arrays, Module, Tuner, missing, wrong_adapter


def _read(module: Module, arrays: Arrays, shared: Arrays) -> MiSS | Bat:
    missing(module, arrays, ("miss_block",))
    t, r, form = arrays["miss_block"], module.settings["r"], module.settings["init_weights"]
    if form == "bat":
        return Bat(module.shaped("miss_block", t, (None, r, r)))
    columns = module.settings["mini_r"] if form == "mini" else None
    return MiSS(module.shaped("miss_block", t, (r, columns)))


def _write(module: Module, adapter: Adapter) -> Arrays:
    if not isinstance(adapter, MiSS | Bat):
        raise wrong_adapter(module, adapter, "MiSS or Bat")
    return {"miss_block": adapter.D if isinstance(adapter, MiSS) else adapter.M}


def _is_form(value: Any) -> bool:
    return is_flag(value) or value in ("mini", "bat")


TUNER = Tuner(
    "MISS",
    {
        "r": Field(64, is_rank, "a rank, an integer of at least 1"),
        "mini_r": Field(1, is_rank, "a number of outputs, an integer of at least 1"),
        "init_weights": Field(True, _is_form, "true, false, mini or bat"),
    },
    ("miss_block",),
    _read,
    _write,
    only="MiSS_only",
)
