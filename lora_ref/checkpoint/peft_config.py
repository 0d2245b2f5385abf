"""adapter_config.json: what PEFT's LoRA settings say about the numbers, checked.

    {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4}, ...}

A field that is absent has PEFT's default. Rank and alpha of one module come from the first key of
rank_pattern and alpha_pattern that speaks for its path (see `patterns`), else from r and
lora_alpha; the scale is α/r, or α/√r with use_rslora.

Errors:  CheckpointError, one line, for what cannot be read, for another method than LoRA, for a
         LoRA variant whose map is not W + s B A, and for every value PEFT could not use
Limits:  the first key in the order of the file: PEFT sorts the keys when it saves, so where two
         keys speak for one module the file may say another thing than the training did, and PEFT
         itself then loads what the file says
Source:  PEFT 0.21.2, tuners/lora/config.py, LoraConfig; tuners/lora/model.py,
         LoraModel._create_and_replace; config.py, PeftConfigMixin.save_pretrained
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..adapters.lora import scaling, stabilised_scaling
from .config_fields import (
    CONFIG_NAME,
    Field,
    all_of,
    each_of,
    field_value,
    is_alpha,
    is_flag,
    is_index,
    is_rank,
    is_text,
    matching_key,
    text_of,
)
from .errors import CheckpointError, refusal, shown
from .patterns import compiled
from .strict_json import parse_object, read_file

_OTHER_MAPS = {
    "use_dora": "DoRA's magnitude",
    "use_qalora": "QALoRA's pooled input",
    "use_bdlora": "BD-LoRA's block-diagonal factor",
    "alora_invocation_tokens": "aLoRA's gate over tokens",
    "arrow_config": "Arrow's routing",
    "kasa_config": "KaSA's truncated base",
    "monteclora_config": "MonteCLoRA's sampled factor",
}
_BASE_CHANGING = re.compile(r"pissa(_niter_\d+)?|olora|corda|loftq|lora_ga")
_INITIAL = re.compile(rf"gaussian|eva|orthogonal|mica|{_BASE_CHANGING.pattern}")
_ELSEWHERE = "; lora_ref.checkpoint.open_adapter reads adapters of this method"


@dataclass(frozen=True)
class LoraConfig:
    """PEFT's LoRA settings that decide numbers; `raw` has every field, `text` every byte.

    `trainable_token_indices` is a tuple of rows, rows for each module, or None.
    """

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    fan_in_fan_out: bool
    bias: str
    lora_bias: bool
    modules_to_save: tuple[str, ...]
    target_modules: str | tuple[str, ...] | None
    target_parameters: tuple[str, ...]
    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] | None
    layer_replication: tuple[tuple[int, int], ...]
    init_lora_weights: bool | str
    base_model_name_or_path: str | None
    raw: dict[str, Any] = field(repr=False)
    text: bytes = field(repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "LoraConfig":
        """Read the file `path`."""
        path = Path(path)
        text = read_file(path)
        raw = parse_object(text, path, "the file")
        return _checked(raw, text, path, _elsewhere(raw.get("peft_type")))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], path: object = CONFIG_NAME) -> "LoraConfig":
        """Check the fields of a configuration that is in no file yet; peft_type may be left out.

        `path` is what they came from, for messages.
        """
        text = text_of({"peft_type": "LORA", **fields}, path)
        # Parsed again: what is checked is what will be read, keys in the order of the file.
        return _checked(parse_object(text, path, "the file"), text, path)

    @property
    def base_is_changed(self) -> bool:
        """Whether the factors belong to a base that PiSSA, OLoRA, ... changed before training.

        Where PEFT converted them on saving to those of the plain base, the file says true instead.
        """
        return is_text(self.init_lora_weights) and bool(
            _BASE_CHANGING.fullmatch(str(self.init_lora_weights))
        )

    def rank(self, path: str) -> int:
        """The rank of the module `path`; of a targeted parameter, its module's path and name."""
        return self.rank_pattern.get(matching_key(self.rank_pattern, path), self.r)

    def alpha(self, path: str) -> float:
        """The alpha of the module `path`."""
        return self.alpha_pattern.get(matching_key(self.alpha_pattern, path), self.lora_alpha)

    def scale(self, path: str) -> float:
        """The scale s of the module `path`."""
        rule = stabilised_scaling if self.use_rslora else scaling
        return rule(self.alpha(path), self.rank(path))

    def rank_source(self, path: str) -> str:
        """Where the rank of `path` is written, for messages."""
        key = matching_key(self.rank_pattern, path)
        return f"rank_pattern {shown(key)}" if key in self.rank_pattern else "r"


