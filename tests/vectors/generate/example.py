"""Write lora_ref/example/: real slices on which `lora-ref verify` shows its verdicts.

The first 96 rows and columns (three heads of 32) of query, key and value of three MiniLM layers in
bfloat16, the same slices of the trained adapter `qv`, a merge by PEFT, a merge with planted bugs.

    python tests/vectors/generate/example.py [--out FOLDER]
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from minilm import VECTORS, find_model, provenance, write_json
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

WIDTH, HEADS, LAYERS, WORDS = 96, 3, 3, 40
PROJECTIONS = ("query", "key", "value")
OTHERS = ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias")
EXAMPLE = VECTORS.parents[1] / "lora_ref" / "example"
BUGS = {
    "encoder.layer.0.attention.self.query.weight": "scaled by alpha = 9 instead of alpha/r = 9/6",
    "encoder.layer.1.attention.self.query.weight": "has the update of value (q and v swapped)",
    "encoder.layer.1.attention.self.value.weight": "has the update of query (q and v swapped)",
    "encoder.layer.2.attention.self.query.weight": "adapter applied twice",
    "encoder.layer.2.attention.self.value.weight": "adapter not applied",
}


def path_of(layer: int, projection: str) -> str:
    """The module path of one projection in BERT's naming."""
    return f"encoder.layer.{layer}.attention.self.{projection}"


def paths(projections: Iterable[str] = PROJECTIONS) -> list[str]:
    """The module paths of the example, layer by layer."""
    return [path_of(layer, p) for layer in range(LAYERS) for p in projections]


def slice_base() -> dict[str, torch.Tensor]:
    """The base checkpoint of the example in bfloat16."""
    whole = load_file(find_model() / "model.safetensors")
    words = whole["embeddings.word_embeddings.weight"][2000 : 2000 + WORDS, :WIDTH]
    kept = {"embeddings.word_embeddings.weight": words}
    kept |= {name: whole[name][:WIDTH] for name in OTHERS}
    for path in paths():
        kept[f"{path}.weight"] = whole[f"{path}.weight"][:WIDTH, :WIDTH]
        kept[f"{path}.bias"] = whole[f"{path}.bias"][:WIDTH]
    return {name: value.to(torch.bfloat16).contiguous() for name, value in kept.items()}


def slice_adapter() -> dict[str, torch.Tensor]:
    """The factors of `qv` that belong to the slices: columns of A, rows of B."""
    whole = load_file(VECTORS / "minilm" / "qv" / "adapter_model.safetensors")
    kept = {}
    for path in paths(("query", "value")):
        a, b = (f"base_model.model.{path}.lora_{letter}.weight" for letter in "AB")
        kept |= {a: whole[a][:, :WIDTH].contiguous(), b: whole[b][:WIDTH].contiguous()}
    return kept


def build_module(base: dict[str, torch.Tensor]) -> nn.Module:
    """A tree of modules whose state dict is exactly `base`."""
    root = nn.Module()
    for path in (name.rpartition(".")[0] for name in base if name.endswith(".weight")):
        weight, bias = base[f"{path}.weight"], base.get(f"{path}.bias")
        *parents, leaf = path.split(".")
        parent = root
        for name in parents:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        parent.add_module(leaf, make_leaf(weight, bias))
    root.load_state_dict(base)
    return root


def make_leaf(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """The torch layer that a weight (and bias) of the slice belongs to."""
    if weight.ndim == 1:
        return nn.LayerNorm(weight.shape[0], dtype=weight.dtype)
    if bias is None:
        return nn.Embedding(*weight.shape, dtype=weight.dtype)
    return nn.Linear(*weight.shape[::-1], dtype=weight.dtype)


def merge_rightly(layers: dict[str, Any]) -> None:
    """Every adapted layer merged once, by PEFT."""
    for layer in layers.values():
        layer.merge()


def merge_wrongly(layers: dict[str, Any]) -> None:
    """The bugs of BUGS, each in PEFT's own arithmetic; layer 0's value stays right."""
    layers[path_of(0, "query")].scaling["default"] = 9.0
    query, value = layers[path_of(1, "query")], layers[path_of(1, "value")]
    query.lora_A, value.lora_A = value.lora_A, query.lora_A
    query.lora_B, value.lora_B = value.lora_B, query.lora_B
    twice = layers[path_of(2, "query")]
    twice.merge()
    twice.merged_adapters.clear()
    for path, layer in layers.items():
        if path != path_of(2, "value"):
            layer.merge()


def merge_example(
    base: dict[str, torch.Tensor], adapter: Path, how: Callable[[dict[str, Any]], None]
) -> dict[str, torch.Tensor]:
    """The state dict after `how` has merged PEFT's layers, by module path."""
    model: Any = PeftModel.from_pretrained(build_module(base), adapter)
    tree = model.base_model.model
    how({path: tree.get_submodule(path) for path in paths(("query", "value"))})
    return {
        name.replace(".base_layer", ""): value.detach().contiguous()
        for name, value in tree.state_dict().items()
        if "lora_" not in name
    }


def write_checkpoint(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """model.safetensors and config.json, as Hugging Face lays them out."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((find_model() / "config.json").read_text(encoding="utf-8"))
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    write_json(folder / "config.json", config | sizes | {"vocab_size": WORDS, "dtype": "bfloat16"})


def main() -> None:
    """Write the four folders and their provenance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=EXAMPLE)
    out = parser.parse_args().out
    for name in ("base", "adapter", "merged", "merged-buggy"):
        shutil.rmtree(out / name, ignore_errors=True)
    base = slice_base()
    write_checkpoint(out / "base", base)
    adapter = out / "adapter"
    adapter.mkdir()
    save_file(slice_adapter(), adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(VECTORS / "minilm" / "qv" / "adapter_config.json", adapter)
    write_checkpoint(out / "merged", merge_example(base, adapter, merge_rightly))
    write_checkpoint(out / "merged-buggy", merge_example(base, adapter, merge_wrongly))
    reason = "verdicts on real numbers without a download: a right merge and one with planted bugs"
    record = provenance(
        "example.py",
        "",
        reason,
        changes="first 96 rows and columns, three of six layers, rounded to bfloat16",
        merged="PEFT, factors in float32 on a bfloat16 base, safe_merge=False",
        bugs=BUGS,
    )
    write_json(out / "PROVENANCE.json", record)


if __name__ == "__main__":
    main()
