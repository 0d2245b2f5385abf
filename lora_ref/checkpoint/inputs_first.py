"""`FanInFanOut` around the adapters of a file whose configuration says fan_in_fan_out.

The arrays of the file are the same with and without: only the flag says that the base stores its
weights inputs first, as transformers' Conv1D does. LoRA, DoRA, AdaLoRA, VeRA and IA3 have it.

Limits:  PEFT sets the one flag anew at each linear module it wraps, so what is saved is that of the
         last. In a model that has both kinds of layer the base decides: take `inner`, or wrap
Source:  PEFT 0.21.2, tuners/lora/layer.py, dispatch_default; _create_new_module of the others
"""

from ..adapters.base import Adapter
from ..adapters.fan_in_fan_out import FanInFanOut


def turned(adapter: Adapter, fan_in_fan_out: bool) -> Adapter:
    """The adapter for weights that are stored as the flag says."""
    return FanInFanOut(adapter) if fan_in_fan_out else adapter


def inside(adapter: Adapter) -> Adapter:
    """The adapter whose arrays a file holds."""
    return adapter.inner if isinstance(adapter, FanInFanOut) else adapter


def check_turned(owner: str, path: str, adapter: Adapter, fan_in_fan_out: bool) -> None:
    """Refuse an adapter that would be read back for weights stored the other way round."""
    if isinstance(adapter, FanInFanOut) != fan_in_fan_out:
        need = "in" if fan_in_fan_out else "without"
        raise ValueError(
            f"{owner}: the adapter at {path} must be {need} FanInFanOut, as fan_in_fan_out of "
            f"config says of its module, got {type(adapter).__name__}"
        )
