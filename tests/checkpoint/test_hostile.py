"""Bad input of the container: one line that says why, and nothing read outside the file."""

import json
import os

import pytest
from containers import DATA, GOOD, craft, f32
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from lora_ref.checkpoint import CheckpointError, SafetensorsFile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("containers")


HOSTILE = {
    "empty file": (b"", "at least 8 bytes"),
    "four bytes": (b"\x10\x00\x00\x00", "at least 8 bytes"),
    "header longer than the file": (({}, b"", 1000), "got length 1000"),
    "header one byte longer than the file": (({}, b"", 3), "got length 3"),
    "header of 2^64 - 1": (({}, b"", 2**64 - 1), "got length 18446744073709551615"),
    "header of no bytes": ((b"", b""), "must begin with '{'"),
    "leading blank": ((b' {"a":1}', b""), "must begin with '{'"),
    "array": ((b"[1, 2]", b""), "must begin with '{'"),
    "not UTF-8": ((b'{"\xff":1}', b""), "must be UTF-8, got byte 0xff at position 2"),
    "not JSON": ((b"{a: 1}", b""), "must be JSON"),
    "text after the object": ((b"{} {}", b""), "must be JSON"),
    "half an object": ((b'{"a": {', b""), "must be JSON"),
    "nested too deep": ((b'{"a":' + b"[" * 100_000, b""), "nested too deep"),
    "number of 5000 digits": ((b'{"a":' + b"9" * 5000 + b"}", b""), "too many digits"),
    "name twice": ((b'{"a":{},"a":{}}', b""), "got 'a' more than once"),
    "field twice": ((b'{"a":{"dtype":"F32","dtype":"F32"}}', b""), "got 'dtype' more than once"),
    "name is half a surrogate": ((b'{"\\ud800":{}}', b""), "Unicode"),
    "tensor is a list": (({"a": [1]}, b""), "exactly dtype, shape and data_offsets"),
    "missing field": (({"a": {"dtype": "F32", "shape": []}}, b""), "exactly dtype, shape"),
    "extra field": (({"a": f32(0, 8, [2]) | {"x": 1}}, DATA), "exactly dtype, shape"),
    "unknown dtype": (({"a": f32(0, 8, [2]) | {"dtype": "F33"}}, DATA), "got 'F33'"),
    "dtype is a list": (({"a": f32(0, 8, [2]) | {"dtype": ["F32"]}}, DATA), "dtype must be one of"),
    "shape is a number": (({"a": f32(0, 8, 2)}, DATA), "shape must be a list of integers"),
    "axis is true": (({"a": f32(0, 4, [True])}, DATA), "shape must be a list of integers"),
    "axis is 2.0": (({"a": f32(0, 8, [2.0])}, DATA), "shape must be a list of integers"),
    "axis is text": (({"a": f32(0, 8, ["2"])}, DATA), "shape must be a list of integers"),
    "axis is NaN": (({"a": f32(0, 8, [float("nan")])}, DATA), "shape must be a list of integers"),
    "axis is negative": (({"a": f32(0, 8, [-2])}, DATA), "shape must be a list of integers"),
    "axis is -0": ((b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', b""), "integers"),
    "axis is 2^64": (({"a": f32(0, 8, [2**64])}, DATA), "0 <= n < 2^63"),
    "axis is 2^63": (({"a": f32(0, 0, [0, 2**63])}, b""), "0 <= n < 2^63"),
    "shape overflows": (({"a": f32(0, 8, [2**62, 2**62])}, DATA), "overflow"),
    "empty shape overflows": (({"a": f32(0, 0, [0, 2**62, 2**62])}, b""), "overflow"),
    "empty shape of 2^63 bytes": (({"a": f32(0, 0, [0, 2**61])}, b""), "overflow"),
    "65 axes": (({"a": f32(0, 4, [1] * 65)}, DATA), "at most 64 axes"),
    "offsets are null": (
        ({"a": f32(0, 8, [2]) | {"data_offsets": None}}, DATA),
        "data_offsets must",
    ),
    "three offsets": (({"a": f32(0, 8, [2]) | {"data_offsets": [0, 8, 9]}}, DATA), "[begin, end]"),
    "offset is false": (({"a": f32(False, 8, [2])}, DATA), "data_offsets must be a list"),
    "offset is negative": (({"a": f32(-8, 0, [2])}, DATA), "data_offsets must be a list"),
    "begin after end": (({"a": f32(8, 0, [2])}, DATA), "begin <= end, got [8, 0]"),
    "too few bytes": (({"a": f32(0, 8, [3])}, DATA[:8]), "must span 12 bytes"),
    "half a byte": (({"a": f32(0, 1, [1]) | {"dtype": "F4"}}, DATA[:1]), "must fill whole bytes"),
    "out of range": (({"a": f32(0, 8, [2]), "b": f32(8, 16, [2])}, DATA), "out of range"),
    "truncated": ((GOOD, DATA[:-1]), "truncated"),
    "trailing bytes": ((GOOD, DATA + b"x"), "(a hole at the end)"),
    "overlap": (({"a": f32(0, 8, [2]), "b": f32(4, 12, [2])}, DATA), "overlaps 'a'"),
    "same bytes": (({"a": f32(0, 12, [3]), "b": f32(0, 12, [3])}, DATA), "overlaps 'a'"),
    "hole in the middle": (({"a": f32(0, 4, [1]), "b": f32(8, 12, [1])}, DATA), "leaves a hole"),
    "hole at the beginning": (({"a": f32(4, 12, [2])}, DATA), "leaves a hole"),
    "metadata is a list": (({"__metadata__": []}, b""), "__metadata__ must be an object"),
    "metadata is null": (({"__metadata__": None}, b""), "__metadata__ must be an object"),
    "metadata value": (({"__metadata__": {"k": 1}}, b""), "'k' must be text, got 1"),
    "metadata is half a surrogate": ((b'{"__metadata__":{"k":"\\udfff"}}', b""), "must be text"),
    "newline in a name": (({"a\nb\x1b[2J": 1}, b""), r"tensor 'a\nb\x1b[2J'"),
    "endless name": (({"w" * 100_000: 1}, b""), "..."),
    "zip": (b"PK\x03\x04" + bytes(60), "is a pickle file, which can run code when loaded"),
    "pickle": (b"\x80\x04\x95" + bytes(60), "is a pickle file, which can run code when loaded"),
    "legacy PyTorch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is a pickle file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_input_is_refused_in_one_line_that_says_why(tmp_path, case):
    content, phrase = HOSTILE[case]
    path = tmp_path / "hostile.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        craft(path, *content)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile.open(path)
    message = str(caught.value)
    assert phrase in message
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500


def test_a_header_above_100_megabytes_is_refused_unread(tmp_path):
    path = craft(tmp_path / "huge.safetensors", b"{", length=100_000_001)
    os.truncate(path, 200_000_000)
    with pytest.raises(CheckpointError, match="at most 100000000 bytes"):
        SafetensorsFile.open(path)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".PKL"])
def test_a_pickle_by_name_is_refused_whatever_is_in_it(tmp_path, suffix):
    path = craft(tmp_path / f"model{suffix}", GOOD, DATA)
    with pytest.raises(CheckpointError, match="is a pickle file, which can run code"):
        SafetensorsFile.open(path)


def test_a_valid_header_length_that_looks_like_a_pickle_is_read(tmp_path):
    header = json.dumps(GOOD).encode().ljust(0x0280)
    path = craft(tmp_path / "unlucky.safetensors", header, DATA)
    assert path.read_bytes().startswith(b"\x80\x02")
    assert list(SafetensorsFile.open(path).tensors) == ["a", "b"]


def test_the_largest_empty_shape_is_one_that_numpy_holds(tmp_path):
    path = craft(tmp_path / "a.safetensors", {"a": f32(0, 0, [0, 2**61 - 1])})
    assert SafetensorsFile.open(path).tensor("a").shape == (0, 2**61 - 1)


def test_a_shape_of_64_axes_is_one_that_numpy_holds(tmp_path):
    path = craft(tmp_path / "a.safetensors", {"a": f32(0, 8, [1] * 63 + [2])}, DATA[:8])
    assert SafetensorsFile.open(path).tensor("a").ndim == 64


def test_what_is_not_a_regular_readable_file_is_refused(tmp_path, monkeypatch):
    fifo = tmp_path / "fifo.safetensors"
    os.mkfifo(fifo)
    for path, phrase in [
        (tmp_path, "got a directory"),
        (fifo, "pipe"),
        (tmp_path / "absent.safetensors", "does not exist"),
        (tmp_path / "nul\0.safetensors", "cannot be read"),
    ]:
        with pytest.raises(CheckpointError, match=phrase):
            SafetensorsFile.open(path)
    path = craft(tmp_path / "a.safetensors", GOOD, DATA)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        SafetensorsFile.open(path)


def test_a_file_that_changes_after_opening_is_refused(tmp_path):
    path = craft(tmp_path / "a.safetensors", GOOD, DATA)
    file = SafetensorsFile.open(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="must not change while it is in use"):
        file.tensor("a")


@given(flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_header_is_refused_or_stays_inside_the_file(folder, flips):
    """And whatever we let pass, the library lets pass too."""
    path = craft(folder / "damaged.safetensors", GOOD, DATA)
    content = bytearray(path.read_bytes())
    for at, byte in flips:
        content[at % (len(content) - len(DATA))] = byte
    path.write_bytes(content)
    try:
        file = SafetensorsFile.open(path)
    except CheckpointError:
        return
    for name, info in file.tensors.items():
        assert 8 <= info.start <= info.stop <= len(content)
        assert file.raw(name).tobytes() == bytes(content[info.start : info.stop])
    try:
        assert {name for name, _ in deserialize(bytes(content))} == set(file.tensors)
    except SafetensorError as error:
        pytest.fail(f"the library refuses what we accept: {error}")
