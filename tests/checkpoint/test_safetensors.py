"""What we write and read is what the safetensors library writes and reads, at a tensor's cost."""

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from containers import DATA, GOOD, PACKED, craft, given_tensors, library_bytes, stored_tensors
from hypothesis import assume, example, given
from hypothesis import strategies as st
from safetensors import deserialize

from lora_ref.checkpoint import (
    CheckpointError,
    SafetensorsFile,
    TensorSpec,
    dtype_name,
    write_safetensors,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("containers")


@given(tensors=stored_tensors(), metadata=st.none() | st.just({}) | st.just({"format": "pt"}))
@example(tensors={'q"\\\n\x7f\x01é': ("F32", np.float32([1, 2]))}, metadata={"\t": "ü\x1f"})
def test_a_written_file_is_the_librarys_own_byte_for_byte(folder, tensors, metadata):
    # Of nothing at all the library writes `{},"__metadata__":{}}`, which is no JSON.
    assume(tensors or metadata != {})
    path = folder / "written.safetensors"
    write_safetensors(path, given_tensors(tensors), metadata, overwrite=True)
    assert path.read_bytes() == library_bytes(tensors, metadata)


def test_an_empty_file_with_empty_metadata_is_valid(tmp_path):
    path = tmp_path / "empty.safetensors"
    write_safetensors(path, [], {})
    assert deserialize(path.read_bytes()) == []
    assert SafetensorsFile.open(path).tensors == {}


@given(tensors=stored_tensors())
def test_a_file_of_the_library_is_read_as_the_same_bits(folder, tensors):
    path = folder / "library.safetensors"
    path.write_bytes(library_bytes(tensors, {"format": "np"}))
    file = SafetensorsFile.open(path)
    assert file.metadata == {"format": "np"}
    assert set(file.tensors) == set(tensors)
    for name, (dtype, x) in tensors.items():
        y = file.tensor(name)
        assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes())
        assert (file.tensors[name].dtype, not y.flags.writeable) == (dtype, True)
        assert (y.flags.aligned, y.flags.c_contiguous) == (True, True)


@given(tensors=stored_tensors(), seed=st.integers(0, 99), indent=st.none() | st.just(1))
def test_any_valid_file_read_and_written_back_is_byte_identical(folder, tensors, seed, indent):
    """Also one whose header has its own order and spacing and an odd length."""
    source, copy = folder / "source.safetensors", folder / "copy.safetensors"
    fields, data, shuffle = {}, b"", random.Random(seed)
    for name in shuffle.sample(list(tensors), len(tensors)):
        dtype, x = tensors[name]
        offsets = [len(data), len(data) + x.nbytes]
        fields[name] = {"data_offsets": offsets, "shape": list(x.shape), "dtype": dtype}
        data += x.tobytes()
    keys = shuffle.sample(list(fields), len(fields))
    header = json.dumps({key: fields[key] for key in keys}, indent=indent).encode()
    craft(source, header + b" " * (seed % 9), data)
    file = SafetensorsFile.open(source)
    given = [(info.spec, file.blocks(name)) for name, info in file.tensors.items()]
    write_safetensors(copy, given, header=file.raw_header, overwrite=True)
    assert copy.read_bytes() == source.read_bytes()
    assert list(file.tensors) == keys


@pytest.mark.parametrize("blanks", range(8))
def test_tensors_at_any_offset_over_many_pages_are_aligned(tmp_path, blanks):
    """A header of odd length leaves no element on its boundary: those are copied."""
    x = np.arange(30_011, dtype=np.float64)
    fields = {
        "x": {"dtype": "F64", "shape": [30_011], "data_offsets": [0, x.nbytes]},
        "y": {"dtype": "F64", "shape": [30_011], "data_offsets": [x.nbytes, 2 * x.nbytes]},
    }
    header = json.dumps(fields).encode()
    header = header.ljust(len(header) + 8 - len(header) % 8 + blanks)
    file = SafetensorsFile.open(craft(tmp_path / "a.safetensors", header, (x.tobytes() * 2)))
    for name in ("x", "y"):
        z = file.tensor(name)
        np.testing.assert_array_equal(z, x)
        assert (z.flags.aligned, z.flags.writeable) == (True, False)


@pytest.mark.peers
def test_pytorch_reads_bfloat16_and_float8_files_as_we_wrote_them(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent reader here")
    torch_safetensors = pytest.importorskip("safetensors.torch")
    path, again = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    x = np.linspace(-3, 5, 77, dtype=np.float32).reshape(7, 11)
    arrays = {
        "w.b": x.astype(ml_dtypes.bfloat16),
        "w.e": x.astype(ml_dtypes.float8_e4m3fn),
        "w.f": x.astype(ml_dtypes.float8_e5m2),
    }
    given = [(TensorSpec(n, dtype_name(a.dtype), a.shape), a) for n, a in arrays.items()]
    write_safetensors(path, given, {"format": "pt"})
    loaded = torch_safetensors.load_file(path)
    for name, a in arrays.items():
        np.testing.assert_array_equal(loaded[name].to(torch.float32), a.astype(np.float32))
    torch_safetensors.save_file(loaded, again, {"format": "pt"})
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", PACKED)
def test_a_tensor_below_8_bits_is_refused_as_numbers_and_copied_as_bytes(tmp_path, dtype):
    path = tmp_path / "packed.safetensors"
    spec = TensorSpec("w", dtype, (2, 4))
    packed = np.arange(spec.nbytes, dtype=np.uint8)
    write_safetensors(path, [(spec, packed)])
    file = SafetensorsFile.open(path)
    [(name, view)] = deserialize(path.read_bytes())
    assert (name, bytes(view["data"])) == ("w", packed.tobytes())
    np.testing.assert_array_equal(file.raw("w"), packed)
    with pytest.raises(CheckpointError, match="must have a type that NumPy can hold"):
        file.tensor("w")


_MEASURE = r"""
import re, sys
from pathlib import Path
import numpy as np
from lora_ref.checkpoint import SafetensorsFile, TensorSpec, write_safetensors

def peak():
    # Not ru_maxrss: a child inherits its parent's.
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

path, tensors, rows = sys.argv[1], 12, 2048
before = peak()
block = np.ones((256, 1024), np.float32)
spec = [TensorSpec(f"w{i}", "F32", (rows, 1024)) for i in range(tensors)]
write_safetensors(path, [(s, lambda: (block for _ in range(rows // 256))) for s in spec])
written = peak()
file = SafetensorsFile.open(path)
total = sum(float(file.tensor(name).sum()) for name in file.tensors)
assert total == tensors * rows * 1024, total
print(written - before, peak() - before)
"""


def test_memory_is_a_block_to_write_and_a_tensor_to_read(tmp_path):
    """100 MB in tensors of 8 MiB and blocks of 1 MiB; pages of the map count as memory here."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of resident memory is read from Linux's /proc")
    command = [sys.executable, "-c", _MEASURE, str(tmp_path / "big.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    write, read = (int(figure) / 2**20 for figure in done.stdout.split())
    assert write < 8, f"writing took {write} MiB"
    assert read < 16, f"reading took {read} MiB"


def test_no_file_descriptor_and_no_page_stays_with_a_tensor_that_is_gone(tmp_path):
    path = craft(tmp_path / "a.safetensors", GOOD, DATA)
    file = SafetensorsFile.open(path)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    kept = [file.tensor("a") for _ in range(8)]
    del kept
    for _ in range(min(limit, 4096) + 8):
        file.tensor("a")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("/proc/self/maps is Linux's")
    assert "a.safetensors" not in maps.read_text()
