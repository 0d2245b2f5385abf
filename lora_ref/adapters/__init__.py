"""Adapters, one variant a file; ADAPTERS lists them in reading order."""

from .base import Adapter, apply_merged
from .conv import ConvLoRA
from .dora import DoRA
from .embedding import EmbeddingLoRA
from .experts import ExpertLoRA
from .fan_in_fan_out import FanInFanOut
from .fused_qkv import FusedLoRA
from .lora import LoRA
from .lora_bias import BiasedLoRA
from .lora_sum import LoRASum
from .loralib_conv import LoralibConvLoRA

ADAPTERS: tuple[type[Adapter], ...] = (
    LoRA,
    DoRA,
    LoRASum,
    FanInFanOut,
    EmbeddingLoRA,
    ConvLoRA,
    LoralibConvLoRA,
    BiasedLoRA,
    FusedLoRA,
    ExpertLoRA,
)

__all__ = [
    "ADAPTERS",
    "Adapter",
    "BiasedLoRA",
    "ConvLoRA",
    "DoRA",
    "EmbeddingLoRA",
    "ExpertLoRA",
    "FanInFanOut",
    "FusedLoRA",
    "LoRA",
    "LoRASum",
    "LoralibConvLoRA",
    "apply_merged",
]
