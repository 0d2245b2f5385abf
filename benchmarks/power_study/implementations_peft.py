"""PEFT's own modules: its LoRA and DoRA layers around torch.nn.Linear, and its merges."""

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor

from .cases import Case
from .implementation import Implementation, Outputs, registry
from .torch_tools import Leaves, outputs, tensors

NAME = "default"
found, add = registry("lora_linear", every=2)
found_merged, add_merged = registry("lora_merged", every=2)
found_dora, add_dora = registry("dora_linear", every=2)


def layer(case: Case, t: Leaves) -> Linear:
    """PEFT's layer with the case's numbers, everything in the case's dtype."""
    (m, n), rank = t.W.shape, int(case.static["rank"])
    has_bias, dora = "b" in case.arrays, case.kind == "dora_linear"
    base = torch.nn.Linear(n, m, bias=has_bias, dtype=t.W.dtype, device=t.W.device)
    config = LoraConfig(r=rank, lora_alpha=case.static["alpha"], use_dora=dora)
    module = Linear(base, NAME, config, r=rank, lora_alpha=case.static["alpha"])
    module = module.to(t.W.dtype)
    base.weight.data, module.lora_A[NAME].weight.data = t.W, t.A
    module.lora_B[NAME].weight.data = t.B
    if has_bias:
        base.bias.data = t.b
        base.bias.requires_grad_()
    if dora:
        module.lora_magnitude_vector[NAME].weight.data = t.m
    return module.train()


@add("PEFT's Linear")
def lora(case: Case) -> Outputs:
    """Forward of the module, backward of autograd."""
    t = tensors(case)
    module = layer(case, t)
    y, (dx, dA, dB, db) = _through(module, t, module.base_layer.bias)
    return outputs(case, y=y, dx=dx, dA=dA, dB=dB, db=db)


@add_dora("PEFT's Linear with use_dora", applies=lambda case: bool(case.static["detached"]))
def dora(case: Case) -> Outputs:
    """PEFT holds the norm constant."""
    t = tensors(case)
    module = layer(case, t)
    y, (dx, dA, dB, dm) = _through(module, t, module.lora_magnitude_vector[NAME].weight)
    return outputs(case, y=y, dx=dx, dA=dA, dB=dB, dm=dm)


def _through(module: Linear, t: Leaves, last: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """y, and the gradients of x, A, B and one more parameter."""
    leaves = (t.x.requires_grad_(), module.lora_A[NAME].weight, module.lora_B[NAME].weight, last)
    y = module(t.x)
    return y, torch.autograd.grad(y, leaves, t.dy)


@add_merged("PEFT's merge")
def merge(case: Case) -> Outputs:
    """The update is rounded before it is added, and so is the sum."""
    return _merged(case, safe=False)


@add_merged("PEFT's safe merge")
def safe_merge(case: Case) -> Outputs:
    """The same on a copy of the weight."""
    return _merged(case, safe=True)


def _merged(case: Case, safe: bool) -> Outputs:
    module = layer(case, tensors(case))
    module.merge(safe_merge=safe)
    return outputs(case, y=module.get_base_layer().weight)


IMPLEMENTATIONS: tuple[Implementation, ...] = (*found, *found_merged, *found_dora)
