"""The singular values of an update, from its factors: the product is never formed.

Math:
    B = Q_B R_B        Aᵀ = Q_A R_A        s R_B R_Aᵀ = U' S V'ᵀ
    ΔW = s B A = (Q_B U') S (Q_A V')ᵀ

    distance: ‖s₁ B₁ A₁ − s₂ B₂ A₂‖, of the one pair [s₁ B₁, −s₂ B₂] and [A₁; A₂]

    Before, column j of B and row j of A are made equally large, √(bⱼ aⱼ) with b and a their
    largest elements, and divided by the largest of these. S is multiplied by it, and |s|, at last.
Shapes:
    A (r, n)   B (m, r)   U (m, k)   S (k,)   Vt (k, n), k = min(m, n, r)
Units:
    O((m + n) r²) operations and no array larger than the factors; the dense SVD needs O(m n²).
Errors:
    TypeError if A or B is neither float32 nor float64; ValueError if A, B or s has NaN or infinity,
    and if ΔW ≠ 0 has a σ₁ beyond the largest or below the smallest normal number of its type;
    ShapeError if two updates are not of one shape.
Limits:
    A singular value below u max bⱼ aⱼ is noise, u the unit roundoff of the dtype. Factors of 16
    bits must be converted first: no library decomposes them.
    The signs of a pair of singular vectors are free; only S is the same in every library.
Source:
    Chan 1982, An improved algorithm for computing the singular value decomposition, ACM TOMS 8:
    QR first, then the SVD of the small factor; here of both factors of a product.
"""

from math import copysign, inf, sqrt

from ..adapters.lora import LoRA
from ..arrays import Array, namespace
from ..shapes import ShapeError
from ..values import checked_finite, checked_number


def factored_svd(adapter: LoRA) -> tuple[Array, Array, Array]:
    """U, S and Vt of ΔW, S ≥ 0 and descending."""
    return svd_of("factored_svd", adapter)


def svd_of(owner: str, adapter: LoRA) -> tuple[Array, Array, Array]:
    """The same, refused in the name of `owner`."""
    A, B, size = _balanced(owner, "adapter", adapter)
    xp = namespace(A, B)
    left, R = xp.linalg.qr(B)
    right, T = xp.linalg.qr(A.T)
    U, S, Vt = xp.linalg.svd(R @ T.T, full_matrices=False)
    return copysign(1.0, adapter.scale) * (left @ U), sized(owner, S, size), Vt @ right.T


def spectrum(adapter: LoRA) -> Array:
    """The singular values of ΔW, descending; those beyond min(m, n, r) are zero and left out."""
    A, B, size = _balanced("spectrum", "adapter", adapter)
    return sized("spectrum", _svdvals(A, B), size)


def distance(first: LoRA, second: LoRA) -> float:
    """‖ΔW₁ − ΔW₂‖ in the Frobenius norm."""
    A1, B1, size1 = _balanced("distance", "first", first)
    A2, B2, size2 = _balanced("distance", "second", second)
    one, two = ((B.shape[0], A.shape[1]) for A, B in ((A1, B1), (A2, B2)))
    if one != two:
        raise ShapeError(f"distance: second must be of {one}, the (m, n) of first, got {two}")
    xp, size = namespace(A1, B1, A2, B2), max(size1, size2) or 1.0
    part1, part2 = size1 / size, size2 / size
    sign = -copysign(1.0, first.scale) * copysign(1.0, second.scale)
    A = xp.concat([part1 * A1, part2 * A2], axis=0)
    B = xp.concat([part1 * B1, sign * part2 * B2], axis=1)
    found = float(xp.linalg.vector_norm(_svdvals(A, B))) * size * size
    return _below_infinity("distance", "‖ΔW₁ − ΔW₂‖", found)


def checked_working(owner: str, name: str, t: Array) -> Array:
    """`t`, if it is of a type that can be decomposed, and finite."""
    xp = namespace(t)
    if t.dtype not in (xp.float32, xp.float64):
        need = "float32 or float64 to be decomposed: convert it first"
        raise TypeError(f"{owner}: {name} must be {need}, got dtype {t.dtype}")
    return checked_finite(owner, name, t)


def checked_range(owner: str, name: str, value: float, like: Array) -> float:
    """`value`, if the type of `like` can hold it, to full precision."""
    limits = namespace(like).finfo(like.dtype)
    low, high = float(limits.smallest_normal), float(limits.max)
    if not low <= value <= high:
        need = f"from {low:.3g} to {high:.3g}, the range of {like.dtype}"
        raise ValueError(f"{owner}: {name} must be {need}, got {value:.3g}")
    return value


def sized(owner: str, S: Array, size: float) -> Array:
    """S size² of the descending S, if its type can hold that."""
    if size > 0 and S.shape[0] > 0 and float(S[0]) > 0:
        checked_range(owner, "σ₁", float(S[0]) * size * size, S)
    return S * size * size


def _balanced(owner: str, name: str, adapter: LoRA) -> tuple[Array, Array, float]:
    """Factors that are as large as each other, with no element above 1, and √|s| times the rest."""
    A, B = adapter.A, adapter.B
    for field, t in (("A", A), ("B", B)):
        checked_working(owner, f"{name}.{field}", t)
    root = sqrt(abs(checked_number(owner, f"{name}.scale", adapter.scale)))
    if 0 in (*A.shape, *B.shape):
        return A, B, 0.0
    xp = namespace(A, B)
    a, b = xp.max(xp.abs(A), axis=1), xp.max(xp.abs(B), axis=0)
    middle = xp.sqrt(a) * xp.sqrt(b)
    top = float(xp.max(middle))
    part, one = middle / (top or 1.0), xp.ones_like(middle)
    rows, columns = A / xp.where(a > 0, a, one)[:, None], B / xp.where(b > 0, b, one)
    size = _below_infinity(owner, f"the size of {name}", root * top)
    return rows * part[:, None], columns * part, size


def _below_infinity(owner: str, name: str, value: float) -> float:
    if value == inf:
        raise ValueError(f"{owner}: {name} must be in the range of float64, got infinity")
    return value


def _svdvals(A: Array, B: Array) -> Array:
    xp = namespace(A, B)
    R, T = xp.linalg.qr(B)[1], xp.linalg.qr(A.T)[1]
    return xp.linalg.svdvals(R @ T.T)
