"""Write a checkpoint like another one: same files, same order, other values.

The copy is loadable as the source is: besides the weights it gets the source's small files
(config, tokenizer, modelling code, subdirectories of such files), but no other weights, which
would be those of the model before the merge.

Errors:  CheckpointError if the target exists (without `overwrite`), is the source or holds it,
         is a directory that holds no checkpoint or an adapter, or cannot be written
Limits:  side files from 50 MB on, hidden ones and subdirectories with weights in them are left out;
         config.json is copied as it is, also where the dtypes change
Source:  huggingface_hub, serialization: layout and form of the index file
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .atomic import new_directory
from .checkpoint import ADAPTER_FILES, INDEX_SUFFIX, Checkpoint
from .errors import refusal, shown
from .header import TensorSpec
from .safetensors import PICKLE_SUFFIXES, Blocks, write_safetensors
from .strict_json import parse_object

_SIDE_FILE_LIMIT = 50_000_000
_WEIGHT_SUFFIXES = (
    *PICKLE_SUFFIXES,
    *(".safetensors", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".ot", ".tflite"),
)


def write_checkpoint(
    out: str | os.PathLike[str],
    like: Checkpoint,
    blocks: Callable[[str], Blocks],
    *,
    specs: Mapping[str, TensorSpec] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the checkpoint `out` with the names, files and order of `like`.

    `blocks(name)` gives a tensor's data as `write_safetensors` takes it, and is called when that
    tensor's turn comes, so one tensor is held at a time; `like.blocks` copies. `specs` names the
    tensors whose dtype or shape differs from `like`, and new ones, which go to the last file.
    `out` is a directory, or a single file if its name ends in .safetensors. Where only values
    change, every header and the index are those of `like`, byte for byte.
    """
    out = Path(out)
    _refuse_source(out, like)
    changed = {
        name: spec
        for name, spec in (specs or {}).items()
        if name not in like.homes or like.info(name).spec != spec
    }
    plan = _plan(like, changed)
    if out.suffix == ".safetensors":
        if len(plan) > 1:
            need = f"a directory, since {like.path} has {len(plan)} files"
            raise refusal(out, f"must be {need}, got the name of one file")
        _write_file(out, plan[0], like.files[0], blocks, overwrite)
        return
    if overwrite and os.path.lexists(out):
        _refuse_foreign(out)
    with new_directory(out, overwrite=overwrite) as partial:
        for file, tensors in zip(like.files, plan, strict=True):
            _write_file(partial / file.path.name, tensors, file, blocks, False)
        if like.index is not None:
            (partial / like.index.name).write_bytes(_index(like, plan, changed))
        if like.path.is_dir() or like.index is not None:
            _copy_side_files(like.files[0].path.parent, partial)


def _plan(like, changed):
    plan = [
        [changed.get(name, info.spec) for name, info in file.tensors.items()] for file in like.files
    ]
    plan[-1] += [spec for name, spec in changed.items() if name not in like.homes]
    return plan


def _write_file(path, tensors, source, blocks, overwrite):
    same = tensors == [info.spec for info in source.tensors.values()]
    # `name=spec.name` binds now: the function is called in a later turn of the loop.
    given = [(spec, lambda name=spec.name: blocks(name)) for spec in tensors]
    if same:
        write_safetensors(path, given, header=source.raw_header, overwrite=overwrite)
    else:
        write_safetensors(path, given, source.metadata or None, overwrite=overwrite)


def _index(like, plan, changed):
    raw = like.index.read_bytes()
    if not changed:
        return raw
    fields: dict[str, Any] = parse_object(raw, like.index, "the index")
    added = {name: like.files[-1].path.name for name in changed if name not in like.homes}
    fields["weight_map"] = {**fields["weight_map"], **added}
    metadata = fields.get("metadata")
    total = sum(spec.nbytes for tensors in plan for spec in tensors)
    fields["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "total_size": total}
    return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def _refuse_source(out, like):
    target = Path(os.path.realpath(out))
    # Both the path as given and the file it leads to: Hugging Face's cache is made of links.
    sources = [Path(os.path.abspath(file.path)) for file in like.files]
    sources += [Path(os.path.realpath(file.path)) for file in like.files]
    if any(target == source or target in source.parents for source in sources):
        raise refusal(out, f"must not be or hold the source of the merge, {like.path}")


def _refuse_foreign(out):
    if not out.is_dir() or out.is_symlink():
        raise refusal(out, "must be a directory to be overwritten by one, got something else")
    names = sorted(entry.name for entry in out.iterdir())
    if any(name in ADAPTER_FILES for name in names):
        raise refusal(out, "must hold a model to be overwritten, got an adapter")
    if names and not any(name.endswith((".safetensors", INDEX_SUFFIX)) for name in names):
        raise refusal(out, f"must hold a checkpoint to be overwritten, got {shown(names)}")


def _copy_side_files(source, target):
    for folder, subfolders, names in os.walk(source):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        here = Path(folder)
        if here != source and any(_is_weight(name) for name in names):
            continue
        for name in names:
            if not name.startswith(".") and not _is_weight(name) and name not in ADAPTER_FILES:
                _copy(here / name, target / here.relative_to(source) / name)


def is_part(name: str) -> bool:
    """Whether a file of this name is one of a model's or an adapter's own."""
    return _is_weight(name) or name in (*ADAPTER_FILES, "config.json")


def _is_weight(name):
    return name.lower().endswith((*_WEIGHT_SUFFIXES, ".index.json"))


def _copy(source, target):
    if source.is_file() and source.stat().st_size < _SIDE_FILE_LIMIT:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
