"""Small models under PEFT's AdaLoRA, and what PEFT holds of them as arrays of this library."""

import numpy as np
import pytest

# pytest looks for doctests here too, also where there are no peers.
torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")

from torch import nn  # noqa: E402

from lora_ref.adapters import AdaLoRA  # noqa: E402
from lora_ref.adapters.adalora import peft_scaling  # noqa: E402

SIZES = {"first": (7, 11), "second": (11, 6), "third": (6, 6)}


class Output:
    """What PEFT takes the loss from, and adds the penalty to."""

    def __init__(self, loss):
        self.loss = loss


class Chain(nn.Module):
    """Three linear layers, two of them unequal and one square, whose forward returns a loss."""

    config = {"model_type": "none"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        for name, (n, m) in SIZES.items():
            setattr(self, name, nn.Linear(n, m))

    def forward(self, x):
        h = torch.tanh(self.second(torch.tanh(self.first(x))))
        return Output(torch.mean((self.third(h) - torch.sin(x[:, :6])) ** 2))


def wrapped(net, seed=0, **fields):
    """`net` in float64 with AdaLoRA on it; λ, P and Q random, so that no gradient is zero.

    It is wrapped before it is float64: otherwise PEFT trains ranknum (docs/divergences.md).
    """
    settings = {"init_r": 5, "target_r": 2, "lora_alpha": 3, "total_step": 30, **fields}
    settings.setdefault("target_modules", [*SIZES])
    model = peft.get_peft_model(net, peft.AdaLoraConfig(**settings)).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.4 * torch.randn(parameter.shape, generator=draw).to(parameter)
    return model


def chain(seed=0, **fields):
    torch.manual_seed(seed)
    return wrapped(Chain(), seed, **fields)


def layers_of(model):
    """PEFT's AdaLoRA layers by the name of the layer, sorted as PEFT registers them."""
    return {
        name: layer
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "lora_E")
    }


def read_from(model, read=lambda parameter: parameter, adapter="default"):
    """The adapters of a PEFT model, or any tree made of `read` of their parameters."""

    def array(parameter):
        return read(parameter).detach().numpy().copy()

    return {
        name: AdaLoRA(
            array(layer.lora_B[adapter]),
            array(layer.lora_E[adapter])[:, 0],
            array(layer.lora_A[adapter]),
            peft_scaling(layer.lora_alpha[adapter], round(layer.ranknum[adapter].item())),
        )
        for name, layer in layers_of(model).items()
    }


def statistics_of(model, which):
    """PEFT's running statistics, as a tree of the adapters' structure."""
    found = getattr(model.base_model.rankallocator, which)
    return {
        name: AdaLoRA(
            found[f"{name}.lora_B.default"].numpy(),
            found[f"{name}.lora_E.default"].numpy()[:, 0],
            found[f"{name}.lora_A.default"].numpy(),
            adapter.scale,
        )
        for name, adapter in read_from(model).items()
    }


def pattern_of(model):
    """PEFT's rank_pattern by layer."""
    pattern = model.peft_config["default"].rank_pattern
    return pattern and {
        name.partition(".lora_E")[0]: np.array(stay) for name, stay in pattern.items()
    }
