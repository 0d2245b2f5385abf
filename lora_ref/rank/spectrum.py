"""The singular values of an update, from its factors: the product is never formed.

Math:
    B = Q_B R_B        Aᵀ = Q_A R_A        s R_B R_Aᵀ = U' S V'ᵀ
    ΔW = s B A = (Q_B U') S (Q_A V')ᵀ

    distance: ‖s₁ B₁ A₁ − s₂ B₂ A₂‖, of the one pair [s₁ B₁, −s₂ B₂] and [A₁; A₂]
Shapes:
    A (r, n)   B (m, r)   U (m, k)   S (k,)   Vt (k, n), k = min(m, n, r)
Units:
    O((m + n) r²) operations and no array larger than the factors; the dense SVD needs O(m n²).
Limits:
    A singular value below u ‖B‖ ‖A‖ is noise, u the unit roundoff of the dtype. Factors of 16
    bits must be converted first: no library decomposes them.
    The signs of a pair of singular vectors are free; only S is the same in every library.
Source:
    Chan 1982, An improved algorithm for computing the singular value decomposition, ACM TOMS 8:
    QR first, then the SVD of the small factor; here of both factors of a product.
"""

from dataclasses import replace

from ..adapters.lora import LoRA
from ..arrays import Array, namespace


def factored_svd(adapter: LoRA) -> tuple[Array, Array, Array]:
    """U, S and Vt of ΔW, S ≥ 0 and descending."""
    xp = namespace(adapter.A, adapter.B)
    left, R = xp.linalg.qr(adapter.B)
    right, T = xp.linalg.qr(adapter.A.T)
    U, S, Vt = xp.linalg.svd(R @ T.T, full_matrices=False)
    sign = -1.0 if adapter.scale < 0 else 1.0
    return sign * (left @ U), abs(adapter.scale) * S, Vt @ right.T


def spectrum(adapter: LoRA) -> Array:
    """The singular values of ΔW, descending; those beyond min(m, n, r) are zero and left out."""
    xp = namespace(adapter.A, adapter.B)
    R, T = xp.linalg.qr(adapter.B)[1], xp.linalg.qr(adapter.A.T)[1]
    return abs(adapter.scale) * xp.linalg.svdvals(R @ T.T)


def distance(first: LoRA, second: LoRA) -> float:
    """‖ΔW₁ − ΔW₂‖ in the Frobenius norm."""
    xp = namespace(first.A, first.B, second.A, second.B)
    A = xp.concat([first.A, second.A], axis=0)
    B = xp.concat([first.scale * first.B, -second.scale * second.B], axis=1)
    S = spectrum(replace(first, A=A, B=B, scale=1.0))
    return float(xp.linalg.vector_norm(S))
