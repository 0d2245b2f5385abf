"""What it costs to bound a kernel's outputs, as multiples of computing them.

    python benchmarks/bounds.py [--threads 1] [--rounds 7] [--out FILE] [--return-memory]

Forward and backward through the very same lines, of plain float64 arrays and of error-bounded ones
(bfloat16 contract): LoRA at 512 tokens and 2048 × 2048, causal attention of 8 heads at length 512,
DoRA at 512 tokens and 2048 × 2048. Processor time, medians of rounds in one run.
To reach: LoRA 2.5 (with variances 4), attention 3.5 (5.5), DoRA 4 (6).

The allocator keeps freed memory, for all three: the plain kernel's arrays fit into what it has
anyway, a graph's do not, and what a fresh page costs (3 µs in some virtual machines) is no part of
the question. `--return-memory` leaves the allocator as it is.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np
import timing

from lora_ref.verdict.bounds import bounds
from lora_ref.verdict.contract import BFLOAT16_CONTRACT
from lora_ref.verdict.grids import BFLOAT16
from lora_ref.verdict.oracle import Oracle
from lora_ref.verdict.oracles import attention, dora_linear, lora_linear

TARGETS = {"LoRA": (2.5, 4.0), "attention": (3.5, 5.5), "DoRA": (4.0, 6.0)}
T, WIDTH, RANK, HEADS = 512, 2048, 16, 8


def draw(rng: np.random.Generator, *shape: int, by: float = 1.0) -> np.ndarray:
    """Normal numbers that bfloat16 holds."""
    return BFLOAT16.round(rng.standard_normal(shape) * by)


def lora(rng: np.random.Generator) -> Oracle:
    x, W = draw(rng, T, WIDTH), draw(rng, WIDTH, WIDTH, by=WIDTH**-0.5)
    A, B = draw(rng, RANK, WIDTH, by=WIDTH**-0.5), draw(rng, WIDTH, RANK, by=0.3)
    return lora_linear(x, W, A, B, scale=5 / 3, dy=draw(rng, T, WIDTH))


def dora(rng: np.random.Generator) -> Oracle:
    x, W = draw(rng, T, WIDTH), draw(rng, WIDTH, WIDTH, by=WIDTH**-0.5)
    A, B = draw(rng, RANK, WIDTH, by=WIDTH**-0.5), draw(rng, WIDTH, RANK, by=0.3)
    m = BFLOAT16.round(np.linalg.norm(W, axis=1) * 1.1)
    return dora_linear(x, W, A, B, m, scale=5 / 3, dy=draw(rng, T, WIDTH))


def heads(rng: np.random.Generator) -> Oracle:
    q, k, v, do = (draw(rng, HEADS, T, 64) for _ in range(4))
    return attention(q, k, v, causal=True, do=do)


ORACLES: dict[str, Callable[[np.random.Generator], Oracle]] = {
    "LoRA": lora,
    "attention": heads,
    "DoRA": dora,
}


def measured(oracle: Oracle, count: int) -> dict[str, float]:
    """Seconds of the plain kernel, and the two ratios."""
    steps: dict[str, timing.Step] = {
        "plain": oracle.outputs,
        "bound": lambda: bounds(oracle, BFLOAT16_CONTRACT, variance=False),
        "bound and variance": lambda: bounds(oracle, BFLOAT16_CONTRACT),
    }
    found = timing.rounds(steps, count, clock=time.process_time)
    plain = sorted(one["plain"] for one in found)[len(found) // 2]
    ratios = {name: timing.median_ratio(found, name, "plain") for name in list(steps)[1:]}
    return {"plain seconds": plain, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--return-memory", action="store_true")
    args = parser.parse_args()
    keep = None if args.return_memory else timing.KEEP_MEMORY
    timing.restart_with_threads(args.threads, keep)
    results = {}
    print(f"{'kernel':10} {'plain':>9} {'bound':>7} {'to reach':>9} {'both':>7} {'to reach':>9}")
    for name, make in ORACLES.items():
        one = results[name] = measured(make(np.random.default_rng(0)), args.rounds)
        first, second = TARGETS[name]
        print(
            f"{name:10} {one['plain seconds'] * 1e3:6.1f} ms {one['bound']:7.2f} {first:9.1f} "
            f"{one['bound and variance']:7.2f} {second:9.1f}",
            flush=True,
        )
    if args.out:
        where = timing.environment(["numpy"]) | {"memory is kept": keep is not None}
        args.out.write_text(json.dumps({"environment": where, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
