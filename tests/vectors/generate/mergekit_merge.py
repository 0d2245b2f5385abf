"""Golden vectors of mergekit's task arithmetic, TIES and DARE: ../mergekit_merge.*

mergekit's own task is run on three updates of one weight, with the base at zero, so that its
models are the updates. Masks are recorded as they are drawn. mergekit needs an environment of its
own, because it pins pydantic: pip install mergekit==0.1.4 safetensors

    python tests/vectors/generate/mergekit_merge.py
"""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from mergekit.merge_methods import REGISTERED_MERGE_METHODS
from mergekit.merge_methods.generalized_task_arithmetic import GTATask
from mergekit.sparsify import RescaleNorm, rescaled_masked_tensor
from minilm import VECTORS, write_json
from safetensors.torch import save_file

WEIGHTS, DENSITY = (0.7, -0.4, 1.3), 0.6
CASES = {  # name: (method, normalize)
    "task_arithmetic": ("task_arithmetic", False),
    "task_arithmetic-normalized": ("task_arithmetic", True),
    "ties": ("ties", True),
    "ties-unnormalized": ("ties", False),
    "dare_linear": ("dare_linear", False),
    "dare_ties": ("dare_ties", False),
}


def merge(method: str, normalize: bool, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """The update that mergekit makes of three, and the masks that it draws."""
    updates = [torch.randn((7, 11), generator=draw).double() for _ in WEIGHTS]
    bernoulli, masks = torch.bernoulli, []

    def recording(chances: torch.Tensor) -> torch.Tensor:
        masks.append(bernoulli(chances, generator=draw))
        return masks[-1]

    models: dict[Any, torch.Tensor] = {"base": torch.zeros(7, 11).double()}
    models |= {f"{i}": update.clone() for i, update in enumerate(updates)}
    own = {f"{i}": {"weight": w, "density": DENSITY} for i, w in enumerate(WEIGHTS)}
    chosen: Any = REGISTERED_MERGE_METHODS[method]
    task = SimpleNamespace(
        method=chosen,
        base_model="base",
        tensor_parameters=SimpleNamespace(data=own),
        int8_mask=False,
        normalize=normalize,
        lambda_=1.0,
        rescale_norm=RescaleNorm.l1 if chosen.default_rescale else None,
        weight_info=SimpleNamespace(name="weight", is_embed=False),
    )
    torch.bernoulli = recording  # type: ignore[assignment]
    merged = GTATask.execute(task, models)  # type: ignore[arg-type]
    torch.bernoulli = bernoulli
    found = {f"update/{i}": update for i, update in enumerate(updates)}
    return found | {f"mask/{i}": mask == 1 for i, mask in enumerate(masks)} | {"merged": merged}


def match(draw: torch.Generator) -> dict[str, torch.Tensor]:
    """The rescaling of DARE alone, which mergekit computes in float32 on the way to a merge."""
    t = torch.randn((7, 11), generator=draw, dtype=torch.float64)
    mask = torch.rand((7, 11), generator=draw) < DENSITY
    return {
        "update/0": t,
        "mask/0": mask,
        "merged": rescaled_masked_tensor(t, mask, RescaleNorm.l1),
    }


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(5)
    found = {name: merge(*case, draw) for name, case in CASES.items()} | {"rescale": match(draw)}
    arrays = {
        f"{name}/{k}": v.contiguous() for name, case in found.items() for k, v in case.items()
    }
    save_file(arrays, VECTORS / "mergekit_merge.safetensors")
    head = {
        "source": "mergekit.merge_methods.generalized_task_arithmetic.GTATask, mergekit.sparsify",
        "version": {name: version(name) for name in ("mergekit", "torch")},
        "command": "python tests/vectors/generate/mergekit_merge.py",
        "reason": "our TIES, DARE and task arithmetic in mergekit's definition; DARE in float32",
        "config": {"weights": WEIGHTS, "density": DENSITY},
        "cases": {name: {"arrays": sorted(case)} for name, case in found.items()},
    }
    write_json(VECTORS / "mergekit_merge.json", head)


if __name__ == "__main__":
    main()
