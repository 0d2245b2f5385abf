"""Merge an adapter into the real MiniLM by PEFT, whole; the result is too large to be stored.

Tests import `merge` and run it on the fly; it takes a few seconds and writes a checkpoint in
Hugging Face's layout.

    python tests/vectors/generate/merge_minilm.py ADAPTER OUT [--dtype bfloat16] [--safe]
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

from minilm import DTYPES, VECTORS, load_model
from peft import PeftModel


def merge(
    adapter: Path,
    out: Path,
    *,
    dtype: str = "float32",
    safe_merge: bool = False,
    autocast_adapter_dtype: bool = True,
    **save: Any,
) -> None:
    """Load the base in `dtype`, merge the adapter by PEFT and save the whole model to `out`.

    `autocast_adapter_dtype` is PEFT's: True holds the factors in float32 whatever the base is,
    False casts them to the base's dtype before the product is formed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = load_model(dtype)
        model = PeftModel.from_pretrained(
            base, adapter, autocast_adapter_dtype=autocast_adapter_dtype
        )
        merged: Any = model.merge_and_unload(safe_merge=safe_merge)
        merged.save_pretrained(out, **save)


def save_base(out: Path, *, dtype: str = "float32", **save: Any) -> None:
    """Save the base model as it is, in `dtype`: what a merge in `dtype` starts from."""
    load_model(dtype).save_pretrained(out, **save)


def main() -> None:
    """One merge from the command line; ADAPTER is a folder or a name under ../minilm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--safe", action="store_true")
    parser.add_argument("--cast-adapter", action="store_true", help="factors in the base's dtype")
    arguments = parser.parse_args()
    adapter = arguments.adapter
    merge(
        adapter if adapter.is_dir() else VECTORS / "minilm" / adapter,
        arguments.out,
        dtype=arguments.dtype,
        safe_merge=arguments.safe,
        autocast_adapter_dtype=not arguments.cast_adapter,
    )


if __name__ == "__main__":
    main()
