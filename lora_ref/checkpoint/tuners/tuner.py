"""What a method of PEFT's other than LoRA must say for its files to be read and written.

    TUNER = Tuner("LOHA", fields, slots, only, read, write)

A new method is one file with its `Tuner`, and one line in `lora_ref.checkpoint.tuners`.

Source:  PEFT 0.21.2, tuners/tuners_utils.py, BaseTuner._get_adapter_state_dict, which saves every
         parameter of a tuner's layers under base_model.model.PATH.SLOT
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...adapters.base import Adapter
from ...adapters.lora import scaling
from ...arrays import Array
from ..config_fields import (
    CONFIG_NAME,
    Field,
    each_of,
    is_alpha,
    is_flag,
    is_rank,
    matching_key,
    with_targets,
)
from ..errors import CheckpointError, refusal, shown

PATTERNS = {
    "rank_pattern": Field({}, each_of(is_rank), "an object of ranks of at least 1", True),
    "alpha_pattern": Field({}, each_of(is_alpha), "an object of finite numbers", True),
}
# Of the methods that PEFT wraps around transformers' Conv1D.
ORIENTATION = {"fan_in_fan_out": Field(False, is_flag, "true or false")}


@dataclass(frozen=True)
class Settings:
    """The checked fields of a configuration; `raw` has every field, `text` every byte."""

    values: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)
    text: bytes = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names of the fields of patterns that there are."""
        return tuple(name for name in PATTERNS if name in self.values)

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the adapted weights are stored inputs first."""
        return bool(self.values.get("fan_in_fan_out", False))

    def of(self, name: str, path: str) -> Any:
        """The value for one module of a field, r or alpha, that has a field of patterns."""
        patterns = self["rank_pattern" if name == "r" else f"{name}_pattern"]
        return patterns.get(matching_key(patterns, path), self[name])

    def scale(self, path: str) -> float:
        """α/r of the module `path`."""
        return scaling(self.of("alpha", path), self.of("r", path))


@dataclass(frozen=True)
class Module:
    """The module that is read or written: its path and the settings; `file` is for messages."""

    path: str
    settings: Settings
    file: object = CONFIG_NAME

    def refused(self, problem: str) -> CheckpointError:
        """The error that says what must be true of the module and is not."""
        return refusal(self.file, f"module {shown(self.path)} {problem}")

    def shaped(self, slot: str, t: Array, shape: tuple[int | None, ...]) -> Array:
        """`t`, which must have this shape; None is any size but 0."""
        sizes = tuple(t.shape)
        fits = len(sizes) == len(shape) and 0 not in sizes
        if not fits or any(w is not None and s != w for s, w in zip(sizes, shape, strict=True)):
            need = "(" + ", ".join("any" if w is None else str(w) for w in shape) + ")"
            raise self.refused(f"must have {slot} of shape {need}, got {list(sizes)}")
        return t


Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Tuner:
    """One peft_type. `fields` are the settings that decide numbers, `slots` the keys of a module.

    `read` makes an adapter of a module's arrays by slot and the file's shared ones; `write` gives
    a module's arrays back, and `share` those that all modules share, by the names in `shared`.
    `only` is the value of the field bias that saves the biases of adapted modules, if there is one.
    `completed` adds to the fields those by which PEFT finds these modules, where they are left out.
    """

    peft_type: str
    fields: Mapping[str, Field]
    slots: tuple[str, ...]
    read: Callable[[Module, Arrays, Arrays], Adapter]
    write: Callable[[Module, Adapter], Arrays]
    only: str | None = None
    shared: tuple[str, ...] = ()
    share: Callable[[Mapping[str, Adapter]], Arrays] = lambda modules: {}
    completed: Callable[[Mapping[str, Any], Mapping[str, Adapter]], dict[str, Any]] = with_targets


def missing(module: Module, arrays: Arrays, need: tuple[str, ...]) -> None:
    """Refuse a module that has other slots than those it needs."""
    if arrays.keys() != {*need}:
        raise module.refused(f"must have {', '.join(need)}, got {shown(sorted(arrays))}")


def wrong_adapter(module: Module, adapter: Adapter, need: str) -> TypeError:
    """The error for an adapter that the method cannot hold."""
    return TypeError(
        f"from_adapters: the adapter at {module.path} must be {need}, got {type(adapter).__name__}"
    )
