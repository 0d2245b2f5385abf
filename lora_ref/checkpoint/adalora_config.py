"""AdaLoRA's adapter_config.json: what it has besides LoRA's settings, checked.

    {"peft_type": "ADALORA", "init_r": 12, "lora_alpha": 32, "total_step": 1000,
     "rank_pattern": {"PATH.lora_E": [true, false, ...]}}

rank_pattern is the mask of the last allocation, one flag for each of the init_r triplets; the file
then has only those that are true. It is no pattern of names and ranks, as LoRA's field of that name
is. The scale is α/(init_r + 10⁻⁵) for every layer whatever its mask.

Errors:  CheckpointError, one line, for every value PEFT could not use
Limits:  the whole of PEFT's other LoRA settings is checked, but r, use_rslora and alpha_pattern say
         nothing here: PEFT's AdaLoRA does not read them. lora_alpha ≤ 0 with a mask is refused:
         PEFT reloads it with another scale than it was trained with
Source:  PEFT 0.21.2, tuners/adalora/config.py; tuners/adalora/model.py,
         resize_modules_by_rank_pattern
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..adapters.adalora import peft_scaling
from .config_fields import CONFIG_NAME, Field, field_value, is_rank
from .errors import refusal, shown
from .peft_config import LoraConfig

_INIT_R = Field(12, is_rank, "an integer of at least 1")


@dataclass(frozen=True, eq=False)
class AdaLoraConfig:
    """`mask` has the flags of rank_pattern by path, or is None; `lora` what both methods have.

    `raw` has every field, `text` every byte.
    """

    init_r: int
    mask: Mapping[str, np.ndarray] | None
    lora: LoraConfig
    raw: dict[str, Any] = field(repr=False)
    text: bytes = field(repr=False)

    @classmethod
    def of(cls, fields: dict[str, Any], text: bytes, path: object = CONFIG_NAME) -> "AdaLoraConfig":
        """Check the fields; `path` is for messages."""
        if fields.get("peft_type") != "ADALORA":
            got = shown(fields.get("peft_type"))
            raise refusal(path, f"peft_type must be 'ADALORA', got {got}")
        shared = {**fields, "peft_type": "LORA", "rank_pattern": None}
        lora = LoraConfig.from_fields(shared, path)
        rank = field_value(fields, "init_r", _INIT_R, path)
        pattern = fields.get("rank_pattern")
        mask = None if pattern is None else _mask(pattern, rank, path)
        if mask is not None and lora.lora_alpha <= 0:
            need = "lora_alpha must be above 0 where there is a mask"
            raise refusal(path, f"{need}, got {shown(lora.lora_alpha)}")
        return cls(rank, mask, lora, fields, text)

    @property
    def scale(self) -> float:
        """The scale of every layer."""
        return peft_scaling(self.lora.lora_alpha, self.init_r)

    def rank(self, path: str) -> int:
        """How many triplets of the module `path` are in the file."""
        return self.init_r if self.mask is None else int(self.mask[path].sum())


def _mask(pattern, rank, path):
    if not isinstance(pattern, dict) or not all(_is_flags(v, rank) for v in pattern.values()):
        need = f"an object of lists of init_r = {rank} flags"
        raise refusal(path, f"rank_pattern must be {need}, got {shown(pattern)}")
    mask = {name.removesuffix(".lora_E"): np.array(v, bool) for name, v in pattern.items()}
    if len(mask) < len(pattern):
        raise refusal(path, f"rank_pattern must have every module once, got {shown(pattern)}")
    return mask


def _is_flags(value, rank):
    return isinstance(value, list) and len(value) == rank and {type(v) for v in value} == {bool}
