"""The writer: logical order, whole files or none, and no file overwritten unasked."""

import json

import numpy as np
import pytest
from containers import DATA, GOOD, craft, f32
from safetensors.numpy import save_file

from lora_ref.checkpoint import (
    CheckpointError,
    SafetensorsFile,
    TensorSpec,
    dtype_name,
    write_safetensors,
)
from lora_ref.checkpoint import safetensors as container
from lora_ref.checkpoint.header import build_header


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::-1],
        lambda x: x[:, ::2],
        lambda x: np.broadcast_to(x[0], (7, 11)),
    ],
    ids=["transposed", "reversed", "strided", "broadcast"],
)
def test_a_view_is_written_in_its_logical_order(tmp_path, view):
    """safetensors.numpy 0.8.0 writes wrong data here (safetensors#825)."""
    y = view(np.arange(77, dtype=np.float32).reshape(7, 11))
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_safetensors(ours, [(TensorSpec("y", "F32", y.shape), y)])
    save_file({"y": np.array(y, order="C")}, theirs)
    assert ours.read_bytes() == theirs.read_bytes()


def nothing_but(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((7, 11), np.zeros((11, 7), np.float32)),
        ((7, 11), np.zeros((7, 11), np.float64)),
        ((7, 11), np.zeros((7, 11), ">f4")),
        ((7, 11), np.zeros(77, np.float32)),
        ((7, 11), [np.zeros((3, 11), np.float32)]),
        ((7, 11), [np.zeros((4, 11), np.float32)] * 2),
        ((7, 11), []),
        ((), []),
        ((), np.zeros(1, np.float32)),
    ],
    ids=["transposed", "dtype", "byte order", "flat", "short", "long", "none", "0-d none", "1-d"],
)
def test_blocks_that_do_not_fit_leave_no_file(tmp_path, shape, blocks):
    with pytest.raises(ValueError, match="write_safetensors: blocks of 'w' must"):
        write_safetensors(tmp_path / "w.safetensors", [(TensorSpec("w", "F32", shape), blocks)])
    assert nothing_but(tmp_path)


def test_row_blocks_from_a_function_are_called_in_file_order_and_stacked(tmp_path):
    x = np.arange(77, dtype=np.float32).reshape(7, 11)
    calls = []

    def rows(name):
        calls.append(name)
        yield from (x[:3], x[3:3], x[3:])

    given = [(TensorSpec(name, "F32", (7, 11)), lambda n=name: rows(n)) for name in ("z", "a")]
    write_safetensors(tmp_path / "w.safetensors", given)
    assert calls == ["a", "z"]
    np.testing.assert_array_equal(SafetensorsFile.open(tmp_path / "w.safetensors").tensor("z"), x)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, error):
    path = craft(tmp_path / "w.safetensors", GOOD, DATA)
    before = path.read_bytes()

    def interrupted():
        yield np.zeros((3, 11), np.float32)
        raise error

    with pytest.raises(error):
        write_safetensors(path, [(TensorSpec("w", "F32", (7, 11)), interrupted)], overwrite=True)
    assert path.read_bytes() == before
    assert nothing_but(tmp_path, "w.safetensors")


def test_an_existing_file_is_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "w.safetensors"
    given = [(TensorSpec("w", "F32", ()), np.float32(5))]

    def late():
        path.write_bytes(b"mine")
        return np.float32(7)

    with pytest.raises(CheckpointError, match="exists already"):
        write_safetensors(path, [(given[0][0], late)])
    with pytest.raises(CheckpointError, match="exists already"):
        write_safetensors(path, given)
    assert path.read_bytes() == b"mine"
    write_safetensors(path, given, overwrite=True)
    assert SafetensorsFile.open(path).tensor("w") == 5
    assert nothing_but(tmp_path, "w.safetensors")


def test_an_existing_file_or_directory_is_refused_before_any_block_is_made(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    (tmp_path / "d.safetensors").mkdir()

    def never():
        raise AssertionError("a block was made")

    for name, overwrite, phrase in [
        ("a.safetensors", False, "exists already"),
        ("d.safetensors", True, "is a directory"),
    ]:
        given = [(TensorSpec("w", "F32", ()), never)]
        with pytest.raises(CheckpointError, match=phrase):
            write_safetensors(tmp_path / name, given, overwrite=overwrite)


def test_a_full_or_absent_disk_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written: No such file"):
        write_safetensors(tmp_path / "absent" / "w.safetensors", [])


def test_a_header_is_written_up_to_the_limit_of_the_format(tmp_path, monkeypatch):
    spec, x = TensorSpec("w", "F32", ()), np.float32(5)
    size = len(build_header([spec]))
    monkeypatch.setattr(container, "MAX_HEADER", size)
    write_safetensors(tmp_path / "w.safetensors", [(spec, x)])
    monkeypatch.setattr(container, "MAX_HEADER", size - 1)
    with pytest.raises(CheckpointError, match=f"must be at most {size - 1} bytes, got {size}"):
        write_safetensors(tmp_path / "v.safetensors", [(spec, x)])


def test_a_header_for_other_tensors_is_refused(tmp_path):
    header = json.dumps({"a": f32(0, 8, [2])}).encode()
    given = [(TensorSpec("b", "F32", (2,)), np.zeros(2, np.float32))]
    with pytest.raises(ValueError, match="header must announce the same tensors"):
        write_safetensors(tmp_path / "w.safetensors", given, header=header)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "phrase"),
    [
        (5, "F32", (2,), "name must be text"),
        ("__metadata__", "F32", (2,), "name must be text other than '__metadata__'"),
        ("\ud800", "F32", (2,), "name must be text"),
        ("w", "float32", (2,), "dtype of 'w' must be one of BOOL"),
        ("w", "F32", (7, -11), "shape of 'w' must be non-negative"),
        ("w", "F4", (3,), "fill whole bytes of F4"),
    ],
)
def test_a_spec_that_no_file_can_hold_is_refused(name, dtype, shape, phrase):
    with pytest.raises(ValueError, match=f"TensorSpec: .*{phrase}"):
        TensorSpec(name, dtype, shape)


def test_a_name_given_twice_is_refused(tmp_path):
    given = [(TensorSpec("w", "F32", ()), np.float32(5))] * 2
    with pytest.raises(ValueError, match="names must differ, got 'w' twice"):
        write_safetensors(tmp_path / "w.safetensors", given)


def test_a_type_the_format_cannot_store_is_refused():
    with pytest.raises(ValueError, match=r"dtype_name: dtype must be one .*, got complex128"):
        dtype_name("complex128")
