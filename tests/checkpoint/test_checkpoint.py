"""Hugging Face's layouts: found, and checked against themselves."""

import os

import numpy as np
import pytest
from containers import DATA, FIRST, GOOD, INDEX, SECOND, W, b, craft, f32, sharded, single

from lora_ref.checkpoint import Checkpoint, CheckpointError


@pytest.mark.parametrize(
    ("make", "inside", "shards"),
    [
        (single, "", [("model.safetensors", ("w", "b"))]),
        (single, "model.safetensors", [("model.safetensors", ("w", "b"))]),
        (sharded, "", [(FIRST, ("w",)), (SECOND, ("b",))]),
        (sharded, INDEX, [(FIRST, ("w",)), (SECOND, ("b",))]),
    ],
    ids=["directory", "file", "sharded", "index"],
)
def test_every_layout_gives_the_same_tensors(tmp_path, make, inside, shards):
    checkpoint = Checkpoint.open(make(tmp_path) / inside)
    assert (checkpoint.names, checkpoint.shards) == (("w", "b"), shards)
    assert checkpoint.info("w").shape == (7, 11)
    np.testing.assert_array_equal(checkpoint.tensor("w"), W)
    np.testing.assert_array_equal(checkpoint.tensor("b"), b)


def test_config_is_read_beside_the_weights_and_empty_when_absent(tmp_path):
    assert Checkpoint.open(single(tmp_path / "one")).config["model_type"] == "bert"
    file = tmp_path / "one" / "model.safetensors"
    assert Checkpoint.open(file).config == {"model_type": "bert", "limit": [0.0, float("inf")]}
    assert Checkpoint.open(sharded(tmp_path / "two")).config == {}


def test_a_diffusion_directory_is_found_by_its_only_file_or_index(tmp_path):
    single(tmp_path, "diffusion_pytorch_model.safetensors")
    assert Checkpoint.open(tmp_path).names == ("w", "b")
    sharded(tmp_path / "two")
    (tmp_path / "two" / INDEX).rename(
        tmp_path / "two" / "diffusion_pytorch_model.safetensors.index.json"
    )
    assert Checkpoint.open(tmp_path / "two").names == ("w", "b")


def test_links_into_a_cache_are_followed(tmp_path):
    blobs = single(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("model.safetensors", "config.json"):
        (snapshot / name).symlink_to(blobs / name)
    assert Checkpoint.open(snapshot).config["model_type"] == "bert"
    np.testing.assert_array_equal(Checkpoint.open(snapshot).tensor("w"), W)


def files(*names):
    def make(folder):
        for name in names:
            (folder / name).write_text("{}")

    return make


def mapped(weight_map):
    return lambda folder: sharded(folder, weight_map)


def broken_index(folder):
    (folder / INDEX).write_text("{")


def without_second(folder):
    (sharded(folder) / SECOND).unlink()


def twice(folder):
    sharded(folder)
    craft(folder / SECOND, {"w": f32(0, 308, [7, 11])}, W.tobytes())


def two_files(folder):
    single(folder, "a.safetensors")
    single(folder, "b.safetensors")


def broken_config(text):
    def make(folder):
        (single(folder) / "config.json").write_text(text)

    return make


BOTH = {"b": SECOND, "w": FIRST}
UNUSABLE = {
    "empty directory": (files(), "is no checkpoint"),
    "texts only": (files("README.md"), "is no checkpoint"),
    "pickles only": (files("pytorch_model.bin", "config.json"), "is a pickle file"),
    "adapter": (
        files("adapter_config.json", "adapter_model.safetensors"),
        "is an adapter in PEFT's layout",
    ),
    "adapter as pickle": (files("adapter_model.bin"), "is an adapter in PEFT's layout"),
    "two files": (two_files, "must hold one checkpoint"),
    "config is no JSON": (broken_config("{model_type: 1}"), "config.json: the file must be JSON"),
    "config is a list": (broken_config("[]"), "must be a JSON object"),
    "index is no JSON": (broken_index, "the index must be JSON"),
    "no weight_map": (
        files(INDEX),
        "weight_map must be an object",
    ),
    "weight_map is a list": (mapped([FIRST]), "weight_map must be an object"),
    "weight_map is empty": (mapped({}), "weight_map must be an object"),
    "shard is a number": (mapped(BOTH | {"w": 1}), "'w' must be in a plain .safetensors file name"),
    "shard outside": (mapped(BOTH | {"w": f"../{FIRST}"}), "plain .safetensors file name"),
    "shard absolute": (mapped(BOTH | {"w": f"/tmp/{FIRST}"}), "plain .safetensors file name"),
    "shard on a drive": (mapped(BOTH | {"w": f"C:{FIRST}"}), "plain .safetensors file name"),
    "shard with a NUL": (mapped(BOTH | {"w": "a\0.safetensors"}), "plain .safetensors file name"),
    "shard is a pickle": (mapped(BOTH | {"w": "a.bin"}), "plain .safetensors file name"),
    "shard missing": (without_second, "every shard must be there, got 1 of 2 missing"),
    "name in no shard": (mapped(BOTH | {"x": FIRST}), "'x' must be in"),
    "name in the other shard": (mapped({"b": FIRST, "w": SECOND}), "must be in"),
    "name not in the map": (mapped({"w": FIRST} | {"b2": SECOND}), "must be in"),
    "tensor not in the map": (
        lambda folder: (
            sharded(folder),
            craft(
                folder / FIRST, {"w": f32(0, 308, [7, 11]), "z": f32(308, 308, [0])}, W.tobytes()
            ),
        ),
        "every tensor of the shards must be in weight_map, got 1 that are not: ['z']",
    ),
    "tensor in two shards": (twice, "a tensor must be in one shard, got 'w'"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_directory_is_refused_in_one_line(tmp_path, case):
    make, phrase = UNUSABLE[case]
    make(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    assert phrase in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).isprintable()


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("a long text about nothing in particular")
    os.mkfifo(tmp_path / "pipe")
    craft(tmp_path / "adapter_model.safetensors", GOOD, DATA)
    for name, phrase in [
        ("absent", "does not exist"),
        ("nul\0", "does not exist"),
        ("notes.txt", "no safetensors file"),
        ("pipe", "must be a regular"),
        ("adapter_model.safetensors", "is an adapter"),
    ]:
        with pytest.raises(CheckpointError, match=phrase):
            Checkpoint.open(tmp_path / name)


def test_an_unknown_tensor_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tensor 'x'; has 2 tensors: \['w', 'b'\]"):
        Checkpoint.open(single(tmp_path)).tensor("x")
