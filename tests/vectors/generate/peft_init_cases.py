"""PEFT's initialisations, run on one small layer in float64, with every random draw at hand.

PEFT decomposes in float32, so its own lines are run with `torch.float32` read as `torch.float64`:
`in_double` puts that name in PEFT's modules and makes `.float()` a `.double()`. Nothing else of
PEFT is changed, and tests compare PEFT as it is in float32 as well.
"""

import dataclasses
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.utils.incremental_pca import IncrementalPCA
from torch import nn
from transformers.pytorch_utils import Conv1D

if importlib.util.find_spec("attr") is None:  # peft.tuners.lora.corda needs it and does not say so
    sys.modules["attr"] = types.ModuleType("attr")
    sys.modules["attr"].dataclass = dataclasses.dataclass
PATCHED = ("peft.tuners.lora.layer", "peft.tuners.lora.corda", "peft.tuners.lora.eva")


class _Double(types.ModuleType):
    """torch, with float64 under the name of float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def recorded_draws() -> Iterator[list[torch.Tensor]]:
    """The results of torch.randn and torch.randperm, in order."""
    draws: list[torch.Tensor] = []
    kept = {name: getattr(torch, name) for name in ("randn", "randperm")}

    def recording(draw: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
            draws.append(draw(*args, **kwargs).clone())
            return draws[-1].clone()

        return wrapped

    try:
        for name, draw in kept.items():
            setattr(torch, name, recording(draw))
        yield draws
    finally:
        for name, draw in kept.items():
            setattr(torch, name, draw)


@contextmanager
def in_double() -> Iterator[None]:
    """PEFT's float32 is float64."""
    modules = [importlib.import_module(name) for name in PATCHED]
    single, default = torch.Tensor.float, torch.get_default_dtype()
    try:
        for module in modules:
            module.torch = _Double("torch")  # type: ignore[attr-defined]
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        for module in modules:
            module.torch = torch  # type: ignore[attr-defined]
        torch.Tensor.float = single  # type: ignore[method-assign]
        torch.set_default_dtype(default)


@dataclass(frozen=True)
class InitCase:
    """One initialisation of one layer (outputs, inputs), and why it is here."""

    init: str
    reason: str
    outputs: int = 11
    inputs: int = 7
    r: int = 3
    lora_alpha: int = 5
    conv1d: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # of LoraConfig
    method: dict[str, Any] = field(default_factory=dict)  # of the method's own config


STABLE = {"direction": "ArB2r", "scale": "stable", "stable_gamma": 16}
CASES = {
    "pissa": InitCase("pissa", "S/s is split evenly between the factors"),
    "pissa_wide": InitCase("pissa", "more inputs than outputs", 7, 11, 2, 9),
    "pissa_square": InitCase("pissa", "a transpose does not fail by shape", 6, 6),
    "pissa_rslora": InitCase("pissa", "s = α/√r", r=4, options={"use_rslora": True}),
    "pissa_conv1d": InitCase("pissa", "the stored weight is transposed first", conv1d=True),
    "pissa_niter_4": InitCase("pissa_niter_4", "torch.svd_lowrank with Ω of the draw"),
    "pissa_niter_1_wide": InitCase("pissa_niter_1", "the short side is sketched", 7, 11, 2),
    "olora": InitCase("olora", "Q and R as they are, s outside"),
    "olora_wide": InitCase("olora", "R is a trapezoid", 7, 11, 4),
    "mica": InitCase("mica", "the last left singular vectors, A = 0"),
    "mica_wide": InitCase("mica", "k = m", 7, 11, 2),
    "orthogonal": InitCase("orthogonal", "rows of one orthogonal matrix", r=4),
    "corda_ipm": InitCase("corda", "the leading components", method={"corda_method": "ipm"}),
    "corda_kpm": InitCase("corda", "the trailing components", method={"corda_method": "kpm"}),
    "corda_ipm_conv1d": InitCase(
        "corda", "transposed", 7, 11, 2, 3, True, method={"corda_method": "ipm"}
    ),
    "lora_ga": InitCase("lora_ga", "the default", method=STABLE),
    "lora_ga_wide": InitCase("lora_ga", "m^¼ is of the outputs", 7, 11, method=STABLE),
    "lora_ga_A2rBr_unit": InitCase(
        "lora_ga", "leading to B, no gain", method={"direction": "A2rBr", "scale": "unit"}
    ),
    "lora_ga_ArBr_gd": InitCase(
        "lora_ga", "alternating, 1/s", method={"direction": "ArBr", "scale": "gd_scale"}
    ),
    "lora_ga_random_weight": InitCase(
        "lora_ga",
        "one draw for both factors, S₁(W) / S_b",
        method={"direction": "random", "scale": "weight_svd"},
    ),
    "lora_ga_conv1d": InitCase(
        "lora_ga", "the gain is n^¼ where it should be m^¼", conv1d=True, method=STABLE
    ),
    "eva": InitCase("eva", "incremental PCA of three batches, two components of seven", r=2),
}


