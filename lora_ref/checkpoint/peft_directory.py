"""The two files of any PEFT adapter: found, read, and laid out, whatever method they are of.

Errors:  CheckpointError, one line, for what is no directory with both files, and for a pickle
Source:  PEFT 0.21.2, peft_model.py, PeftModel.save_pretrained
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import ADAPTER_WEIGHTS
from .config_fields import CONFIG_NAME
from .dtypes import dtype_name
from .errors import refusal
from .header import TensorSpec, build_header, parse_header
from .safetensors import SafetensorsFile, pickle_refusal
from .strict_json import parse_object, read_file

METADATA = {"format": "pt"}


@dataclass(frozen=True, eq=False)
class Tensors:
    """Every tensor of an adapter's file: values by key, specs in the order of the file, header.

    `path` is the file, or what stands for it in a message.
    """

    stored: Mapping[str, np.ndarray]
    specs: tuple[TensorSpec, ...]
    header: bytes | None
    path: object


class Renamed(Mapping[str, np.ndarray]):
    """Arrays under other names than those they are looked up by, each looked up when asked for."""

    def __init__(self, look_up: Callable[[str], np.ndarray], names: Mapping[str, str]) -> None:
        self._look_up, self._names = look_up, names

    def __getitem__(self, name: str) -> np.ndarray:
        return self._look_up(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def config_of(directory: str | os.PathLike[str]) -> Path:
    """The configuration in `directory`, which must be one."""
    directory = Path(directory)
    if not directory.is_dir():
        is_there = os.path.lexists(directory)
        got = "a file: give its directory" if is_there else "a path that does not exist"
        raise refusal(directory, f"must be a directory with an adapter in it, got {got}")
    return directory / CONFIG_NAME


def read_fields(directory: str | os.PathLike[str]) -> tuple[Path, bytes, dict[str, Any]]:
    """The path, the bytes and the fields of the configuration in `directory`."""
    path = config_of(directory)
    text = read_file(path)
    return path, text, parse_object(text, path, "the file")


def read_tensors(directory: str | os.PathLike[str]) -> Tensors:
    """The tensors of the adapter in `directory`, each mapped when it is asked for."""
    weights, pickle = Path(directory) / ADAPTER_WEIGHTS, Path(directory) / "adapter_model.bin"
    if not os.path.lexists(weights) and os.path.lexists(pickle):
        raise pickle_refusal(pickle)
    file = SafetensorsFile.open(weights)
    stored = Renamed(file.tensor, {name: name for name in file.tensors})
    specs = tuple(info.spec for info in file.tensors.values())
    return Tensors(stored, specs, file.raw_header, weights)


def read_only(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copies of `arrays` that nobody can write to."""
    copies = {name: np.array(values, order="C") for name, values in arrays.items()}
    for array in copies.values():
        array.setflags(write=False)
    return copies


def laid_out(stored: Mapping[str, np.ndarray], path: str) -> Tensors:
    """The tensors of a file that is still to be written; `path` stands for it in messages."""
    announced = [TensorSpec(name, dtype_name(t.dtype), t.shape) for name, t in stored.items()]
    header = build_header(announced, METADATA)
    # The order of the file, so that reading back what was written gives the modules in this order.
    _, infos = parse_header(header, sum(spec.nbytes for spec in announced), path)
    return Tensors(stored, tuple(info.spec for info in infos.values()), header, path)
