"""Adapters, one variant a file; ADAPTERS lists them in reading order."""

from .adalora import AdaLoRA
from .adalora_conv import AdaConvLoRA
from .base import Adapter, apply_merged
from .bitfit import BitFit
from .conv import ConvLoRA
from .dora import DoRA
from .dora_columns import ColumnDoRA
from .dora_conv import ConvDoRA
from .dora_embedding import EmbeddingDoRA
from .double_lora import DoubleLoRA
from .embedding import EmbeddingLoRA
from .experts import ExpertLoRA
from .fan_in_fan_out import FanInFanOut
from .fused_qkv import FusedLoRA
from .hyperlora import HyperLoRA
from .hyperlora_per_example import HyperLoRAPerExample
from .ia3 import IA3, InputIA3
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .lora_bias import BiasedLoRA
from .lora_sum import LoRASum
from .loralib_conv import LoralibConvLoRA
from .miss import MiSS
from .miss_bat import Bat
from .oft import OFT
from .vera import VeRA

ADAPTERS: tuple[type[Adapter], ...] = (
    LoRA,
    DoRA,
    ColumnDoRA,
    DoubleLoRA,
    AdaLoRA,
    LoRASum,
    FanInFanOut,
    EmbeddingLoRA,
    EmbeddingDoRA,
    ConvLoRA,
    ConvDoRA,
    AdaConvLoRA,
    LoralibConvLoRA,
    BiasedLoRA,
    BitFit,
    FusedLoRA,
    ExpertLoRA,
    LoHa,
    IA3,
    InputIA3,
    LoKr,
    VeRA,
    MiSS,
    Bat,
    OFT,
    HyperLoRA,
    HyperLoRAPerExample,
)

__all__ = [
    "ADAPTERS",
    "IA3",
    "OFT",
    "AdaConvLoRA",
    "AdaLoRA",
    "Adapter",
    "Bat",
    "BiasedLoRA",
    "BitFit",
    "ColumnDoRA",
    "ConvDoRA",
    "ConvLoRA",
    "DoRA",
    "DoubleLoRA",
    "EmbeddingDoRA",
    "EmbeddingLoRA",
    "ExpertLoRA",
    "FanInFanOut",
    "FusedLoRA",
    "HyperLoRA",
    "HyperLoRAPerExample",
    "InputIA3",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRASum",
    "LoralibConvLoRA",
    "MiSS",
    "VeRA",
    "apply_merged",
]
