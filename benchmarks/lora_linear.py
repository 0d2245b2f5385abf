"""What a small call costs: overhead of the library, not of BLAS.

    python benchmarks/lora_linear.py

LoRA on a linear layer, forward and backward (in 64, out 64, rank 4, 8 rows, float32), ours
against eager PyTorch in one run, median of paired rounds; the share of it that the shape check
takes; and the time of an import in a fresh process, less that of an empty Python.
To reach: a third of PyTorch, and 0.3 s. Without PyTorch that part is left out.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import timing

from lora_ref.adapters.lora import LoRA

Arrays = dict[str, np.ndarray]


def draw(rows: int = 8, n: int = 64, m: int = 64, rank: int = 4) -> Arrays:
    """x, W, A, B and the cotangent dy."""
    rng = np.random.default_rng(0)
    shapes = {"x": (rows, n), "W": (m, n), "A": (rank, n), "B": (m, rank), "dy": (rows, m)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def ours(t: Arrays, unchecked: bool = False) -> timing.Step:
    """Forward and all three gradients, dx, dA and dB."""
    adapter, x, W, dy = LoRA(t["A"], t["B"], 0.5), t["x"], t["W"], t["dy"]
    apply = LoRA.apply.__wrapped__ if unchecked else LoRA.apply

    def step():
        y, backward = apply(adapter, x, W)
        dx, dadapter = backward(dy)
        return y, dx, dadapter.A, dadapter.B

    return step


def pytorch(t: Arrays) -> timing.Step:
    """The same in eager PyTorch; the frozen weight requires no gradient."""
    import torch
    from torch.nn.functional import linear

    W, dy = torch.tensor(t["W"]), torch.tensor(t["dy"])
    x, A, B = (torch.tensor(t[name], requires_grad=True) for name in ("x", "A", "B"))

    def step():
        y = linear(x, W) + 0.5 * linear(linear(x, A), B)
        return y.detach(), *torch.autograd.grad(y, (x, A, B), dy)

    return step


def import_seconds(statement: str = "import lora_ref", count: int = 10) -> float:
    """Median over `count` fresh processes, less an empty one."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    seconds(statement)
    pairs = [(seconds(statement), seconds("pass")) for _ in range(count)]
    return statistics.median(a - b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="paired rounds")
    parser.add_argument("--out", type=pathlib.Path, help="folder for lora_linear.json")
    args = parser.parse_args()
    timing.restart_with_threads(1)
    t = draw()
    steps = {"ours": ours(t), "ours, unchecked": ours(t, unchecked=True)}
    if importlib.util.find_spec("torch"):
        steps["PyTorch"] = pytorch(t)
    found = timing.rounds(steps, args.rounds, pause=0.001)
    micro = {n: 1e6 * statistics.median(one[n] for one in found) for n in steps}
    record = {f"{name} (µs)": round(value, 2) for name, value in micro.items()}
    record["share of the shape check"] = round(
        1 - timing.median_ratio(found, "ours, unchecked", "ours"), 3
    )
    if "PyTorch" in steps:
        record["ours / PyTorch"] = round(timing.median_ratio(found, "ours", "PyTorch"), 3)
    for module in ("lora_ref", "lora_ref.adapters", "lora_ref.layers"):
        record[f"import {module} (s)"] = round(import_seconds(f"import {module}"), 3)
    for name, value in record.items():
        print(f"{name:30} {value}")
    if args.out:
        packages = ["numpy", *(["torch"] if "PyTorch" in steps else [])]
        record |= timing.environment(packages)
        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (args.out / "lora_linear.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
