"""lora_ref: the executable definition of low-rank adaptation.

The rooms, each imported when it is first asked for, so that ``import lora_ref`` costs nothing:

    lora_ref.layers       linear, attention, norms, losses: (inputs) -> (value, backward)
    lora_ref.adapters     LoRA in all its layouts: W -> W', as a definition and as an algorithm
    lora_ref.init         how factors begin: from the weight, the inputs or the gradient
    lora_ref.rank         which rank an update has, the nearest of a lower one, ranks in training
    lora_ref.compose      what stands around an adapter
    lora_ref.verdict      rounding or a bug, and which bug, for the output of any kernel
    lora_ref.checkpoint   safetensors, model checkpoints, adapters in PEFT's layout
    lora_ref.verify       is a merged checkpoint right? rounding or a bug, and which bug
    lora_ref.plan         what an adapter trains, stores and computes on a model
    lora_ref.testing      gradient check, conformance checks, Hypothesis strategies
"""

import importlib
import types

__version__ = "0.1.0"
__all__ = [
    "adapters",
    "checkpoint",
    "compose",
    "init",
    "layers",
    "plan",
    "rank",
    "testing",
    "verdict",
    "verify",
]


def __getattr__(name: str) -> types.ModuleType:
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'lora_ref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