def refuse_changed_base(config: LoraConfig, path: object) -> None:
    """Refuse what belongs to a base that its initialisation changed; `path` is for messages."""
    if config.base_is_changed:
        how = shown(config.init_lora_weights)
        raise refusal(
            path,
            f"must be converted to a plain LoRA before: init_lora_weights {how} changed the base. "
            "PEFT's save_pretrained does it if path_initial_model_for_weight_conversion is given, "
            "lora_ref.init.plain_lora with the factors that training began with",
        )


def _elsewhere(peft_type):
    """The hint for a file of another method, if anything here reads it."""
    from .tuners import TUNERS  # the registry is made of modules that import this one

    known = ("LORA", "ADALORA", *TUNERS)
    return _ELSEWHERE if peft_type in known else "; nothing here reads adapters of this method"


def _is_tokens(value):
    return all_of(is_index)(value) or each_of(all_of(is_index))(value)


def _is_layers(value):
    return all_of(all_of(is_index))(value) and all(len(pair) == 2 for pair in value)


def _is_initial(value):
    return is_flag(value) or (is_text(value) and _INITIAL.fullmatch(value) is not None)


_FIELDS = {
    "r": Field(8, is_rank, "a rank, an integer of at least 1"),
    "lora_alpha": Field(8, is_alpha, "a finite number"),
    "use_rslora": Field(False, is_flag, "true or false"),
    "rank_pattern": Field({}, each_of(is_rank), "an object of ranks of at least 1", True),
    "alpha_pattern": Field({}, each_of(is_alpha), "an object of finite numbers", True),
    "fan_in_fan_out": Field(False, is_flag, "true or false"),
    "bias": Field("none", ("none", "all", "lora_only").__contains__, "none, all or lora_only"),
    "lora_bias": Field(False, is_flag, "true or false"),
    "modules_to_save": Field([], all_of(is_text), "a list of names", True),
    "target_modules": Field(
        None, lambda value: is_text(value) or all_of(is_text)(value), "a name or a list", True
    ),
    "target_parameters": Field([], all_of(is_text), "a list of names", True),
    "trainable_token_indices": Field(
        None, _is_tokens, "a list of rows (integers of at least 0) or an object of such lists", True
    ),
    "layer_replication": Field([], _is_layers, "a list of pairs of layers", True),
    "init_lora_weights": Field(
        True, _is_initial, f"true, false or one of {_INITIAL.pattern.replace('|', ', ')}", True
    ),
    "base_model_name_or_path": Field(None, is_text, "a name", True),
}


def _checked(raw, text, path, elsewhere=""):
    if raw.get("peft_type") != "LORA":
        got = shown(raw.get("peft_type"))
        raise refusal(path, f"peft_type must be 'LORA', got {got}{elsewhere}")
    for name, what in _OTHER_MAPS.items():
        if raw.get(name) not in (None, False, []):
            problem = f"{name} asks for {what}, which is not LoRA's W + s B A"
            hint = elsewhere if name == "use_dora" else ""
            raise refusal(path, f"{problem}: must be unset, got {shown(raw[name])}{hint}")
    values = {name: field_value(raw, name, known, path) for name, known in _FIELDS.items()}
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern in values[name]:
            try:
                compiled(pattern)
            except CheckpointError as error:
                raise refusal(path, f"{name}: {error}") from None
    return LoraConfig(**values, raw=raw, text=text)
