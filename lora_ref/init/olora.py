"""OLoRA: the adapter starts with orthonormal columns, from the QR decomposition of the weight.

Math:
    W = Q R        B = Q_r, the first r columns        A = R_r, the first r rows
    W_res = W − s B A
    so Bᵀ B = 1 and B A = B Bᵀ W, the projection of W on the span of its own first r columns
Shapes:
    W, W_res (m, n)   Q (m, k)   R (k, n)   A (r, n)   B (m, r), k = min(m, n)
Errors:
    ShapeError if W is no matrix; ValueError if the rank is no integer from 1 to min(m, n), or s or
    W not finite.
Limits:
    The first r columns are those of the first r inputs, so the start depends on the order of the
    inputs. s is not inside the factors: at s = α/r ≠ 1 what is taken out of W is s times the
    projection. W_res is rounded to W's type.
    R's diagonal is not negative here; PEFT keeps LAPACK's signs, so columns of B and rows of A may
    be turned together.
Source:
    Büyükakyüz 2024, arXiv:2406.01775, section 3; PEFT 0.21.2, tuners/lora/layer.py,
    LoraLayer.olora_init, init_lora_weights="olora". For weights that are stored inputs first
    (fan_in_fan_out) PEFT decomposes what is stored, and B and A change places: see
    docs/divergences.md. Here such a weight goes through `inputs_first`.
"""

from ..adapters.lora import LoRA
from ..arrays import Array, working
from ..shapes import shapes
from ..values import checked_number
from .decomposition import checked_rank, qr, residual


@shapes(W="m n")
def olora(W: Array, rank: int, scale: float) -> tuple[LoRA, Array]:
    """The adapter of the first `rank` columns of Q and rows of R, and W without it."""
    checked_rank("olora", rank, W)
    scale = checked_number("olora", "scale", scale)
    Q, R = qr("olora", "W", working(W))
    lora = LoRA(R[:rank, :], Q[:, :rank], scale)
    return lora, residual(W, lora)
