"""Golden vectors of loralib, the paper's own package: ../loralib_lora.json + .safetensors.

Small and in float64, with the same array names as peft_lora.py; the adapter's keys are loralib's.
loralib is no dependency of this project: `pip install --no-deps loralib==0.1.2` first.

    python tests/vectors/generate/loralib_lora.py
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import loralib
import torch
from minilm import VECTORS, write_json
from safetensors.torch import save_file
from torch import nn

QKV = {"enable_lora": [True, False, True]}
CASES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], Any, str]] = {
    "linear": (
        loralib.Linear,
        {"in_features": 7, "out_features": 11, "r": 3, "lora_alpha": 5},
        (4, 7),
        "the paper's layer",
    ),
    "linear_fan_in_fan_out": (
        loralib.Linear,
        {"in_features": 7, "out_features": 11, "r": 2, "lora_alpha": 3, "fan_in_fan_out": True},
        (4, 7),
        "the base is stored (in, out)",
    ),
    "merged_linear": (
        loralib.MergedLinear,
        {"in_features": 7, "out_features": 15, "r": 2, "lora_alpha": 5} | QKV,
        (4, 7),
        "fused q, k, v in blocks, k without an adapter: r rows of A and a block of B for each",
    ),
    "merged_linear_fan_in_fan_out": (
        loralib.MergedLinear,
        {"in_features": 8, "out_features": 12, "r": 3, "lora_alpha": 7, "fan_in_fan_out": True}
        | QKV,
        (5, 8),
        "the same on GPT-2's layout",
    ),
    "embedding": (
        loralib.Embedding,
        {"num_embeddings": 13, "embedding_dim": 7, "r": 4, "lora_alpha": 6},
        [[3, 0, 12], [3, 5, 3]],
        "A (r, vocabulary), B (dim, r)",
    ),
    "conv2d": (
        loralib.Conv2d,
        {
            "in_channels": 3,
            "out_channels": 5,
            "kernel_size": 3,
            "r": 2,
            "lora_alpha": 7,
            "stride": 2,
            "padding": 1,
        },
        (2, 3, 6, 7),
        "BA of shape (out k, in k) seen as (out, in, k, k): not PEFT's factors",
    ),
    "conv2d_groups": (
        loralib.Conv2d,
        {
            "in_channels": 4,
            "out_channels": 6,
            "kernel_size": 2,
            "r": 3,
            "lora_alpha": 8,
            "groups": 2,
            "dilation": 2,
        },
        (1, 4, 5, 6),
        "B has out/groups k rows",
    ),
}


def is_factor(name: str) -> bool:
    """Whether a parameter belongs to the adapter."""
    return "lora_" in name


def run_case(
    build: Callable[..., nn.Module], options: dict[str, Any], shape: Any, draw: torch.Generator
) -> dict[str, torch.Tensor]:
    """Every array of one case by name."""
    layer = build(**options).double()
    layer.train()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    state = {name: value.detach().clone() for name, value in layer.state_dict().items()}
    if isinstance(shape, tuple):
        x = torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()
    else:
        x = torch.tensor(shape)
    y = layer(x)
    dy = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    y.backward(dy)
    arrays = {("adapter/" if is_factor(k) else "base/") + k: v for k, v in state.items()}
    arrays |= {"input/0": x.detach(), "y": y.detach(), "dy": dy}
    if x.grad is not None:
        arrays["d_input/0"] = x.grad
    for name, parameter in layer.named_parameters():
        if is_factor(name) and parameter.grad is not None:
            arrays[f"d_adapter/{name}"] = parameter.grad
    layer.eval()  # loralib merges here, and returns None
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y, rtol=1e-11, atol=1e-11)
    kept = {k: v.detach().clone() for k, v in layer.state_dict().items() if not is_factor(k)}
    return arrays | {f"merged/{k}": v for k, v in kept.items()}


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    arrays: dict[str, torch.Tensor] = {}
    described = {}
    for seed, (name, (build, options, shape, reason)) in enumerate(CASES.items()):
        found = run_case(build, options, shape, torch.Generator().manual_seed(2000 + seed))
        described[name] = {
            "reason": reason,
            "layer": build.__name__,
            "config": options,
            "scaling": options["lora_alpha"] / options["r"],
            "arrays": sorted(found),
        }
        arrays |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
    save_file(arrays, VECTORS / "loralib_lora.safetensors")
    head = {
        "source": "loralib.layers",
        "version": {name: version(name) for name in ("loralib", "torch")},
        "command": "python tests/vectors/generate/loralib_lora.py",
        "reason": "our reading of LoRA against the paper's own package, values and gradients",
        "cases": described,
    }
    write_json(VECTORS / "loralib_lora.json", head)


if __name__ == "__main__":
    main()
