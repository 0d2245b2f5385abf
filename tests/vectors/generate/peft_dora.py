"""Golden vectors of PEFT's DoRA beyond linear layers, and of dropout: ../peft_dora.*

Convolutions and embeddings are recorded as in peft_lora.py. For dropout the layer's nn.Dropout
gives way to a product with a recorded mask, and the model is in training.

    python tests/vectors/generate/peft_dora.py
"""

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from minilm import VECTORS, write_json
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft_cases import CASES, Case, conv, linear
from peft_lora import fill, gradients, make_input, run_case
from safetensors.torch import save_file
from torch import nn


class Masked(nn.Module):
    """Dropout whose mask is known."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def dora(case: Case) -> Case:
    """The case with use_dora."""
    return replace(case, config={**case.config, "use_dora": True})


PLAIN_CONV = conv(
    nn.Conv2d,
    (2, 3, 6, 7),
    4,
    6,
    "the norm is over channels and offsets, m is (1, m, 1, 1)",
    in_channels=3,
    out_channels=5,
    kernel_size=(2, 3),
    stride=(2, 1),
    padding=(1, 2),
)
LAYERS = {
    "conv1d_dora": dora(CASES["conv1d_plain"]),
    "conv2d_dora": dora(PLAIN_CONV),
    "conv2d_pointwise_dora": dora(CASES["conv2d_pointwise"]),
    "conv3d_dora": dora(CASES["conv3d"]),
    "embedding_dora": dora(CASES["embedding"]),
    "embedding_padding_dora": dora(CASES["embedding_padding"]),
}
WITH_DROPOUT = {
    "linear_dropout": linear(3, 5, "LoRA: the base reads x, A the dropped x"),
    "linear_dora_dropout": linear(
        3, 5, "DoRA: the base reads x, (g - 1) W and B A the dropped x", use_dora=True
    ),
    "linear_dora_dropout_square": linear(
        4, 10, "the same, square, without a base bias", 6, 6, use_dora=True, bias=False
    ),
    "conv2d_dropout": PLAIN_CONV,
    "conv2d_dora_dropout": dora(PLAIN_CONV),
}


def run_dropped(
    case: Case, draw: torch.Generator
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As peft_lora.run_case, in training and with a mask in place of dropout."""
    net = case.net(case.layer()).double()
    fill(net.parameters(), draw)
    arrays = {f"base/{k}": v.detach().clone() for k, v in net.state_dict().items()}
    config = {"target_modules": ["layer"], "lora_dropout": 0.4, **case.config}
    model: Any = get_peft_model(net, LoraConfig(**config)).train()
    fill((p for p in model.parameters() if p.requires_grad), draw)
    x = make_input(case.inputs[0], draw)
    kept = torch.rand(x.shape, generator=draw, dtype=torch.float64) >= 0.4
    mask = kept.double() / 0.6
    layer = model.base_model.model.layer
    layer.lora_dropout["default"] = Masked(mask)
    y = model(x)
    dy = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    y.backward(dy)
    adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    arrays |= {f"adapter/{k}": v.detach().clone() for k, v in adapter.items()}
    arrays |= {"input/0": x.detach(), "d_input/0": x.grad, "mask": mask}
    arrays |= {"y": y.detach(), "dy": dy} | gradients(model)
    facts = {"config": config, "geometry": case.geometry, "route": case.route}
    return arrays, facts | {"scaling": layer.scaling["default"]}


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    arrays: dict[str, torch.Tensor] = {}
    described = {}
    runs = [(run_case, LAYERS), (run_dropped, WITH_DROPOUT)]
    cases = [(run, name, case) for run, group in runs for name, case in group.items()]
    for seed, (run, name, case) in enumerate(cases):
        found, facts = run(case, torch.Generator().manual_seed(3000 + seed))
        layer = type(case.layer()).__name__
        described[name] = {"reason": case.reason, "layer": layer, **facts, "arrays": sorted(found)}
        arrays |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
    save_file(arrays, VECTORS / "peft_dora.safetensors")
    head = {
        "source": "peft.tuners.lora.dora, peft.tuners.lora.variants",
        "version": {name: version(name) for name in ("peft", "torch")},
        "command": "python tests/vectors/generate/peft_dora.py",
        "reason": "DoRA of convolutions and embeddings, and dropout, in float64",
        "cases": described,
    }
    write_json(VECTORS / "peft_dora.json", head)


if __name__ == "__main__":
    main()
