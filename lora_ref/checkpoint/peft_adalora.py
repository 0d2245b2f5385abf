"""AdaLoRA in PEFT's layout: adapter_config.json beside adapter_model.safetensors.

    base_model.model.PATH.lora_A    Q (r, n)
    base_model.model.PATH.lora_E    λ (r, 1)
    base_model.model.PATH.lora_B    P (m, r), none of them with a .weight

    {"peft_type": "ADALORA", "init_r": 12, "lora_alpha": 32, "total_step": 1000,
     "rank_pattern": {"PATH.lora_E": [true, false, ...]}}

rank_pattern is the mask of the last allocation, one flag for each of the init_r triplets; the file
then has only those that are true. It is no pattern of names and ranks, as LoRA's field of that name
is. The scale is α/(init_r + 10⁻⁵) for every layer whatever its mask.

Errors:  CheckpointError, one line, for everything that is wrong with a directory; ValueError and
         TypeError where `write_adalora` is given what has no place in the layout
Limits:  the whole of PEFT's other LoRA settings is checked, but r, use_rslora and alpha_pattern say
         nothing here: PEFT's AdaLoRA does not read them. A convolution's factors are those of its
         weight as a matrix (m, n·kernel) and need `AdaConvLoRA` around them. lora_alpha ≤ 0 with a
         mask is refused: PEFT reloads it with another scale than it was trained with
Source:  PEFT 0.21.2, tuners/adalora/model.py, resize_state_dict_by_rank_pattern,
         resize_modules_by_rank_pattern; tuners/adalora/config.py
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.adalora import AdaLoRA, peft_scaling
from ..rank.allocation.mask import kept
from .atomic import new_directory
from .checkpoint import ADAPTER_WEIGHTS
from .dtypes import dtype_name
from .errors import refusal, shown
from .header import TensorSpec
from .peft import refuse_foreign
from .peft_config import CONFIG_NAME, LoraConfig
from .peft_keys import NESTED, PREFIX
from .peft_modules import Kind, LoraModule, check_values
from .peft_replaced import read_replaced
from .safetensors import SafetensorsFile, write_safetensors
from .strict_json import parse_object, read_file

_SLOTS = {"lora_A": "Q", "lora_E": "lam", "lora_B": "P"}


@dataclass(frozen=True, eq=False)
class PeftAdaLoRA:
    """The adapters of a file by the paths of their modules, its mask, and what it replaces.

    `mask` has the flags of rank_pattern by path, or is None. `fields` is the whole configuration.
    """

    adapters: Mapping[str, AdaLoRA]
    mask: Mapping[str, np.ndarray] | None
    replaced: Mapping[str, np.ndarray]
    fields: Mapping[str, Any] = field(repr=False)


def read_adalora(directory: str | os.PathLike[str]) -> PeftAdaLoRA:
    """Read the AdaLoRA adapter in `directory`."""
    at, weights = Path(directory) / CONFIG_NAME, Path(directory) / ADAPTER_WEIGHTS
    fields = parse_object(read_file(at), at, "the file")
    rank, alpha, mask = _settings(fields, at)
    file = SafetensorsFile.open(weights)
    stored = {name: file.tensor(name) for name in file.tensors}
    specs = {name: info.spec for name, info in file.tensors.items()}
    found, others = _by_path(specs)
    if mask is not None and mask.keys() != found.keys():
        got = f"{shown(sorted(mask))} and {shown(sorted(found))}"
        raise refusal(weights, f"modules must be those of rank_pattern, got {got}")
    adapters, scale = {}, peft_scaling(alpha, rank)
    for path, names in found.items():
        kept_rank = rank if mask is None else int(mask[path].sum())
        _check_module(path, names, specs, stored, kept_rank, weights)
        P, lam, Q = (stored[names[slot]] for slot in ("P", "lam", "Q"))
        adapters[path] = AdaLoRA(P, lam[:, 0], Q, scale)
    config, modules = _as_lora(fields), _modules(found, rank, alpha, scale, stored)
    replaced = read_replaced(config, others, modules, specs, stored, weights)
    tensors = {target: stored[name] for target, name in replaced.tensors.items()}
    if replaced.tokens:
        raise refusal(weights, "must not replace rows of an embedding, which AdaLoRA cannot")
    return PeftAdaLoRA(adapters, mask, tensors, fields)


def write_adalora(
    directory: str | os.PathLike[str],
    adapters: Mapping[str, AdaLoRA],
    fields: Mapping[str, Any],
    mask: Mapping[str, np.ndarray] | None = None,
    *,
    replaced: Mapping[str, np.ndarray] | None = None,
    overwrite: bool = False,
) -> None:
    """Write `adapters` as PEFT saves them with the settings `fields`; `mask` removes triplets.

    Adapters of a rank that is their mask's count, as `read_adalora` gives them, stay as they are.
    `fields` needs init_r, lora_alpha and total_step; its rank_pattern, if any, gives way to `mask`.
    `replaced` has base tensors (modules_to_save, biases) under their own names.
    """
    pattern = None if mask is None else {f"{p}.lora_E": _flags(mask[p]) for p in sorted(adapters)}
    fields = {**fields, "peft_type": "ADALORA", "rank_pattern": pattern}
    rank, alpha, checked = _settings(fields, CONFIG_NAME)
    if type(fields.get("total_step")) is not int or fields["total_step"] < 1:
        got = shown(fields.get("total_step"))
        raise ValueError(f"write_adalora: total_step of fields must be at least 1, got {got}")
    tensors: dict[str, np.ndarray] = {}
    for path, adapter in adapters.items():
        small = _resized(path, adapter, rank, alpha, checked)
        arrays = {"lora_A": small.Q, "lora_E": small.lam[:, None], "lora_B": small.P}
        for slot, t in arrays.items():
            tensors[f"{PREFIX}{path}.{slot}"] = np.ascontiguousarray(t)
    for name, t in (replaced or {}).items():
        path, _, leaf = name.rpartition(".")
        place = f"{path}.{NESTED}.{leaf}" if path in adapters else name
        tensors[PREFIX + place] = np.ascontiguousarray(t)
    given = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in tensors.items()]
    directory = Path(directory)
    if overwrite and os.path.lexists(directory):
        refuse_foreign(directory)
    with new_directory(directory, overwrite=overwrite) as partial:
        text = json.dumps(fields, indent=2, sort_keys=True)
        (partial / CONFIG_NAME).write_text(text)
        write_safetensors(partial / ADAPTER_WEIGHTS, given, {"format": "pt"})


def _flags(mask):
    return [bool(stay) for stay in mask]


def _resized(path, adapter, rank, alpha, mask):
    if not isinstance(adapter, AdaLoRA):
        raise TypeError(
            f"write_adalora: the adapter at {path} must be AdaLoRA, got {type(adapter).__name__}"
        )
    scale = peft_scaling(alpha, rank)
    if not math.isclose(adapter.scale, scale, rel_tol=1e-12):
        raise ValueError(
            f"write_adalora: the scale of {path} must be {scale}, as fields give it from "
            f"lora_alpha and init_r, got {adapter.scale}"
        )
    present = adapter.lam.shape[0]
    small = rank if mask is None else int(mask[path].sum())
    if present not in (rank, small):
        raise ValueError(
            f"write_adalora: the rank of {path} must be init_r = {rank} or the {small} triplets of "
            f"mask, got {present}"
        )
    return adapter if present == small else kept(adapter, mask[path])


def _settings(fields, path):
    if fields.get("peft_type") != "ADALORA":
        raise refusal(path, f"peft_type must be 'ADALORA', got {shown(fields.get('peft_type'))}")
    _as_lora(fields)  # checks what both methods have
    rank, alpha = fields.get("init_r", 12), fields.get("lora_alpha", 8)
    if type(rank) is not int or rank < 1:
        raise refusal(path, f"init_r must be an integer of at least 1, got {shown(rank)}")
    pattern = fields.get("rank_pattern")
    if pattern is None:
        return rank, alpha, None
    if not isinstance(pattern, dict) or not all(_is_flags(v, rank) for v in pattern.values()):
        need = f"an object of lists of init_r = {rank} flags"
        raise refusal(path, f"rank_pattern must be {need}, got {shown(pattern)}")
    if alpha <= 0:
        raise refusal(path, f"lora_alpha must be above 0 where there is a mask, got {shown(alpha)}")
    return rank, alpha, {n.removesuffix(".lora_E"): np.array(v, bool) for n, v in pattern.items()}


def _is_flags(value, rank):
    return isinstance(value, list) and len(value) == rank and {type(v) for v in value} == {bool}


def _as_lora(fields):
    """The settings that AdaLoRA inherits from LoRA."""
    return LoraConfig.from_fields({**fields, "peft_type": "LORA", "rank_pattern": None})


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


def _modules(found, rank, alpha, scale, stored):
    return tuple(
        LoraModule(
            path,
            path,
            Kind.LINEAR,
            (f"{path}.weight",),
            rank,
            alpha,
            scale,
            (names["Q"], names["P"], None),
            stored,
        )
        for path, names in found.items()
    )
