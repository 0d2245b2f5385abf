"""MiCA: B is frozen at the minor left singular vectors of the weight, only A learns.

Math:
    W = U diag(S) Vᵀ        B = the last r columns of U, those of the smallest S        A = 0
    so Bᵀ B = 1, W' = W, and what is learnt stays in the span of B
Shapes:
    W (m, n)   U (m, k)   A (r, n)   B (m, r), k = min(m, n)
Init:
    A = 0, so W is not changed. dB is zero in the first step and not afterwards: that B stays is
    the training's business. Drop dB, or set it to zero.
Errors:
    ShapeError if W is no matrix; ValueError if the rank is no integer from 1 to min(m, n), or s or
    W not finite.
Limits:
    With m > n the m − n left directions that W does not reach at all are no columns of the reduced
    U and not taken, in PEFT neither.
Source:
    Rüdiger, Raschka 2026, arXiv:2604.01694; PEFT 0.21.2, tuners/lora/layer.py,
    LoraLayer.mica_init, and variants.py, MiCALinearVariant, which freezes B;
    init_lora_weights="mica". For an embedding (Embedding.mica_init) W is the transposed table
    (dim, v): `mica(E.T, …)` has the A and B of its `EmbeddingLoRA`.
"""

from ..adapters.lora import LoRA
from ..arrays import Array, working
from ..shapes import shapes
from ..values import checked_number
from .decomposition import checked_rank, svd, zeros


@shapes(W="m n")
def mica(W: Array, rank: int, scale: float) -> tuple[LoRA, Array]:
    """The adapter with W's last `rank` left singular vectors for B and A = 0; and W itself."""
    checked_rank("mica", rank, W)
    scale = checked_number("mica", "scale", scale)
    U, S, _ = svd("mica", "W", working(W))
    B = U[:, S.shape[0] - rank :]
    return LoRA(zeros(rank, W.shape[1], B), B, scale), W
