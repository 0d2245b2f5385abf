"""PEFT's merges bit for bit on small tensors, in each dtype: ../peft_merge.json + .safetensors.

What the names of the recipes mean, with every operation in float32 unless said:

    product   acc = fma(B[:, k], A[k, :], acc) for k = 0 .. r-1, one rounding a step
    delta     product * float32(s)
    factors   "float32": A, B as stored; "base": A, B first rounded to the base's dtype
    rounding  "sum": dtype(W + delta); "update": dtype(W + dtype(delta));
              "each": dtype(W + dtype(dtype(product) * float32(s)))

    python tests/vectors/generate/peft_merge.py
"""

from importlib.metadata import version
from itertools import product
from typing import Any

import torch
from minilm import DTYPES, VECTORS, write_json
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft_cases import Experts
from safetensors.torch import save_file
from torch import nn

OUTER, INNER, WORDS, EXPERTS, RANK, ALPHA = 23, 17, 29, 3, 5, 7
CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["dense"], "lora_bias": True},
    "embedding": {"target_modules": ["embed"]},
    "experts": {"target_modules": [], "target_parameters": ["experts.weight"]},
    "linear_rslora": {"target_modules": ["dense"], "use_rslora": True},
}
TARGETS = {
    "linear": "dense",
    "embedding": "embed",
    "experts": "experts",
    "linear_rslora": "dense",
}


class Net(nn.Module):
    """An embedding, a linear layer and experts in one (E, out, in) parameter."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, INNER, dtype=dtype)
        self.dense = nn.Linear(INNER, OUTER, dtype=dtype)
        self.experts = Experts(EXPERTS, INNER, OUTER, is_transposed=False).to(dtype)


def draw_tensors() -> dict[str, torch.Tensor]:
    """Base and factors of the sizes that trained models have: an update of a tenth of W."""
    draw = torch.Generator().manual_seed(77)
    shapes = {
        "base/embed.weight": ((WORDS, INNER), 0.05),
        "base/dense.weight": ((OUTER, INNER), 0.05),
        "base/dense.bias": ((OUTER,), 0.1),
        "base/experts.weight": ((EXPERTS, OUTER, INNER), 0.05),
        "adapter/base_model.model.dense.lora_A.weight": ((RANK, INNER), 0.05),
        "adapter/base_model.model.dense.lora_B.weight": ((OUTER, RANK), 0.03),
        "adapter/base_model.model.dense.lora_B.bias": ((OUTER,), 0.02),
        "adapter/base_model.model.embed.lora_embedding_A": ((RANK, WORDS), 0.002),
        "adapter/base_model.model.embed.lora_embedding_B": ((INNER, RANK), 1.0),
        "adapter/base_model.model.experts.lora_A.weight": ((EXPERTS * RANK, INNER), 0.05),
        "adapter/base_model.model.experts.lora_B.weight": ((OUTER, EXPERTS * RANK), 0.03),
    }
    return {k: torch.randn(shape, generator=draw) * size for k, (shape, size) in shapes.items()}


def merge(tensors: dict[str, torch.Tensor], kind: str, dtype: str, **how: bool) -> nn.Module:
    """The network in `dtype` with the adapter of `kind` merged by PEFT."""
    net = Net(DTYPES[dtype])
    net.load_state_dict({k.removeprefix("base/"): v for k, v in tensors.items() if "base/" in k})
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, **CONFIGS[kind])
    model: Any = get_peft_model(net, config, autocast_adapter_dtype=how["autocast_adapter_dtype"])
    wanted = TARGETS[kind]
    adapter = {
        k.removeprefix("adapter/"): v
        for k, v in tensors.items()
        if "adapter/" in k and wanted in k and ("bias" not in k or config.lora_bias)
    }
    result = set_peft_model_state_dict(model, adapter)
    assert not result.unexpected_keys, result.unexpected_keys
    merged: nn.Module = model.merge_and_unload(safe_merge=how["safe_merge"])
    return merged


def rounding_of(kind: str, safe: bool, autocast: bool) -> str:
    """The recipe by which PEFT merges the weight, found by running it."""
    if kind == "experts":
        return "update" if autocast else "each"
    return "update" if safe or kind == "embedding" or not autocast else "sum"


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    tensors = draw_tensors()
    arrays = dict(tensors)
    cases = []
    for kind, dtype, safe, autocast in product(CONFIGS, DTYPES, (False, True), (True, False)):
        merged = merge(tensors, kind, dtype, safe_merge=safe, autocast_adapter_dtype=autocast)
        name = f"{kind}-{dtype}-{'safe' if safe else 'unsafe'}-{'float32' if autocast else 'base'}"
        changed = [k for k in merged.state_dict() if TARGETS[kind] in k]
        arrays |= {f"{name}/{k}": merged.state_dict()[k].clone() for k in changed}
        case = {
            "name": name,
            "dtype": dtype,
            "safe_merge": safe,
            "autocast_adapter_dtype": autocast,
            "use_rslora": kind == "linear_rslora",
            "factors": "float32" if autocast else "base",
            "rounding": rounding_of(kind, safe, autocast),
            "arrays": changed,
        }
        if kind == "linear":
            case["bias_rounding"] = "sum" if autocast else "update"
        cases.append(case)
    save_file(arrays, VECTORS / "peft_merge.safetensors")
    head = {
        "source": "peft.tuners.lora.layer: merge and get_delta_weight (CPU)",
        "version": {name: version(name) for name in ("peft", "torch")},
        "command": "python tests/vectors/generate/peft_merge.py",
        "reason": "the rounding recipes of a merge, bit for bit, without PEFT at test time",
        "config": {"r": RANK, "lora_alpha": ALPHA},
        "cases": cases,
    }
    write_json(VECTORS / "peft_merge.json", head)


if __name__ == "__main__":
    main()
