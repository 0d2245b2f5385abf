"""Checkpoints on disk: the safetensors container, a model's layout, adapters in PEFT's layout.

    opened = open_adapter(directory)                    of any method that is known here
    opened.adapters["layers.0.q_proj"].merge(W)
    write_adapter(directory, from_lora({path: adapter}, {"r": 8, "lora_alpha": 16}))

What speaks of adapters is imported when it is first asked for: a container needs none of it.
"""

import typing

from .. import late
from .checkpoint import Checkpoint
from .dtypes import DTYPES, StoredDtype, dtype_name
from .errors import CheckpointError
from .header import TensorInfo, TensorSpec
from .safetensors import Blocks, SafetensorsFile, write_safetensors
from .write import write_checkpoint

if typing.TYPE_CHECKING:
    from .peft import PeftAdapter, write_adapter
    from .peft_adalora import PeftAdaLoRA, from_adalora, read_adalora, write_adalora
    from .peft_config import LoraConfig
    from .peft_convert import from_lora, to_lora
    from .peft_dora import PeftDoRA, from_dora, open_dora
    from .tuners import TUNERS, TunedAdapter, from_adapters, open_adapter

_HOMES = {
    "peft": ("PeftAdapter", "write_adapter"),
    "peft_adalora": ("PeftAdaLoRA", "from_adalora", "read_adalora", "write_adalora"),
    "peft_config": ("LoraConfig",),
    "peft_convert": ("from_lora", "to_lora"),
    "peft_dora": ("PeftDoRA", "from_dora", "open_dora"),
    "tuners": ("TUNERS", "TunedAdapter", "from_adapters", "open_adapter"),
}

__all__ = [
    "DTYPES",
    "TUNERS",
    "Blocks",
    "Checkpoint",
    "CheckpointError",
    "LoraConfig",
    "PeftAdaLoRA",
    "PeftAdapter",
    "PeftDoRA",
    "SafetensorsFile",
    "StoredDtype",
    "TensorInfo",
    "TensorSpec",
    "TunedAdapter",
    "dtype_name",
    "from_adalora",
    "from_adapters",
    "from_dora",
    "from_lora",
    "open_adapter",
    "open_dora",
    "read_adalora",
    "to_lora",
    "write_adalora",
    "write_adapter",
    "write_checkpoint",
    "write_safetensors",
]

__getattr__, __dir__ = late.attributes(__name__, late.homes(_HOMES))
