"""PEFT's methods other than LoRA, one file each; TUNERS has them by peft_type.

    >>> import importlib.resources
    >>> from lora_ref.checkpoint import Checkpoint
    >>> with importlib.resources.as_file(importlib.resources.files("lora_ref") / "example") as here:
    ...     opened = open_adapter(here / "adapter")
    ...     W = Checkpoint.open(here / "base").tensor("encoder.layer.0.attention.self.query.weight")
    >>> adapter = opened.adapters["encoder.layer.0.attention.self.query"]
    >>> adapter.merge(W).shape
    (96, 96)

is a `TunedAdapter` for every method in TUNERS. LoRA, whose file holds more kinds of layer, is a
`PeftAdapter`, with DoRA's magnitudes a `PeftDoRA`, and AdaLoRA, whose file has a mask, a
`PeftAdaLoRA`. All of them have `adapters`, the adapter of each module by its path.
"""

import os

from ..errors import refusal, shown
from ..peft import PeftAdapter
from ..peft_adalora import PeftAdaLoRA, read_adalora
from ..peft_directory import read_fields
from ..peft_dora import PeftDoRA, open_dora
from . import ia3, loha, lokr, miss, oft, vera
from .tuned import TunedAdapter, from_adapters, open_tuned
from .tuner import Tuner

TUNERS: dict[str, Tuner] = {
    tuner.peft_type: tuner
    for tuner in (loha.TUNER, ia3.TUNER, lokr.TUNER, vera.TUNER, miss.TUNER, oft.TUNER)
}

__all__ = ["TUNERS", "TunedAdapter", "Tuner", "from_adapters", "open_adapter", "open_tuned"]


def open_adapter(
    directory: str | os.PathLike[str],
) -> PeftAdapter | PeftDoRA | PeftAdaLoRA | TunedAdapter:
    """Read the adapter in `directory`, of whatever method this library knows."""
    path, _, fields = read_fields(directory)
    peft_type = fields.get("peft_type")
    if peft_type == "LORA":
        return open_dora(directory) if fields.get("use_dora") else PeftAdapter.open(directory)
    if peft_type == "ADALORA":
        return read_adalora(directory)
    if not isinstance(peft_type, str) or peft_type not in TUNERS:
        known = ", ".join(("LORA", "ADALORA", *TUNERS))
        raise refusal(path, f"peft_type must be one of {known}, got {shown(peft_type)}")
    return open_tuned(directory, TUNERS[peft_type])
