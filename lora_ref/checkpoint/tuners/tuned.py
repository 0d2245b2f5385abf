"""An adapter of any registered method in PEFT's layout, read, laid out and checked.

Writing what was read gives the same two files, byte for byte: `write_adapter` takes either kind.

Errors:  CheckpointError, one line, for everything that is wrong with a directory; ValueError and
         TypeError where `from_adapters` is given what has no place in the layout
Limits:  as `PeftAdapter`: no pickles. Keys with an adapter's name in them are refused here
Source:  PEFT 0.21.2, peft_model.py, PeftModel.save_pretrained; config.py, PeftConfigMixin
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ...adapters.base import Adapter
from ...arrays import is_array
from ...shapes import ShapeError
from ...trees import Tree, leaves
from ..config_fields import CONFIG_NAME, Field, all_of, field_value, is_text, text_of
from ..errors import CheckpointError, refusal, shown
from ..header import TensorSpec
from ..inputs_first import check_turned, inside, turned
from ..patterns import compiled
from ..peft_directory import Tensors, laid_out, read_fields, read_only, read_tensors
from ..peft_keys import PREFIX
from ..peft_modules import check_values, check_work
from ..peft_replaced import Place, key_of, read_replaced
from ..strict_json import parse_object
from .tuner import Module, Settings, Tuner

_SHARED = "base_model."


@dataclass(frozen=True, eq=False)
class TunedAdapter:
    """One adapter: its settings, the adapters of its modules by path, and what it replaces.

    A module is in `FanInFanOut` where the settings say so, see `inputs_first`.
    `replaced` maps the name of a base tensor to its trained values, `ignored` has the keys that
    PEFT itself does not use. Arrays are read-only and in their stored type.
    """

    tuner: Tuner
    config: Settings
    adapters: Mapping[str, Adapter]
    replaced: Mapping[str, np.ndarray]
    ignored: tuple[str, ...]
    stored: Mapping[str, np.ndarray] = field(repr=False)
    specs: tuple[TensorSpec, ...] = field(repr=False)
    header: bytes | None = field(repr=False)


@dataclass(frozen=True)
class _Saving:
    """What `read_replaced` asks a configuration for."""

    bias: str
    modules_to_save: tuple[str, ...]
    trainable_token_indices: None = None


def open_tuned(directory: str | os.PathLike[str], tuner: Tuner) -> TunedAdapter:
    """Read the adapter in `directory`, which must be `tuner`'s."""
    path, text, given = read_fields(directory)
    settings = _settings(tuner, given, text, path)
    return _assembled(tuner, settings, read_tensors(directory))


def from_adapters(
    modules: Mapping[str, Adapter],
    config: Mapping[str, Any],
    tuner: Tuner,
    *,
    replaced: Mapping[str, np.ndarray] | None = None,
) -> TunedAdapter:
    """Lay out `modules`, a path each with its adapter, as PEFT saves `tuner` with `config`.

    `config` has the fields of adapter_config.json, of which those by which PEFT finds the modules
    may be left out (`Tuner.completed`); `replaced` base tensors under their own names.

    Errors: CheckpointError if the whole is not what PEFT would save with `config`.
    """
    bare = {path: inside(adapter) for path, adapter in modules.items()}
    settings = settings_of(tuner.completed(config, bare), tuner)
    found: dict[str, Any] = {
        f"{PREFIX}{path}.{slot}": t
        for path, adapter in bare.items()
        for slot, t in tuner.write(Module(path, settings), adapter).items()
    }
    found |= {_SHARED + name: t for name, t in tuner.share(bare).items()}
    found |= {key_of(name, modules): t for name, t in (replaced or {}).items()}
    made = _assembled(tuner, settings, laid_out(read_only(found), "from_adapters"))
    for path, adapter in modules.items():
        check_turned("from_adapters", path, adapter, settings.fan_in_fan_out)
        _check_same(path, inside(made.adapters[path]), bare[path])
    return made


