"""A model's checkpoint: one safetensors file, or a directory in Hugging Face's layout.

    model.safetensors                                 one file, of any name if it is the only one
    model.safetensors.index.json + its shards         {"weight_map": {tensor: file}, "metadata": {}}
    config.json                                       what the model is; may be absent

Of `model.safetensors` and an index beside it the file wins, as transformers loads it. Of pickles
(.bin) nothing is read.

Errors:  CheckpointError, one line, for a path that is no checkpoint, an adapter given as a model,
         and every disagreement between an index and its shards
Source:  transformers 4.56, modeling_utils.py, _get_resolved_checkpoint_files;
         huggingface_hub, serialization (the index file)
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import CheckpointError, refusal, shown
from .header import TensorInfo
from .safetensors import PICKLE_SUFFIXES, Blocks, SafetensorsFile, pickle_refusal
from .strict_json import parse_object, read_file

INDEX_SUFFIX = ".safetensors.index.json"
WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = ("adapter_config.json", ADAPTER_WEIGHTS, "adapter_model.bin")


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors over one or several files, each mapped only when asked for.

    `files` are in the order of their names, `config` is config.json ({} if there is none), `index`
    is the index file's path (None if there is none), `homes` says which file holds which tensor.
    """

    path: Path
    files: tuple[SafetensorsFile, ...]
    config: dict[str, object]
    index: Path | None
    homes: dict[str, SafetensorsFile]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Find, open and check every file of the checkpoint at `path`; no tensor is read."""
        path = Path(path)
        found = _find(path)
        if found.name.endswith(INDEX_SUFFIX):
            files, index = _open_shards(found), found
        else:
            files, index = (SafetensorsFile.open(found),), None
        homes = {name: file for file in files for name in file.tensors}
        config = found.parent / "config.json"
        there = os.path.lexists(config)
        fields = parse_object(read_file(config), config, "the file") if there else {}
        return cls(path, files, fields, index, homes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors: file by file, in the order of each header."""
        return tuple(self.homes)

    @property
    def shards(self) -> list[tuple[str, tuple[str, ...]]]:
        """The name of each file and of the tensors in it."""
        return [(file.path.name, tuple(file.tensors)) for file in self.files]

    def info(self, name: str) -> TensorInfo:
        """Return dtype, shape and place of a tensor."""
        return self._home(name).tensors[name]

    def tensor(self, name: str) -> np.ndarray:
        """Return the tensor, read-only and mapped; unmapped when the array is gone."""
        return self._home(name).tensor(name)

    def blocks(self, name: str) -> Blocks:
        """Return what the writer takes to copy the tensor unchanged, of any dtype."""
        return self._home(name).blocks(name)

    def _home(self, name):
        if name not in self.homes:
            has = f"has {len(self.homes)} tensors: {shown(list(self.homes))}"
            raise refusal(self.path, f"no tensor {shown(name)}; {has}")
        return self.homes[name]


def _find(path):
    if not os.path.exists(path):
        raise refusal(path, "does not exist; must be a model directory or a .safetensors file")
    if path.name in ADAPTER_FILES:
        raise _adapter_refusal(path)
    if not os.path.isdir(path):
        return path
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise refusal(path, f"cannot be read: {error.strerror}") from None
    if WEIGHTS in names:
        return path / WEIGHTS
    weights = [name for name in names if name.endswith(".safetensors") and name != ADAPTER_WEIGHTS]
    indices = [name for name in names if name.endswith(INDEX_SUFFIX)]
    candidates = indices or weights
    if len(candidates) > 1:
        raise refusal(path, f"must hold one checkpoint (name the file), got {shown(candidates)}")
    if candidates:
        return path / candidates[0]
    if any(name in ADAPTER_FILES for name in names):
        raise _adapter_refusal(path)
    pickles = [name for name in names if name.lower().endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise pickle_refusal(path / pickles[0])
    need = f"is no checkpoint: must hold {WEIGHTS}, another .safetensors file or an index of shards"
    raise refusal(path, f"{need}, got {shown(names)}")


def _adapter_refusal(path: Path) -> CheckpointError:
    return refusal(path, "is an adapter in PEFT's layout, where a model's checkpoint is needed")


def _open_shards(index):
    weight_map = parse_object(read_file(index), index, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise refusal(index, f"weight_map must be an object of file names, got {shown(weight_map)}")
    for name, shard in weight_map.items():
        if not _is_plain(shard):
            need = "a plain .safetensors file name inside the directory"
            raise refusal(index, f"weight_map: {shown(name)} must be in {need}, got {shown(shard)}")
    missing = [s for s in sorted(set(weight_map.values())) if not os.path.exists(index.parent / s)]
    if missing:
        count = f"got {len(missing)} of {len(set(weight_map.values()))} missing"
        raise refusal(index, f"every shard must be there, {count}: {shown(missing)}")
    names = sorted(set(weight_map.values()))
    files = tuple(SafetensorsFile.open(index.parent / name) for name in names)
    _check_index(index, weight_map, files)
    return files


def _is_plain(shard):
    if not isinstance(shard, str) or not shard.endswith(".safetensors"):
        return False
    return shard.isprintable() and not shard.startswith(".") and not set(shard) & set("/\\:")


def _check_index(index, weight_map, files):
    homes: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in homes:
                both = f"{shown(homes[name])} and {shown(file.path.name)}"
                raise refusal(index, f"a tensor must be in one shard, got {shown(name)} in {both}")
            homes[name] = file.path.name
    for name, shard in weight_map.items():
        if homes.get(name) != shard:
            got = shown(homes[name]) if name in homes else "it in no shard"
            raise refusal(index, f"{shown(name)} must be in {shown(shard)}, got {got}")
    extra = [name for name in homes if name not in weight_map]
    if extra:
        got = f"got {len(extra)} that are not: {shown(extra)}"
        raise refusal(index, f"every tensor of the shards must be in weight_map, {got}")
