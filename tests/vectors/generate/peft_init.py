"""Golden vectors of PEFT's initialisations in float64: ../peft_init.json + .safetensors.

Every case puts PEFT's adapter on one small layer and records the weight before, A and B, the weight
after, and what the initialisation was given: activations, their covariance, a gradient, the draws.

    python tests/vectors/generate/peft_init.py
"""

from dataclasses import asdict
from importlib.metadata import version

import torch
from minilm import VECTORS, write_json
from peft_init_cases import CASES, in_double, run_init
from safetensors.torch import save_file


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    arrays: dict[str, torch.Tensor] = {}
    described = {}
    for seed, (name, case) in enumerate(CASES.items(), start=2000):
        with in_double():
            found, scaling = run_init(case, seed)
        described[name] = {**asdict(case), "scaling": scaling, "arrays": sorted(found)}
        arrays |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
        print(f"{name:24} {sorted(found)}")
    save_file(arrays, VECTORS / "peft_init.safetensors")
    head = {
        "source": "peft.tuners.lora.layer, corda; peft.utils.incremental_pca",
        "version": {name: version(name) for name in ("peft", "torch", "transformers")},
        "command": "python tests/vectors/generate/peft_init.py",
        "reason": "our initialisations against PEFT's own lines, run with float64 for its float32",
        "cases": described,
    }
    write_json(VECTORS / "peft_init.json", head)


if __name__ == "__main__":
    main()
