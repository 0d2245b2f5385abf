"""Golden vectors of PEFT's AdaLoRA layers, in float64: ../peft_adalora.json + .safetensors.

Every case wraps one frozen base layer in a model `net.layer`, gives λ, P and Q random values, and
records: inputs, output, the gradients of inputs and adapter for a random dy, the merged base, and
the adapter's keys as PEFT saves them. The model is wrapped in float32 and then made float64, so
that PEFT does not train its divisor.

    python tests/vectors/generate/peft_adalora.py
"""

from importlib.metadata import version
from typing import Any

import torch
from minilm import VECTORS, write_json
from peft import AdaLoraConfig, get_peft_model, get_peft_model_state_dict
from peft_cases import Case, Net
from peft_lora import fill, gradients, make_input
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D


def linear(r: int, alpha: int, reason: str, inner: int = 7, outer: int = 11) -> Case:
    """A linear layer; x has two batch axes."""
    config = {"init_r": r, "lora_alpha": alpha}
    return Case(lambda: nn.Linear(inner, outer), ((2, 4, inner),), config, reason)


def conv2d(r: int, alpha: int, reason: str, **geometry: Any) -> Case:
    """A convolution of three channels into five."""
    config = {"init_r": r, "lora_alpha": alpha}
    base = {"in_channels": 3, "out_channels": 5, **geometry}
    return Case(lambda: nn.Conv2d(**base), ((2, 3, 6, 7),), config, reason, geometry)


CASES = {
    "linear": linear(3, 5, "the definition: y = xW' + b, s = alpha/(r + 1e-5)"),
    "linear_square": linear(4, 10, "square: a transposed factor does not fail by shape", 6, 6),
    "linear_rank_one": linear(1, 3, "rank 1: one triplet"),
    "linear_wide_rank": linear(9, 4, "r above min(in, out): P and Q cannot be orthogonal"),
    "linear_no_alpha": linear(3, 0, "alpha of 0 stands for r"),
    "conv1d_transformers": Case(
        lambda: Conv1D(11, 7),
        ((2, 3, 7),),
        {"init_r": 3, "lora_alpha": 5, "fan_in_fan_out": True},
        "fan_in_fan_out: the base is (in, out), the factors are as ever",
    ),
    "conv2d": conv2d(
        4,
        6,
        "every number differs between the axes, dilation included",
        kernel_size=(2, 3),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 2),
    ),
    "conv2d_pointwise": conv2d(2, 5, "kernel 1x1", kernel_size=1),
}


def run_case(case: Case, draw: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every array of the case by name, and the description that goes to the JSON file."""
    config = {"target_modules": ["layer"], "total_step": 30, **case.config}
    net = Net(case.layer())
    model: Any = get_peft_model(net, AdaLoraConfig(**config)).double().eval()
    fill(model.base_model.model.layer.base_layer.parameters(), draw)
    fill((p for p in model.parameters() if p.requires_grad), draw)
    base = model.base_model.model.layer.base_layer.state_dict()
    arrays = {f"base/{k}": v.detach().clone() for k, v in base.items()}
    [x] = [make_input(what, draw) for what in case.inputs]
    y = model(x)
    dy = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    y.backward(dy)
    adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    arrays |= {f"adapter/{k}": v.detach().clone() for k, v in adapter.items()}
    arrays |= {"x": x.detach(), "dx": x.grad, "y": y.detach(), "dy": dy} | gradients(model)
    merged = model.merge_and_unload().layer
    arrays |= {f"merged/{k}": v.detach().clone() for k, v in merged.state_dict().items()}
    return arrays, {"config": config, "geometry": case.geometry}


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    arrays: dict[str, torch.Tensor] = {}
    described = {}
    for seed, (name, case) in enumerate(CASES.items()):
        found, facts = run_case(case, torch.Generator().manual_seed(4000 + seed))
        layer = type(case.layer()).__name__
        described[name] = {"reason": case.reason, "layer": layer, **facts, "arrays": sorted(found)}
        arrays |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
    save_file(arrays, VECTORS / "peft_adalora.safetensors")
    head = {
        "source": "peft.tuners.adalora.layer",
        "version": {name: version(name) for name in ("peft", "torch", "transformers")},
        "command": "python tests/vectors/generate/peft_adalora.py",
        "reason": "our reading of AdaLoRA's layers against PEFT's, values and gradients",
        "cases": described,
    }
    write_json(VECTORS / "peft_adalora.json", head)


if __name__ == "__main__":
    main()
