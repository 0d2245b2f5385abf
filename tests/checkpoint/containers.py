"""Makers of safetensors files, good and bad, for the tests of this directory."""

import json

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save

from lora_ref.checkpoint import DTYPES, TensorSpec

WHOLE = [name for name, stored in DTYPES.items() if stored.numpy is not None]
PACKED = [name for name, stored in DTYPES.items() if stored.numpy is None]
NAMES = st.text(min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__" and name.isascii() | name.isprintable()
)


@st.composite
def stored_tensors(draw, dtypes=WHOLE):
    """Up to five tensors of any dtype with any bit pattern: {name: (dtype name, array)}."""
    tensors = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=5)):
        dtype = draw(st.sampled_from(dtypes))
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        size = TensorSpec(name, dtype, shape).nbytes
        raw = draw(st.binary(min_size=size, max_size=size))
        if dtype == "BOOL":
            raw = bytes(byte & 1 for byte in raw)
        tensors[name] = dtype, np.frombuffer(raw, DTYPES[dtype].numpy).reshape(shape)
    return tensors


def given_tensors(tensors):
    return [(TensorSpec(name, dtype, x.shape), x) for name, (dtype, x) in tensors.items()]


def library_bytes(tensors, metadata=None):
    """The file the safetensors library makes of these contiguous arrays."""
    return save({name: x for name, (_, x) in tensors.items()}, metadata)


def craft(path, header, data=b"", length=None):
    """Write a file with this header (bytes, or an object to be made JSON) and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + raw + data)
    return path


def f32(begin, end, shape):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


GOOD = {"a": f32(0, 8, [2]), "b": f32(8, 12, [])}
DATA = bytes(12)

# One small model as a checkpoint in both layouts

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
W = np.arange(77, dtype=np.float32).reshape(7, 11)
b = np.linspace(-1, 3, 5, dtype=np.float32)


def single(folder, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    header = {"__metadata__": {"format": "pt"}, "w": f32(0, 308, [7, 11]), "b": f32(308, 328, [5])}
    craft(folder / name, header, W.tobytes() + b.tobytes())
    (folder / "config.json").write_text('{"model_type": "bert", "limit": [0.0, Infinity]}')
    return folder


def sharded(folder, weight_map=None):
    folder.mkdir(exist_ok=True)
    craft(folder / FIRST, {"w": f32(0, 308, [7, 11])}, W.tobytes())
    craft(folder / SECOND, {"b": f32(0, 20, [5])}, b.tobytes())
    weight_map = {"b": SECOND, "w": FIRST} if weight_map is None else weight_map
    index = {"metadata": {"total_size": 328}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return folder


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
