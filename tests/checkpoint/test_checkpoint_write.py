"""A checkpoint written like another: same files, whole or not at all, nothing lost."""

import json
import os

import numpy as np
import pytest
from containers import FIRST, INDEX, SECOND, W, b, content, sharded, single

from lora_ref.checkpoint import Checkpoint, CheckpointError, TensorSpec, write_checkpoint
from lora_ref.checkpoint import write as write_module


@pytest.mark.parametrize("make", [single, sharded])
def test_a_copy_is_the_source_byte_for_byte(tmp_path, make):
    source = make(tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    like = Checkpoint.open(source)
    write_checkpoint(tmp_path / "out", like, like.blocks)
    assert content(tmp_path / "out") == content(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_what_belongs_to_the_unmerged_model_or_is_large_is_not_copied(tmp_path, monkeypatch):
    source = single(tmp_path / "source")
    monkeypatch.setattr(write_module, "_SIDE_FILE_LIMIT", 100)
    kept = {"model.safetensors", "config.json", "vocab.txt"}
    (source / "vocab.txt").write_text("a")
    for name in ("pytorch_model.bin", "model.onnx", ".env", "adapter_config.json"):
        (source / name).write_text("x")
    (source / "large.json").write_text("x" * 100)
    single(source / "checkpoint-500")
    (source / ".git").mkdir()
    (source / ".git" / "config").write_text("x")
    like = Checkpoint.open(source)
    write_checkpoint(tmp_path / "out", like, like.blocks)
    assert set(content(tmp_path / "out")) == kept


def test_changed_and_new_tensors_go_where_they_belong(tmp_path):
    like = Checkpoint.open(sharded(tmp_path / "source"))
    values = {"w": W.astype(np.float16), "b": b, "extra": np.float32(5)}
    specs = {"w": TensorSpec("w", "F16", (7, 11)), "extra": TensorSpec("extra", "F32", ())}
    write_checkpoint(tmp_path / "out", like, values.__getitem__, specs=specs)
    out = Checkpoint.open(tmp_path / "out")
    assert out.shards == [(FIRST, ("w",)), (SECOND, ("b", "extra"))]
    for name, value in values.items():
        assert out.tensor(name).dtype == value.dtype
        np.testing.assert_array_equal(out.tensor(name), value)
    index = {
        "metadata": {"total_size": 178},
        "weight_map": {"b": SECOND, "extra": SECOND, "w": FIRST},
    }
    assert (tmp_path / "out" / INDEX).read_text() == json.dumps(index, indent=2) + "\n"


def test_metadata_is_kept_where_a_dtype_changes(tmp_path):
    like = Checkpoint.open(single(tmp_path / "source"))
    values = {"w": W.astype(np.float16), "b": b}
    specs = {"w": TensorSpec("w", "F16", (7, 11))}
    write_checkpoint(tmp_path / "out", like, values.__getitem__, specs=specs)
    assert Checkpoint.open(tmp_path / "out").files[0].metadata == {"format": "pt"}


def test_side_files_come_with_a_directory_or_its_index_not_with_a_lone_file(tmp_path):
    source = sharded(tmp_path / "two")
    (source / "config.json").write_text("{}")
    like = Checkpoint.open(source / INDEX)
    write_checkpoint(tmp_path / "out", like, like.blocks, overwrite=True)
    assert content(tmp_path / "out") == content(source)
    like = Checkpoint.open(single(tmp_path / "one") / "model.safetensors")
    write_checkpoint(tmp_path / "lone", like, like.blocks)
    assert set(content(tmp_path / "lone")) == {"model.safetensors"}


def test_a_link_is_never_overwritten_by_a_directory(tmp_path):
    like = Checkpoint.open(single(tmp_path / "source"))
    other = sharded(tmp_path / "other")
    before = content(other)
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(CheckpointError, match="must be a directory to be overwritten"):
        write_checkpoint(tmp_path / "link", like, like.blocks, overwrite=True)
    assert content(other) == before


def test_one_file_is_written_as_one_file_and_several_are_refused_as_one(tmp_path):
    like = Checkpoint.open(single(tmp_path / "one"))
    write_checkpoint(tmp_path / "out.safetensors", like, like.blocks)
    source = tmp_path / "one" / "model.safetensors"
    assert (tmp_path / "out.safetensors").read_bytes() == source.read_bytes()
    like = Checkpoint.open(sharded(tmp_path / "two"))
    with pytest.raises(CheckpointError, match="must be a directory"):
        write_checkpoint(tmp_path / "two.safetensors", like, like.blocks)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_write_leaves_everything_as_it_was(tmp_path, error, overwrite):
    like = Checkpoint.open(sharded(tmp_path / "source"))
    if overwrite:
        single(tmp_path / "out")
    before = content(tmp_path)

    def blocks(name):
        if name == "b":
            raise error
        return W

    with pytest.raises(error):
        write_checkpoint(tmp_path / "out", like, blocks, overwrite=overwrite)
    assert content(tmp_path) == before


def test_an_existing_directory_is_replaced_whole_and_only_when_asked(tmp_path):
    like = Checkpoint.open(sharded(tmp_path / "source"))
    single(tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(CheckpointError, match="exists already"):
        write_checkpoint(tmp_path / "out", like, like.blocks)
    assert content(tmp_path / "out") == before
    write_checkpoint(tmp_path / "out", like, like.blocks, overwrite=True)
    assert content(tmp_path / "out") == content(tmp_path / "source")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_failed_exchange_of_directories_brings_the_old_one_back(tmp_path, monkeypatch):
    like = Checkpoint.open(sharded(tmp_path / "source"))
    single(tmp_path / "out")
    before, rename, calls = content(tmp_path), os.rename, []

    def second_fails(old, new):
        calls.append(old)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(old, new)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        write_checkpoint(tmp_path / "out", like, like.blocks, overwrite=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("thesis.tex", "must hold a checkpoint to be overwritten, got .'thesis.tex'."),
        ("adapter_model.safetensors", "must hold a model to be overwritten, got an adapter"),
    ],
)
def test_a_directory_of_something_else_is_never_overwritten(tmp_path, name, phrase):
    like = Checkpoint.open(single(tmp_path / "source"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).write_text("x")
    with pytest.raises(CheckpointError, match=f"{phrase}$"):
        write_checkpoint(tmp_path / "home", like, like.blocks, overwrite=True)
    assert content(tmp_path / "home") == {name: b"x"}


def test_a_file_is_never_overwritten_by_a_directory(tmp_path):
    like = Checkpoint.open(single(tmp_path / "source"))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError, match="must be a directory to be overwritten by one"):
        write_checkpoint(tmp_path / "out", like, like.blocks, overwrite=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_an_empty_directory_may_be_filled(tmp_path):
    like = Checkpoint.open(single(tmp_path / "source"))
    (tmp_path / "out").mkdir()
    write_checkpoint(tmp_path / "out", like, like.blocks)
    assert content(tmp_path / "out") == content(tmp_path / "source")


def test_the_source_is_never_overwritten_by_any_name(tmp_path):
    like = Checkpoint.open(single(tmp_path / "source"))
    (tmp_path / "link").symlink_to(tmp_path / "source")
    before = content(tmp_path)
    for out in ("source", "link", ".", "source/../source", "source/model.safetensors"):
        with pytest.raises(CheckpointError, match="must not be or hold the source"):
            write_checkpoint(tmp_path / out, like, like.blocks, overwrite=True)
    assert content(tmp_path) == before