def layer_of(case: InitCase, draw: torch.Generator) -> nn.ModuleDict:
    """The layer with a random weight whose first singular value stands out."""
    kind = Conv1D(case.outputs, case.inputs) if case.conv1d else None
    layer = kind or nn.Linear(case.inputs, case.outputs, bias=False)
    dtype = torch.get_default_dtype()
    with torch.no_grad():
        values = torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64)
        U, S, Vh = torch.linalg.svd(values, full_matrices=False)
        S[0] = 1e3 * S[0] if case.method.get("scale") == "weight_svd" else S[0]
        layer.weight = nn.Parameter((U * S @ Vh).to(dtype))
    return nn.ModuleDict({"layer": layer})


def config_of(case: InitCase) -> LoraConfig:
    """PEFT's configuration of a case."""
    own: dict[str, Any] = {}
    if case.init == "corda":
        own = {"corda_config": CordaConfig(**case.method)}
    if case.init == "lora_ga":
        own = {"lora_ga_config": LoraGAConfig(**case.method)}
    return LoraConfig(
        r=case.r,
        lora_alpha=case.lora_alpha,
        target_modules=["layer"],
        fan_in_fan_out=case.conv1d,
        init_lora_weights=case.init,
        **own,
        **case.options,
    )


def run_init(case: InitCase, seed: int) -> tuple[dict[str, torch.Tensor], float]:
    """Every array of the case by name, and s. In the default dtype; see `in_double`."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = layer_of(case, draw)
    dtype = torch.get_default_dtype()
    arrays = {"W": net["layer"].weight.detach().clone()}
    sizes = [(13, case.inputs), (17, case.inputs), (9, case.inputs)]
    batches = [torch.randn(size, generator=draw, dtype=torch.float64).to(dtype) for size in sizes]
    if case.init == "eva":
        arrays |= {f"x{i}": x.clone() for i, x in enumerate(batches)}
        return arrays | run_eva(case, batches), 1.0
    config = config_of(case)
    if case.init == "corda":
        from peft.tuners.lora.corda import preprocess_corda

        config.corda_config.prune_temporary_fields = False
        arrays |= {f"x{i}": x.clone() for i, x in enumerate(batches)}
        preprocess_corda(net, config, run_model=lambda: [net["layer"](x) for x in batches])
        arrays["C"] = net["layer"].covariance_matrix.clone()
    if case.init == "lora_ga":
        G = torch.randn(arrays["W"].shape, generator=draw, dtype=torch.float64).to(dtype)
        net["layer"]._peft_loraga_grad = arrays["G"] = G
    with recorded_draws() as draws, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(net, config)
    layer = model.base_model.model["layer"]
    keep = case.init in ("orthogonal",) or "niter" in case.init or "random" in str(case.method)
    arrays |= {f"draw{i}": t for i, t in enumerate(draws if keep else [])}
    arrays["A"] = layer.lora_A["default"].weight.detach().clone()
    arrays["B"] = layer.lora_B["default"].weight.detach().clone()
    arrays["W_res"] = layer.base_layer.weight.detach().clone()
    return arrays, layer.scaling["default"]


def run_eva(case: InitCase, batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """PEFT's incremental PCA with an exact SVD, after each batch."""
    pca, arrays = IncrementalPCA(n_components=case.r), {}
    for i, x in enumerate(batches):
        pca.partial_fit(x)
        arrays |= {
            f"V{i}": pca.components_.clone(),
            f"lengths{i}": pca.singular_values_.clone(),
            f"ratios{i}": pca.explained_variance_ratio_.clone(),
            f"variances{i}": pca.explained_variance_.clone(),
        }
    return arrays
