"""What adapters must have in common to be combined, and the fields that the result takes on.

Errors:  CheckpointError, one line, that names the directory
Limits:  of the configurations only what decides numbers is carried over: fields that speak of
         training or of how the factors began are PEFT's defaults in the result
Source:  PEFT 0.21.2, tuners/lora/model.py, _check_add_weighted_adapter: it refuses experts of
         parameters and modules_to_save as well, and joins the target_modules
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .config_fields import ends
from .errors import refusal, shown
from .peft import PeftAdapter
from .peft_config import refuse_changed_base
from .peft_modules import Kind
from .spectra import groups_of

_CARRIED = ("base_model_name_or_path", "revision", "task_type", "auto_mapping", "inference_mode")
_RESTRICTING = ("layers_to_transform", "layers_pattern", "exclude_modules", "layer_replication")


def open_alike(directories: Sequence[str | os.PathLike[str]]) -> tuple[PeftAdapter, ...]:
    """Open all of them, and refuse what has no combination."""
    adapters = tuple(PeftAdapter.open(directory) for directory in directories)
    for directory, adapter in zip(directories, adapters, strict=True):
        _refuse_uncombined(directory, adapter)
        for name in ("fan_in_fan_out", "layer_replication"):
            first, own = getattr(adapters[0].config, name), getattr(adapter.config, name)
            if own != first:
                need = f"must have the {name} of {directories[0]}, {shown(first)}"
                raise refusal(directory, f"{need}, got {shown(own)}")
    return adapters


def replaced_by_all(
    directories: Sequence[str | os.PathLike[str]], adapters: Sequence[PeftAdapter]
) -> Mapping[str, np.ndarray]:
    """The copies of base tensors, if every adapter has the same ones."""
    first = adapters[0].replaced
    for directory, adapter in zip(directories, adapters, strict=True):
        own = adapter.replaced
        other = [
            name
            for name in dict.fromkeys((*first, *own))
            if name not in own or name not in first or not _equal(first[name], own[name])
        ]
        if other:
            need = "stores whole tensors, which must be the same in all adapters to be combined"
            raise refusal(directory, f"{need}, got {len(other)} that are not: {shown(other)}")
    return first


def target_fields(adapters: Sequence[PeftAdapter], modules: Sequence[str]) -> dict[str, Any]:
    """The fields of the result but for its ranks; `modules` are those that it has factors of."""
    first = adapters[0].config
    fields = {name: first.raw[name] for name in _CARRIED if first.raw.get(name) is not None}
    saved = list(first.modules_to_save) if adapters[0].replaced else []
    return {
        **fields,
        "target_modules": _targets(adapters, modules),
        "fan_in_fan_out": first.fan_in_fan_out,
        "layer_replication": [list(pair) for pair in first.layer_replication] or None,
        "bias": first.bias if adapters[0].replaced else "none",
        "modules_to_save": saved or None,
    }


def _targets(adapters: Sequence[PeftAdapter], modules: Sequence[str]) -> list[str]:
    """The names of all, or the path of every module where they do not say it, or not alone.

    Of tied weights, ensured, PEFT puts factors on both: they are two updates from here on.
    """
    given: list[str] = []
    for adapter in adapters:
        targets = adapter.config.target_modules
        if not isinstance(targets, tuple) or any(adapter.config.raw.get(n) for n in _RESTRICTING):
            return sorted(modules)
        given += targets
    covered = all(ends(module, given) for module in modules)
    return sorted(set(given) if covered else modules)


def _refuse_uncombined(directory: str | os.PathLike[str], adapter: PeftAdapter) -> None:
    refuse_changed_base(adapter.config, directory)
    if adapter.tokens:
        got = shown([rows.target for rows in adapter.tokens])
        raise refusal(directory, f"must have no trained token rows to be combined, got {got}")
    for module in adapter.modules:
        if module.kind is Kind.PARAMETER:
            problem = "a targeted parameter, which PEFT does not combine"
        elif module.beta is not None:
            problem = "a lora_bias, which PEFT does not combine"
        elif groups_of(module) > 1:
            problem = "a grouped convolution, whose B has blocks"
        else:
            continue
        raise refusal(directory, f"module {shown(module.path)} must not be or have {problem}")


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
