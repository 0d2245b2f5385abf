"""Golden vectors of PEFT's LoRA layers, small and in float64: ../peft_lora.json + .safetensors.

Every case wraps one frozen base layer in a model `net.layer`, gives A and B random values, and
records: inputs, output, the gradients of inputs and adapter for a random dy, the merged base, and
the adapter's keys as PEFT saves them. `route` says what y and the gradients come from: PEFT's own
forward ("factored"), or the base layer run with W + PEFT's delta ("merged") where PEFT's forward
raises or disagrees with PEFT's merge; `unmerged` then says what the forward does.

    python tests/vectors/generate/peft_lora.py
"""

from importlib.metadata import version
from typing import Any

import torch
from minilm import VECTORS, write_json
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft_cases import CASES, Case
from safetensors.torch import save_file

SOURCE = "peft.tuners.lora.layer"


def fill(parameters: Any, draw: torch.Generator) -> None:
    """Normal values for every parameter, B included, so that no update is zero."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))


def make_input(what: Any, draw: torch.Generator) -> torch.Tensor:
    """A random float64 tensor of the shape named, or the ids themselves."""
    if isinstance(what, tuple):
        x = torch.randn(what, generator=draw, dtype=torch.float64)
        return x.requires_grad_()
    return torch.tensor(what)


def run_merged(model: Any, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The base layer run with W + delta, delta by PEFT and differentiable."""
    layer = model.base_model.model.layer
    weight = layer.base_layer.weight + layer.get_delta_weight("default")
    return torch.func.functional_call(layer.base_layer, {"weight": weight}, tuple(inputs))


def try_unmerged(model: Any, inputs: list[torch.Tensor], y: torch.Tensor) -> str:
    """What PEFT's forward makes of a case whose truth y is the merged layer's."""
    try:
        with torch.no_grad():
            gap = float((model(*inputs) - y).abs().max())
    except RuntimeError as error:
        return f"raises: {error}"
    return f"differs from the merged layer by up to {gap:.3g}"


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's gradients under the keys PEFT saves the adapter with."""
    return {
        f"d_adapter/{name.replace('.default', '')}": parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def run_case(case: Case, draw: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every array of the case by name, and the description that goes to the JSON file."""
    net = case.net(case.layer()).double()
    fill(net.parameters(), draw)
    arrays = {f"base/{k}": v.detach().clone() for k, v in net.state_dict().items()}
    config = {"target_modules": ["layer"], **case.config}
    model: Any = get_peft_model(net, LoraConfig(**config)).eval()
    fill((p for p in model.parameters() if p.requires_grad), draw)
    inputs = [make_input(what, draw) for what in case.inputs]
    y = model(*inputs) if case.route == "factored" else run_merged(model, inputs)
    dy = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    y.backward(dy)
    adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    arrays |= {f"adapter/{k}": v.detach().clone() for k, v in adapter.items()}
    arrays |= {f"input/{i}": x.detach() for i, x in enumerate(inputs)}
    arrays |= {f"d_input/{i}": x.grad for i, x in enumerate(inputs) if x.grad is not None}
    arrays |= {"y": y.detach(), "dy": dy} | gradients(model)
    scaling = next(m.scaling["default"] for m in model.modules() if hasattr(m, "scaling"))
    facts = {"config": config, "scaling": scaling, "geometry": case.geometry, "route": case.route}
    if case.route == "merged":
        facts["unmerged"] = try_unmerged(model, inputs, y)
    if case.mergeable:
        merged = model.merge_and_unload()
        arrays |= {f"merged/{k}": v.detach().clone() for k, v in merged.state_dict().items()}
        with torch.no_grad():
            torch.testing.assert_close(merged(*inputs), y, rtol=1e-11, atol=1e-11)
    return arrays, facts


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    arrays: dict[str, torch.Tensor] = {}
    described = {}
    for seed, (name, case) in enumerate(CASES.items()):
        draw = torch.Generator().manual_seed(1000 + seed)
        found, facts = run_case(case, draw)
        layer = type(case.layer()).__name__
        described[name] = {"reason": case.reason, "layer": layer, **facts, "arrays": sorted(found)}
        arrays |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
        print(f"{name:24} {facts['route']:10} {facts.get('unmerged', '')}")
    save_file(arrays, VECTORS / "peft_lora.safetensors")
    head = {
        "source": SOURCE,
        "version": {name: version(name) for name in ("peft", "torch", "transformers")},
        "command": "python tests/vectors/generate/peft_lora.py",
        "reason": "our reading of LoRA's layers against PEFT's, values and gradients, in float64",
        "cases": described,
    }
    write_json(VECTORS / "peft_lora.json", head)


if __name__ == "__main__":
    main()
