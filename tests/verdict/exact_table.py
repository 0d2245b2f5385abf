"""Every mutant with the run that judges it: (family, name, run), where run(grid, adapt) gives
failures. RIGHT has the right implementation of each run."""

from collections.abc import Callable
from typing import Any

import numpy as np
from exact_attention_mutants import (
    CACHED,
    CACHED_MUTANTS,
    DIM,
    GRADIENT_MUTANTS,
    HEAD_MUTANTS,
    HEADS,
    KV_HEADS,
    MASK_MUTANTS,
    SCALE_MUTANTS,
    SQUARE,
    WINDOW_MUTANTS,
    causal,
    of,
    window,
)
from exact_gradient_mutants import SIZE_MUTANTS
from exact_linear_mutants import LINEAR_MUTANTS, MERGED_MUTANTS, merged, right
from exact_other_mutants import (
    DORA_MUTANTS,
    EMBEDDING_MUTANTS,
    FUSED_MUTANTS,
    MIXED_MUTANTS,
    dora,
    fused,
    mixed,
    table,
)
from exact_paged_mutants import PAGED_MUTANTS, paged

from lora_ref.adapters.fused_qkv import interleaved_rows
from lora_ref.verdict import exact

Run = Callable[..., tuple[exact.Failure, ...]]
LAYOUT = interleaved_rows(2, 2, 3)
sizes = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM}


def attention(lengths: tuple[int, int], mask: Any) -> Run:
    return lambda mine, grid, **more: exact.attention_tests(
        mine, grid, mask(*lengths), **sizes, **more
    )


def pages(mine: Any, grid: Any, **more: Any) -> tuple[exact.Failure, ...]:
    return exact.paged_attention_tests(
        mine,
        grid,
        heads=4,
        kv_heads=2,
        head_dim=32,
        block=16,
        lengths=(37, 48, 5),
        queries=2,
        **more,
    )


def projection(mine: Any, grid: Any, **more: Any) -> tuple[exact.Failure, ...]:
    return exact.fused_tests(mine, grid, LAYOUT, adapted=(0, 2), **more)


RUNS: dict[str, tuple[Run, Any, dict[str, dict[str, Any]]]] = {
    "linear": (exact.lora_linear_tests, right, LINEAR_MUTANTS),
    "merged": (exact.merged_weight_tests, merged, MERGED_MUTANTS),
    "mixed": (exact.mixed_batch_tests, mixed, MIXED_MUTANTS),
    "dora": (exact.dora_tests, dora, DORA_MUTANTS),
    "embedding": (exact.embedding_tests, table, EMBEDDING_MUTANTS),
    "fused": (projection, fused, FUSED_MUTANTS),
    "attention": (
        attention(SQUARE, causal),
        of(causal),
        {
            "mask": MASK_MUTANTS,
            "heads": HEAD_MUTANTS,
            "scale": SCALE_MUTANTS,
            "gradient": GRADIENT_MUTANTS | SIZE_MUTANTS,
        },
    ),
    "cached": (attention(CACHED, causal), of(causal), {"mask": CACHED_MUTANTS}),
    "window": (attention(SQUARE, window(7)), of(window(7)), {"mask": WINDOW_MUTANTS}),
    "paged": (pages, paged(), {"page": PAGED_MUTANTS}),
}
RIGHT = [(kernel, run, mine) for kernel, (run, mine, _) in RUNS.items()]
MUTANTS = [
    (kernel, family, name, run, mine)
    for kernel, (run, _, families) in RUNS.items()
    for family, mutants in families.items()
    for name, mine in mutants.items()
]


def to_float64(t: np.ndarray) -> np.ndarray:
    return t
