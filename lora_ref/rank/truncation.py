"""The nearest update of a lower rank, with its error: of a LoRA, or of two dense weights.

Math:
    ΔW = U S Vᵀ        ΔW_r = Σ_{i≤r} σᵢ uᵢ vᵢᵀ
    ‖ΔW − ΔW_r‖² = Σ_{i>r} σᵢ²        ‖ΔW − ΔW_r‖₂ = σ_{r+1}
    and no matrix of rank r is nearer, in either norm.

    s B A = ΔW_r with B = U_r √(S_r/|s|), A = √(S_r/|s|) V_rᵀ, the sign of s on B
Shapes:
    ΔW (m, n)   A (r, n)   B (m, r)   S (k,), of all of ΔW
Init:
    Both factors get √σ, as PiSSA has it, so that their gradients are of one size.
Errors:
    ValueError for a rank that is no integer of at least 1, a scale that is zero or not finite,
    factors or weights with NaN or infinity, singular values and factors that their type cannot
    hold; ShapeError if the weights do not fit; TypeError if they are neither float32 nor float64.
Limits:
    Where the rank is more than ΔW has directions, rows and columns of zeros make up the number;
    their gradient is zero in both factors, so they never move: do not train such an adapter.
    Where σ_r = σ_{r+1} the nearest update is not the only one.
    `extracted` forms the difference and decomposes it: O(m n min(m, n)) operations.
Source:
    Eckart & Young 1936; Mirsky 1960 for the spectral norm. PEFT 0.21.2 has no re-ranking.
"""

from dataclasses import dataclass
from math import copysign

from ..adapters.lora import LoRA
from ..arrays import Array, namespace, on_device_of
from ..shapes import shapes
from ..values import checked_count, checked_finite, checked_number
from .measures import retained, stable_rank
from .spectrum import checked_range, checked_working, sized, svd_of


@dataclass(frozen=True, eq=False)
class Truncation:
    """The LoRA that is left, and the spectrum of what it was made of."""

    adapter: LoRA
    spectrum: Array

    @property
    def rank(self) -> int:
        """r of the adapter."""
        return int(self.adapter.A.shape[0])

    @property
    def error(self) -> float:
        """‖ΔW − ΔW_r‖."""
        return self.spectral_error * stable_rank(self.spectrum[self.rank :]) ** 0.5

    @property
    def spectral_error(self) -> float:
        """‖ΔW − ΔW_r‖₂, which is the largest singular value that is dropped."""
        return float(self.spectrum[self.rank]) if self.rank < self.spectrum.shape[0] else 0.0

    @property
    def retained(self) -> float:
        """‖ΔW_r‖² / ‖ΔW‖²."""
        return retained(self.spectrum, self.rank)


def truncated(adapter: LoRA, rank: int, scale: float | None = None) -> Truncation:
    """The nearest LoRA of this rank, at the adapter's own scale unless another is given."""
    given = adapter.scale if scale is None else scale
    return _cut("truncated", svd_of("truncated", adapter), rank, given)


@shapes(W_tuned="m n", W="m n")
def extracted(W_tuned: Array, W: Array, rank: int, scale: float = 1.0) -> Truncation:
    """The LoRA of this rank that is nearest to W_tuned − W."""
    for name, t in (("W_tuned", W_tuned), ("W", W)):
        checked_working("extracted", name, t)
    D = checked_finite("extracted", "W_tuned − W", W_tuned - W)
    U, S, Vt = namespace(D).linalg.svd(D, full_matrices=False)
    return _cut("extracted", (U, sized("extracted", S, 1.0), Vt), rank, scale)


def _cut(owner: str, parts: tuple[Array, Array, Array], rank: int, scale: float) -> Truncation:
    checked_count(owner, "rank", rank, 1)
    scale = checked_number(owner, "scale", scale)
    if scale == 0:
        raise ValueError(f"{owner}: scale must not be zero, since the factors are √(σ/|s|)")
    U, S, Vt = parts
    xp = namespace(S)
    root = xp.sqrt(S[:rank]) / checked_range(owner, "|scale|", abs(scale), S) ** 0.5
    B, A = copysign(1.0, scale) * (U[:, :rank] * root), root[:, None] * Vt[:rank, :]
    if rank > S.shape[0]:
        B = xp.concat([B, _zeros(B.shape[0], rank - S.shape[0], S)], axis=1)
        A = xp.concat([A, _zeros(rank - S.shape[0], A.shape[1], S)], axis=0)
    return Truncation(LoRA(A, B, scale), S)


def _zeros(rows: int, columns: int, like: Array) -> Array:
    return namespace(like).zeros((rows, columns), dtype=like.dtype, **on_device_of(like))