def settings_of(config: Mapping[str, Any], tuner: Tuner) -> Settings:
    """The fields `config`, checked; peft_type may be left out."""
    given = {"peft_type": tuner.peft_type, **config}
    text = text_of(given)
    return _settings(tuner, parse_object(text, CONFIG_NAME, "the file"), text, CONFIG_NAME)


def _settings(tuner: Tuner, raw: Any, text: bytes, path: object) -> Settings:
    if raw.get("peft_type") != tuner.peft_type:
        need = f"peft_type must be {shown(tuner.peft_type)}"
        raise refusal(path, f"{need}, got {shown(raw.get('peft_type'))}")
    biases = ("none", "all", *([tuner.only] if tuner.only else []))
    known = {
        **tuner.fields,
        "bias": Field("none", biases.__contains__, f"one of {', '.join(biases)}"),
        "modules_to_save": Field([], all_of(is_text), "a list of names", True),
    }
    values = {name: field_value(raw, name, field, path) for name, field in known.items()}
    settings = Settings(values, raw, text)
    for name in settings.patterns:
        for pattern in values[name]:
            try:
                compiled(pattern)
            except CheckpointError as error:
                raise refusal(path, f"{name}: {error}") from None
    return settings


def _assembled(tuner: Tuner, settings: Settings, tensors: Tensors) -> TunedAdapter:
    """The adapter of these tensors, checked."""
    stored, specs, path = tensors.stored, tensors.specs, tensors.path
    shared, groups, others = _sorted(tuner, stored)
    if not groups:
        need = f"must hold keys such as {PREFIX}PATH.{tuner.slots[0]}"
        raise refusal(path, f"{need}, got {shown(list(stored))}")
    by_name = {spec.name: spec for spec in specs}
    for name in stored.keys() - {*others}:
        check_values(by_name[name], stored, path)
    if shared.keys() != {*tuner.shared}:
        need = ", ".join(_SHARED + name for name in tuner.shared)
        raise refusal(path, f"must hold {need}, got {shown(list(stored))}")
    patterns = [key for name in settings.patterns for key in settings[name]]
    check_work(patterns, len(groups), path)
    adapters = {}
    for place, arrays in groups.items():
        module = Module(place, settings, path)
        try:
            read = tuner.read(module, arrays, shared)
        except ShapeError as error:
            raise module.refused(f"must have arrays that fit: {error}") from None
        adapters[place] = turned(read, settings.fan_in_fan_out)
    bias = "lora_only" if settings["bias"] == tuner.only else settings["bias"]
    saving = _Saving(bias, settings["modules_to_save"])
    places = tuple(Place(place) for place in groups)
    kept = read_replaced(saving, others, places, by_name, stored, path)
    replaced = {name: stored[key] for name, key in kept.tensors.items()}
    return TunedAdapter(
        tuner, settings, adapters, replaced, kept.ignored, stored, specs, tensors.header
    )


def _sorted(
    tuner: Tuner, stored: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]], list[str]]:
    """The shared arrays by name, those of each module by slot, and the keys of all others."""
    shared: dict[str, np.ndarray] = {}
    groups: dict[str, dict[str, np.ndarray]] = {}
    others: list[str] = []
    for name in stored:
        rest = name.removeprefix(PREFIX)
        slot = next((slot for slot in tuner.slots if rest.endswith(f".{slot}")), None)
        if name.removeprefix(_SHARED) in tuner.shared:
            shared[name.removeprefix(_SHARED)] = stored[name]
        elif rest != name and slot is not None:
            groups.setdefault(rest.removesuffix(f".{slot}"), {})[slot] = stored[name]
        else:
            others.append(name)
    return shared, groups, others


def _check_same(path: str, read: Tree, given: Tree) -> None:
    """Refuse settings under which the file would be read as another adapter."""
    for f in fields(given):
        b = getattr(given, f.name)
        a = getattr(read, f.name, b)  # a reader may put its adapter into another
        if is_array(b):
            continue
        if [*leaves(b)]:
            same = type(a) is type(b)
        else:
            same = math.isclose(a, b, rel_tol=1e-12) if isinstance(b, float) else a == b
        if not same:
            raise ValueError(
                f"from_adapters: {f.name} of {path} must be {a}, as config gives it, got {b}"
            )
