"""Inputs of mixed batches: rows, a weight and adapters of unequal rank and scale."""

import numpy as np

from lora_ref.adapters import LoRA

CHOSEN = np.array([[2, -1, 0, 2], [0, 2, -1, 0]])  # adapter 1 has no row


def drawn(rng, m=7, n=11, ranks=(3, 2, 5)):
    """Adapters of unequal rank and scale."""
    return tuple(
        LoRA(rng.standard_normal((r, n)), rng.standard_normal((m, r)), (1 + i) / 3)
        for i, r in enumerate(ranks)
    )


def problem(rng, square=None):
    m, n, ranks = (square, square, (square,) * 3) if square else (7, 11, (3, 2, 5))
    x, W = rng.standard_normal((*CHOSEN.shape, n)), rng.standard_normal((m, n))
    return x, W, drawn(rng, m, n, ranks)
