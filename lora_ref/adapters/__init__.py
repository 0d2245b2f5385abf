"""Adapters, one variant a file; ADAPTERS lists them in reading order."""

from .base import Adapter, apply_merged
from .lora import LoRA

ADAPTERS: tuple[type[Adapter], ...] = (LoRA,)

__all__ = ["ADAPTERS", "Adapter", "LoRA", "apply_merged"]
