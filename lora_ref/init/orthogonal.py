"""Orthogonal: both factors random and none zero, yet B A = 0.

Math:
    Q (r, r) orthogonal, drawn uniformly; Q₀ its rows 0, 2, 4, …, Q₁ its rows 1, 3, 5, …
    A = (G_A Q₀)ᵀ / 10        B = G_B Q₁ / 10        G_A (n, r/2), G_B (m, r/2) Gaussian
    so B A = G_B Q₁ Q₀ᵀ G_Aᵀ / 100 = 0
Shapes:
    W (m, n)   A (r, n)   B (m, r)   Q₀, Q₁ (r/2, r)
Init:
    W is not changed. In exact arithmetic W' = W; in floating point B A is zero up to rounding,
    some 1e-8 in float32. A and B both have rank r/2 only.
Errors:
    ShapeError if W is no matrix; ValueError if the rank is no even integer from 2 to min(m, n), or
    s not finite.
Limits:
    PEFT takes r above min(m, n) too.
Source:
    datta0.github.io/posts/rethink-lora-init, which PEFT names; PEFT 0.21.2, tuners/lora/layer.py,
    LoraLayer.orthogonal_init, init_lora_weights="orthogonal", which has 1/10 built in. PEFT takes
    LAPACK's Q as it comes, which is not quite uniform; here R's diagonal is positive, which is.
    The draws are in PEFT's order: for Q, for A, for B.
"""

import numpy as np

from ..adapters.lora import LoRA
from ..arrays import Array, as_array, working
from ..shapes import shapes
from ..values import checked_number
from .decomposition import checked_rank, qr

SPREAD = 0.1  # what PEFT multiplies the Gaussian factors by


@shapes(W="m n")
def orthogonal(W: Array, rank: int, scale: float, rng: np.random.Generator) -> tuple[LoRA, Array]:
    """The adapter of two random factors with B A = 0; and W itself."""
    if checked_rank("orthogonal", rank, W) % 2:
        raise ValueError(f"orthogonal: rank must be even, each factor has a half, got {rank}")
    scale = checked_number("orthogonal", "scale", scale)
    m, n = W.shape
    Q = qr("orthogonal", "what rng drew", rng.standard_normal((rank, rank)))[0]
    A = SPREAD * (rng.standard_normal((n, rank // 2)) @ Q[0::2, :]).T
    B = SPREAD * (rng.standard_normal((rank // 2, m)).T @ Q[1::2, :])
    like = working(W)
    return LoRA(as_array(A, like), as_array(B, like), scale), W
