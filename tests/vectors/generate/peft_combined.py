"""Golden vectors of PEFT's add_weighted_adapter and of a mixed batch: ../peft_combined.*

One linear layer with three adapters in float64. Each combination records the factors that PEFT
makes, the masks that it drew for DARE, and its update where the signs of singular vectors are free;
the mixed batch records y and every gradient for a random dy.

    python tests/vectors/generate/peft_combined.py
"""

from importlib.metadata import version
from typing import Any

import torch
from minilm import VECTORS, write_json
from peft import LoraConfig, get_peft_model
from peft_lora import fill
from safetensors.torch import save_file

NAMES, ALPHAS = ("first", "second", "third"), (5, 7, 2)
WEIGHTS, DENSITY, RANK = (0.7, -0.4, 1.3), 0.6, 4
KINDS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
TYPES = ("cat", *KINDS, "svd", *(f"{kind}_svd" for kind in KINDS[1:]))
CHOSEN = ("second", "__base__", "first", "third", "second", "__base__")


def adapted(ranks: tuple[int, ...], draw: torch.Generator) -> tuple[Any, Any]:
    """The model with its three adapters, every number random, and its one layer."""
    net = torch.nn.ModuleDict({"layer": torch.nn.Linear(11, 7, bias=False).double()})
    configs = [
        LoraConfig(r=r, lora_alpha=alpha, target_modules=["layer"], init_lora_weights=False)
        for r, alpha in zip(ranks, ALPHAS, strict=True)
    ]
    model: Any = get_peft_model(net, configs[0], NAMES[0])
    for name, config in zip(NAMES[1:], configs[1:], strict=True):
        model.add_adapter(name, config)
    for parameter in model.parameters():
        parameter.requires_grad_()
    fill(model.parameters(), draw)
    return model.eval(), model.base_model.model["layer"]


def factors(layer: Any, name: str) -> dict[str, torch.Tensor]:
    """A and B of one adapter."""
    return {k: getattr(layer, f"lora_{k}")[name].weight.detach().clone() for k in "AB"}


def parts(layer: Any) -> dict[str, torch.Tensor]:
    """The factors of all three."""
    return {f"{name}/{k}": v for name in NAMES for k, v in factors(layer, name).items()}


def combine(name: str, elect: str, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """What PEFT makes of three adapters, and the masks that it draws on the way."""
    model, layer = adapted((3, 3, 3), draw)
    bernoulli, masks = torch.bernoulli, []

    def recording(chances: torch.Tensor) -> torch.Tensor:
        masks.append(bernoulli(chances, generator=draw))
        return masks[-1]

    torch.bernoulli = recording  # type: ignore[assignment]
    settings = {"density": DENSITY, "svd_rank": RANK, "majority_sign_method": elect}
    model.base_model.add_weighted_adapter(
        list(NAMES), list(WEIGHTS), "new", combination_type=name, **settings
    )
    torch.bernoulli = bernoulli
    found = parts(layer) | {f"mask/{i}": mask == 1 for i, mask in enumerate(masks)}
    if name.endswith("svd"):
        return found | {"delta": layer.get_delta_weight("new").detach().clone()}
    return found | {f"new/{k}": v for k, v in factors(layer, "new").items()}


def mix(draw: torch.Generator) -> dict[str, torch.Tensor]:
    """A batch of six short sequences, four of them with adapters."""
    _, layer = adapted((3, 2, 5), draw)
    x = torch.randn((6, 2, 11), generator=draw, dtype=torch.float64).requires_grad_()
    y = layer(x, adapter_names=list(CHOSEN))
    dy = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    y.backward(dy)
    found = {"x": x.detach(), "W": layer.base_layer.weight.detach(), "y": y.detach(), "dy": dy}
    for name in NAMES:
        for k in "AB":
            found[f"d{name}/{k}"] = getattr(layer, f"lora_{k}")[name].weight.grad
    return found | parts(layer) | {"dx": x.grad}


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(4)
    arrays: dict[str, torch.Tensor] = {}
    cases: dict[str, dict[str, Any]] = {}
    for name in TYPES:
        for elect in ("total", "frequency") if "ties" in name else ("total",):
            found = combine(name, elect, draw)
            cases[f"{name}-{elect}"] = {"type": name, "elect": elect, "arrays": sorted(found)}
            arrays |= {f"{name}-{elect}/{k}": v.contiguous() for k, v in found.items()}
    found = mix(draw)
    arrays |= {f"mixed/{k}": v.contiguous() for k, v in found.items()}
    cases["mixed"] = {"chosen": CHOSEN, "arrays": sorted(found)}
    save_file(arrays, VECTORS / "peft_combined.safetensors")
    head = {
        "source": "peft.tuners.lora.model.LoraModel.add_weighted_adapter, LoraLayer.forward",
        "version": {name: version(name) for name in ("peft", "torch")},
        "command": "python tests/vectors/generate/peft_combined.py",
        "reason": "our combinations of adapters and mixed batches against PEFT's, in float64",
        "config": {"weights": WEIGHTS, "alphas": ALPHAS, "density": DENSITY, "svd_rank": RANK},
        "cases": cases,
    }
    write_json(VECTORS / "peft_combined.json", head)


if __name__ == "__main__":
    main()
