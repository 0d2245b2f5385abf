"""OFT in PEFT's layout.

    PATH.oft_R.weight (g, w (w − 1) / 2)      q; one row where block_share is true

    use_cayley_neumann true    R = Neumann(terms − 1) of q
    use_cayley_neumann false   R = (I − Q)(I + Q)⁻¹, which is `cayley` of −q: q is stored negated

Limits:  coft projects the stored numbers once more in every forward and is refused; so are series
         of fewer than 3 terms, I and I + 2 Q, which belong to no Cayley map. Of 3 terms PEFT makes
         what it makes of 4; more than 1000 would only cost time. A width that PEFT had to adjust is
         taken from the file
Source:  PEFT 0.21.2, tuners/oft/layer.py, OFTRotationModule._cayley_batch, OFTLayer.update_layer
"""

from ...adapters.base import Adapter
from ...adapters.oft import OFT, Neumann, Rotation, cayley
from ..config_fields import Field, is_flag
from .tuner import Arrays, Module, Settings, Tuner, missing, wrong_adapter

_SLOT = "oft_R.weight"


def _read(module: Module, arrays: Arrays, shared: Arrays) -> OFT:
    missing(module, arrays, (_SLOT,))
    rows = 1 if module.settings["block_share"] else None
    q = module.shaped(_SLOT, arrays[_SLOT], (rows, None))
    rotation = _rotation(module.settings)
    return OFT(-q if rotation is cayley else q, rotation)


def _rotation(settings: Settings) -> Rotation:
    terms = settings["num_cayley_neumann_terms"]
    return Neumann(max(terms - 1, 3)) if settings["use_cayley_neumann"] else cayley


def _write(module: Module, adapter: Adapter) -> Arrays:
    if not isinstance(adapter, OFT):
        raise wrong_adapter(module, adapter, "OFT")
    return {_SLOT: -adapter.q if adapter.rotation is cayley else adapter.q}


TUNER = Tuner(
    "OFT",
    {
        "use_cayley_neumann": Field(True, is_flag, "true or false"),
        "num_cayley_neumann_terms": Field(
            5, lambda v: type(v) is int and 3 <= v <= 1000, "an integer from 3 to 1000"
        ),
        "block_share": Field(False, is_flag, "true or false"),
        "coft": Field(False, lambda v: v is False, "false: its projection is no part of the map"),
    },
    (_SLOT,),
    _read,
    _write,
    only="oft_only",
)
