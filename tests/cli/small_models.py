"""A small model, an adapter for it, and merges of the two, right and wrong, on disk."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from lora_ref.checkpoint import TensorSpec, dtype_name, write_safetensors
from lora_ref.cli import main

RANK, ALPHA = 3, 5
SCALE = ALPHA / RANK
LAYERS = ("layer.0.q", "layer.1.q", "layer.2.q")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def weights(dtype="float32"):
    rng = np.random.default_rng(7)
    named = {f"{layer}.weight": rng.normal(size=(11, 7)) / 3 for layer in LAYERS}
    named["norm.weight"] = rng.normal(size=5)
    return {name: t.astype(dtype) for name, t in named.items()}


def factors(size=1.0):
    rng = np.random.default_rng(8)
    return {
        layer: (
            rng.normal(size=(RANK, 7)).astype("float32"),
            (rng.normal(size=(11, RANK)) * size).astype("float32"),
        )
        for layer in LAYERS
    }


def exact_merge(base, lora, scale=SCALE):
    """Rounded once from float64; NumPy does that to float32 and float16."""
    merged = dict(base)
    for layer, (A, B) in lora.items():
        W = base[f"{layer}.weight"]
        delta = scale * (B.astype("float64") @ A.astype("float64"))
        merged[f"{layer}.weight"] = (W.astype("float64") + delta).astype(W.dtype)
    return merged


def float32_merge(base, lora):
    """As frameworks do it: every operation in float32."""
    merged = dict(base)
    for layer, (A, B) in lora.items():
        merged[f"{layer}.weight"] = base[f"{layer}.weight"] + np.float32(SCALE) * (B @ A)
    return merged


def save_model(directory: Path, tensors, **config) -> str:
    directory.mkdir()
    given = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in tensors.items()]
    write_safetensors(directory / "model.safetensors", given, {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "toy", **config}))
    return str(directory)


def save_adapter(directory: Path, lora, extra=None, **config) -> str:
    directory.mkdir()
    tensors = dict(extra or {})
    for layer, (A, B) in lora.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = A
        tensors[f"base_model.model.{layer}.lora_B.weight"] = B
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q"]}
    (directory / "adapter_config.json").write_text(json.dumps({**fields, **config}))
    given = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in tensors.items()]
    write_safetensors(directory / "adapter_model.safetensors", given, {"format": "pt"})
    return str(directory)


def arguments(base, adapter, merged, *more):
    return ["verify", "--base", base, "--adapter", adapter, "--merged", merged, *map(str, more)]


def three(directory: Path, merge=exact_merge, dtype="float32", size=1.0):
    """base, adapter and merged in `directory`."""
    base, lora = weights(dtype), factors(size)
    return (
        save_model(directory / "base", base),
        save_adapter(directory / "adapter", lora),
        save_model(directory / "merged", merge(base, lora)),
    )


def status_of(*args) -> int:
    return main([str(a) for a in args])
