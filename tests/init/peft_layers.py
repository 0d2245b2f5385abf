"""One layer with one of PEFT's initialisations on it, for the tests that run PEFT."""

import copy
import sys
import warnings
from pathlib import Path

import pytest

from lora_ref.adapters import LoRA

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
    sys.path.insert(0, str(Path(__file__).parent.parent / "vectors" / "generate"))
    try:
        import peft_init_cases
    finally:
        sys.path.pop(0)

CASES = peft_init_cases.CASES


def numpy_of(t):
    return t.detach().numpy().copy()


def layer(rng, m=11, n=7, dtype=None):
    W = torch.tensor(rng.standard_normal((m, n)), dtype=dtype or torch.get_default_dtype())
    net = torch.nn.ModuleDict({"layer": torch.nn.Linear(n, m, bias=False)})
    net["layer"].weight = torch.nn.Parameter(W)
    return net


def prepared(name, net, rng):
    """`net` with what the initialisation wants to find on it, and the configuration."""
    config = peft_init_cases.config_of(CASES[name])
    inner = net["layer"]
    x = torch.tensor(rng.standard_normal((29, inner.in_features)), dtype=inner.weight.dtype)
    if name.startswith("corda"):
        from peft.tuners.lora.corda import preprocess_corda

        preprocess_corda(net, config, run_model=lambda: inner(x))
    if name.startswith("lora_ga"):
        inner._peft_loraga_grad = torch.tensor(rng.standard_normal(inner.weight.shape))
    return net, config


def adapted(name, net, rng):
    net, config = prepared(name, copy.deepcopy(net), rng)
    return peft.get_peft_model(net, config)


def inside(model):
    return model.base_model.model["layer"]


def lora_of(model):
    found = inside(model)
    A, B = (numpy_of(t["default"].weight) for t in (found.lora_A, found.lora_B))
    return LoRA(A, B, found.scaling["default"])
