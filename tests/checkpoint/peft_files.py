"""Makers of adapters in PEFT's layout, good and bad, for the tests of this directory."""

import json

import ml_dtypes
import numpy as np

from lora_ref.checkpoint import TensorSpec, dtype_name, write_safetensors
from lora_ref.checkpoint.tuners import open_adapter

P = "base_model.model."
BFLOAT16 = ml_dtypes.bfloat16


def values(*shape, dtype="float32"):
    """Different values everywhere, so that no transposition or swap goes unseen."""
    return (np.sin(np.arange(np.prod(shape)) * 0.7 + len(shape)) / 3).reshape(shape).astype(dtype)


def linear(path="q", rank=3, inputs=7, outputs=11, dtype="float32"):
    A, B = values(rank, inputs, dtype=dtype), values(outputs, rank, dtype=dtype)
    return {f"{P}{path}.lora_A.weight": A, f"{P}{path}.lora_B.weight": B}


def save(directory, tensors, **fields):
    """Write a directory with these tensors and fields, however wrong they are; return it."""
    directory.mkdir(exist_ok=True)
    text = json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 5, **fields})
    (directory / "adapter_config.json").write_text(text)
    given = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in tensors.items()]
    path = directory / "adapter_model.safetensors"
    write_safetensors(path, given, {"format": "pt"}, overwrite=True)
    return directory


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def adapter_of_q(directory):
    """The adapter of the one linear module, named q, whatever the method."""
    return open_adapter(directory).adapters["q"]
