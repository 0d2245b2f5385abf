"""AdaLoRA in PEFT's layout: adapter_config.json beside adapter_model.safetensors.

    base_model.model.PATH.lora_A    Q (r, n)
    base_model.model.PATH.lora_E    λ (r, 1)
    base_model.model.PATH.lora_B    P (m, r), none of them with a .weight

r is init_r, or how many flags of the module's mask are true: see `adalora_config`.

Errors:  CheckpointError, one line, for everything that is wrong with a directory; ValueError and
         TypeError where `from_adalora` is given what has no place in the layout
Limits:  a convolution's factors are those of its weight as a matrix (m, n·kernel) and need
         `AdaConvLoRA` around them
Source:  PEFT 0.21.2, tuners/adalora/model.py, resize_state_dict_by_rank_pattern
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..adapters.adalora import AdaLoRA
from ..adapters.base import Adapter
from ..rank.allocation.mask import kept
from .adalora_config import AdaLoraConfig
from .config_fields import text_of, with_targets
from .errors import refusal, shown
from .header import TensorSpec
from .inputs_first import check_turned, inside, turned
from .peft import write_adapter
from .peft_directory import Tensors, laid_out, read_fields, read_only, read_tensors
from .peft_keys import PREFIX
from .peft_modules import check_values
from .peft_replaced import Place, key_of, read_replaced

_SLOTS = {"lora_A": "Q", "lora_E": "lam", "lora_B": "P"}


@dataclass(frozen=True, eq=False)
class PeftAdaLoRA:
    """The adapters of a file by the paths of their modules, and what it replaces.

    A module is in `FanInFanOut` where the configuration says so, see `inputs_first`. `stored` maps
    every key of the file to its values, read-only and in their stored type.
    """

    config: AdaLoraConfig
    adapters: Mapping[str, Adapter]
    replaced: Mapping[str, np.ndarray]
    stored: Mapping[str, np.ndarray] = field(repr=False)
    specs: tuple[TensorSpec, ...] = field(repr=False)
    header: bytes | None = field(repr=False)

    @property
    def mask(self) -> Mapping[str, np.ndarray] | None:
        """The flags of rank_pattern by path, or None."""
        return self.config.mask

    @property
    def fields(self) -> Mapping[str, Any]:
        """The whole configuration."""
        return self.config.raw


def read_adalora(directory: str | os.PathLike[str]) -> PeftAdaLoRA:
    """Read the AdaLoRA adapter in `directory`."""
    path, text, fields = read_fields(directory)
    return _assembled(AdaLoraConfig.of(fields, text, path), read_tensors(directory))


def from_adalora(
    adapters: Mapping[str, Adapter],
    fields: Mapping[str, Any],
    mask: Mapping[str, np.ndarray] | None = None,
    *,
    replaced: Mapping[str, np.ndarray] | None = None,
) -> PeftAdaLoRA:
    """Lay out `adapters` as PEFT saves them with the settings `fields`; `mask` removes triplets.

    Adapters of a rank that is their mask's count, as `read_adalora` gives them, stay as they are.
    `fields` needs init_r, lora_alpha and total_step; its rank_pattern, if any, gives way to `mask`,
    and target_modules, if it has none, is the paths.
    `replaced` has base tensors (modules_to_save, biases) under their own names.
    """
    if mask is not None and mask.keys() != adapters.keys():
        got = f"{shown(sorted(mask))} and {shown(sorted(adapters))}"
        raise ValueError(f"from_adalora: mask must be of the modules of adapters, got {got}")
    if type(fields.get("total_step")) is not int or fields["total_step"] < 1:
        got = shown(fields.get("total_step"))
        raise ValueError(f"from_adalora: total_step of fields must be at least 1, got {got}")
    fields = with_targets(fields, adapters)
    fields = {**fields, "peft_type": "ADALORA", "rank_pattern": _pattern(mask)}
    config = AdaLoraConfig.of(fields, text_of(fields))
    arrays: dict[str, Any] = {}
    for path, adapter in adapters.items():
        small = _resized(path, inside(adapter), config)
        slots = {"lora_A": small.Q, "lora_E": small.lam[:, None], "lora_B": small.P}
        arrays |= {f"{PREFIX}{path}.{slot}": t for slot, t in slots.items()}
    arrays |= {key_of(name, adapters): t for name, t in (replaced or {}).items()}
    made = _assembled(config, laid_out(read_only(arrays), "from_adalora"))
    for path, adapter in adapters.items():
        check_turned("from_adalora", path, adapter, config.lora.fan_in_fan_out)
    return made


def write_adalora(
    directory: str | os.PathLike[str],
    adapters: Mapping[str, Adapter],
    fields: Mapping[str, Any],
    mask: Mapping[str, np.ndarray] | None = None,
    *,
    replaced: Mapping[str, np.ndarray] | None = None,
    overwrite: bool = False,
) -> None:
    """Write what `from_adalora` lays out, as `write_adapter` does."""
    made = from_adalora(adapters, fields, mask, replaced=replaced)
    write_adapter(directory, made, overwrite)


def _pattern(mask):
    if mask is None:
        return None
    flags = {f"{path}.lora_E": [bool(stay) for stay in mask[path]] for path in mask}
    return dict(sorted(flags.items()))


def _resized(path, adapter, config):
    if not isinstance(adapter, AdaLoRA):
        raise TypeError(
            f"from_adalora: the adapter at {path} must be AdaLoRA, got {type(adapter).__name__}"
        )
    if not math.isclose(adapter.scale, config.scale, rel_tol=1e-12):
        raise ValueError(
            f"from_adalora: the scale of {path} must be {config.scale}, as fields give it from "
            f"lora_alpha and init_r, got {adapter.scale}: replace(adapter, scale=peft_scaling("
            "lora_alpha, init_r)) has it, AdaLoRA.init_peft starts with it"
        )
    present, small = adapter.lam.shape[0], config.rank(path)
    if present not in (config.init_r, small):
        raise ValueError(
            f"from_adalora: the rank of {path} must be init_r = {config.init_r} or the {small} "
            f"triplets of mask, got {present}"
        )
    return adapter if present == small else kept(adapter, config.mask[path])


def _assembled(config: AdaLoraConfig, tensors: Tensors) -> PeftAdaLoRA:
    """The adapter of these tensors, checked."""
    stored, weights = tensors.stored, tensors.path
    specs = {spec.name: spec for spec in tensors.specs}
    found, others = _by_path(specs)
    if not found:
        need = f"must hold keys such as {PREFIX}PATH.lora_A"
        raise refusal(weights, f"{need}, got {shown(list(specs))}")
    if config.mask is not None and config.mask.keys() != found.keys():
        got = f"{shown(sorted(config.mask))} and {shown(sorted(found))}"
        raise refusal(weights, f"modules must be those of rank_pattern, got {got}")
    adapters = {}
    for path, names in found.items():
        _check_module(path, names, specs, stored, config.rank(path), weights)
        P, lam, Q = (stored[names[slot]] for slot in ("P", "lam", "Q"))
        adapter = AdaLoRA(P, lam[:, 0], Q, config.scale)
        adapters[path] = turned(adapter, config.lora.fan_in_fan_out)
    places = tuple(Place(path) for path in found)
    replaced = read_replaced(config.lora, others, places, specs, stored, weights)
    if replaced.tokens:
        raise refusal(weights, "must not replace rows of an embedding, which AdaLoRA cannot")
    base = {target: stored[name] for target, name in replaced.tensors.items()}
    return PeftAdaLoRA(config, adapters, base, stored, tensors.specs, tensors.header)


def _by_path(specs):
    found: dict[str, dict[str, str]] = {}
    others = []
    for name in specs:
        place, _, slot = name.removeprefix(PREFIX).rpartition(".")
        if name.startswith(PREFIX) and slot in _SLOTS:
            found.setdefault(place, {})[_SLOTS[slot]] = name
        else:
            others.append(name)
    return found, others


def _check_module(path, names, specs, stored, rank, weights):
    for name in names.values():
        check_values(specs[name], stored, weights)
    shapes = {slot: specs[name].shape for slot, name in names.items()}
    fits = len(shapes) == 3 and all(len(shape) == 2 for shape in shapes.values())
    if not fits or (shapes["Q"][0], *shapes["lam"], shapes["P"][1]) != (rank, rank, 1, rank):
        need = f"lora_A ({rank}, n), lora_E ({rank}, 1) and lora_B (m, {rank})"
        raise refusal(weights, f"module {shown(path)} must have {need}, got {shown(shapes)}")
