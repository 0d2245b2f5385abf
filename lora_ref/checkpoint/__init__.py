"""Checkpoints on disk: the safetensors container and Hugging Face's layout of a model."""

from .checkpoint import Checkpoint
from .dtypes import DTYPES, StoredDtype, dtype_name
from .errors import CheckpointError
from .header import TensorInfo, TensorSpec
from .safetensors import Blocks, SafetensorsFile, write_safetensors
from .write import write_checkpoint

__all__ = [
    "DTYPES",
    "Blocks",
    "Checkpoint",
    "CheckpointError",
    "SafetensorsFile",
    "StoredDtype",
    "TensorInfo",
    "TensorSpec",
    "dtype_name",
    "write_checkpoint",
    "write_safetensors",
]
