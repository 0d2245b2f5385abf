"""An adapter in PEFT's layout: adapter_config.json beside adapter_model.safetensors.

Reading checks everything and maps a tensor only when it is asked for. Writing what was read gives
the same two files, byte for byte; what `from_lora` made is written as PEFT writes it.

Errors:  CheckpointError, one line, for everything that is wrong with a directory; ValueError and
         TypeError where `from_lora` or `to_lora` are given what has no place in PEFT's layout
Limits:  adapter_model.bin is a pickle and is refused unread. Keys that have the name of an adapter
         in them (lora_A.default.weight), as a state dict has before PEFT saves it, are read if all
         have the same one, which is then `infix`: PEFT loads them under that adapter name only
Source:  PEFT 0.21.2, peft_model.py, PeftModel.save_pretrained; the keys: `peft_modules` and
         `peft_replaced`
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..adapters.base import Adapter
from ..layers.convolution import Geometry
from .atomic import new_directory
from .checkpoint import ADAPTER_FILES, ADAPTER_WEIGHTS
from .errors import refusal, shown
from .header import TensorSpec
from .peft_config import CONFIG_NAME, LoraConfig
from .peft_directory import METADATA, Renamed, Tensors, config_of, read_tensors
from .peft_keys import parse_key
from .peft_modules import LoraModule, read_modules
from .peft_replaced import TokenRows, read_replaced
from .peft_to_lora import to_lora
from .safetensors import write_safetensors

_COMPANIONS = (*ADAPTER_FILES, "README.md", "PROVENANCE.json")


@dataclass(frozen=True, eq=False)
class PeftAdapter:
    """One LoRA adapter: its settings, the factors of each module, and what it replaces.

    `replaced` maps the name of a base tensor to its trained values, `tokens` are the rows that
    replace rows of an embedding, `ignored` the keys that PEFT itself does not use. `stored` maps
    every key of the file to its values; all arrays are read-only and in their stored type. `path`
    is the file, for messages.
    """

    config: LoraConfig
    modules: tuple[LoraModule, ...]
    replaced: Mapping[str, np.ndarray]
    tokens: tuple[TokenRows, ...]
    ignored: tuple[str, ...]
    infix: str | None
    stored: Mapping[str, np.ndarray] = field(repr=False)
    specs: tuple[TensorSpec, ...] = field(repr=False)
    header: bytes | None = field(repr=False)
    path: object = field(repr=False)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "PeftAdapter":
        """Read the adapter in `directory`."""
        return assembled(LoraConfig.read(config_of(directory)), read_tensors(directory))

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapter of each module by its path; see `adapters_with` for what needs to be told."""
        return self.adapters_with()

    def adapters_with(
        self, geometries: Mapping[str, Geometry] | None = None, *, on_residual: bool = False
    ) -> dict[str, Adapter]:
        """The adapter of each module, as `to_lora` makes it: by path, a parameter's by its name.

        A convolution needs its geometry under its path. Factors of an adapter whose initialisation
        changed the base (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) belong to that changed base, the
        residual: `on_residual` says that this is where they go.

        Errors: CheckpointError for factors of a residual where it is not said; ValueError for a
        convolution without its geometry.
        """
        if not on_residual:
            refuse_residual(self.config, self.path)
        given = geometries or {}
        return {module.name: to_lora(module, given.get(module.path)) for module in self.modules}


def refuse_residual(config: LoraConfig, path: object) -> None:
    """Refuse factors of a changed base before they are taken for those of the base itself."""
    if config.base_is_changed:
        how = shown(config.init_lora_weights)
        raise refusal(
            path,
            f"holds factors of the base that init_lora_weights {how} changed, not of the base "
            "itself: call adapters_with(on_residual=True) and give them that residual, such as "
            "lora_ref.init.pissa(W, rank, scale)[1], or let PEFT's save_pretrained convert them "
            "with path_initial_model_for_weight_conversion",
        )


def assembled(config: LoraConfig, tensors: Tensors) -> PeftAdapter:
    """Make the adapter of these tensors, checked against `config`."""
    stored, specs, path = tensors.stored, tensors.specs, tensors.path
    keys = {spec.name: parse_key(spec.name) for spec in specs}
    factors = {name: factor for name, factor in keys.items() if factor is not None}
    others = [name for name, factor in keys.items() if factor is None]
    infixes = {factor.infix for factor in factors.values()}
    if len(infixes) > 1:
        got = shown(sorted(infix or "none" for infix in infixes))
        raise refusal(path, f"must hold one adapter, got adapter names in the keys: {got}")
    if not factors:
        got = shown(list(keys))
        need = "must hold keys such as base_model.model.PATH.lora_A.weight"
        raise refusal(path, f"{need}, got {got}")
    by_name = {spec.name: spec for spec in specs}
    modules = read_modules(config, factors, by_name, stored, path)
    found = read_replaced(config, others, modules, by_name, stored, path)
    replaced = Renamed(stored.__getitem__, found.tensors)
    [infix] = infixes
    return PeftAdapter(
        config, modules, replaced, found.tokens, found.ignored, infix, stored, specs,
        tensors.header, path,
    )  # fmt: skip


class Written(Protocol):
    """The bytes of a configuration."""

    @property
    def text(self) -> bytes:
        """The whole file."""


class Writable(Protocol):
    """An adapter of any method, with all that its two files hold."""

    @property
    def config(self) -> Written:
        """The settings."""

    @property
    def stored(self) -> Mapping[str, np.ndarray]:
        """Every key with its values."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The tensors in the order of the file."""

    @property
    def header(self) -> bytes | None:
        """The header as it was read, or None."""


def write_adapter(
    directory: str | os.PathLike[str], adapter: Writable, overwrite: bool = False
) -> None:
    """Write `adapter` as the new directory `directory`, which is there whole or not at all.

    With `overwrite`, a directory that holds an adapter and nothing else gives way to it.
    """
    directory = Path(directory)
    if overwrite and os.path.lexists(directory):
        refuse_foreign(directory)
    given = [(spec, adapter.stored[spec.name]) for spec in adapter.specs]
    metadata = METADATA if adapter.header is None else None
    with new_directory(directory, overwrite=overwrite) as partial:
        (partial / CONFIG_NAME).write_bytes(adapter.config.text)
        write_safetensors(partial / ADAPTER_WEIGHTS, given, metadata, header=adapter.header)


def refuse_foreign(directory: Path) -> None:
    """Refuse to overwrite a directory that holds anything but an adapter's own files."""
    if not directory.is_dir() or directory.is_symlink():
        raise refusal(directory, "must be a directory to be overwritten by one, got something else")
    names = {entry.name for entry in directory.iterdir()}
    own = {name for name in names.intersection(_COMPANIONS) if not (directory / name).is_dir()}
    if names != own or (names and CONFIG_NAME not in names):
        problem = "must hold an adapter and nothing else to be overwritten"
        raise refusal(directory, f"{problem}, got {shown(sorted(names - own or names))}")
