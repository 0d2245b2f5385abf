"""Golden vectors of PEFT's methods other than LoRA: ../peft_tuners.json + .safetensors.

Each case is two frozen layers in a row, in float64, with random numbers for everything that is
trained: input, output, the gradients of x and of every parameter, the merged weights, and the
adapter's keys as PEFT saves them, with the configuration that it saves beside them.

    python tests/vectors/generate/peft_tuners.py
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from minilm import VECTORS, write_json
from peft_tuner_cases import CASES, run
from safetensors.torch import save_file


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    arrays: dict[str, torch.Tensor] = {}
    described = {}
    for name, case in CASES.items():
        model = case.model()
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            config = json.loads((Path(directory) / "adapter_config.json").read_text())
        config["auto_mapping"] = None  # names the module that this script was run as
        config["target_modules"] = sorted(config["target_modules"])
        found = run(case, model)
        described[name] = {
            "reason": case.reason,
            "config": config,
            "is_turned": case.is_turned,
            "arrays": sorted(found),
        }
        arrays |= {f"{name}/{key}": t.contiguous() for key, t in found.items()}
        print(name, sorted(k for k in found if k.startswith("adapter/")))
    save_file(arrays, VECTORS / "peft_tuners.safetensors")
    head = {
        "source": "peft.tuners, all but lora",
        "version": {name: version(name) for name in ("peft", "torch", "transformers")},
        "command": "python tests/vectors/generate/peft_tuners.py",
        "reason": "our reading of each method against PEFT's, values and gradients, in float64",
        "cases": described,
    }
    write_json(VECTORS / "peft_tuners.json", head)


if __name__ == "__main__":
    main()
