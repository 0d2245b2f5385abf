"""Principal components of activations batch by batch, keeping k of them: EVA's algorithm in PEFT.

Math:
    seen so far:  N rows, mean μ₀, k components V (rows) with lengths σ, T = Σ ‖xᵢ − μ₀‖²
    a new batch X of M rows, mean μ₁:
        [diag(σ) V; X − μ₁; √(NM/(N + M)) (μ₀ − μ₁)] = U diag(σ') V'ᵀ, the first k are kept
        T' = T + Σ ‖xᵢ − μ₁‖² + NM/(N + M) ‖μ₀ − μ₁‖²
    explained ratio of component i: σᵢ²/T
Shapes:
    X (M, n)   V (k, n)   σ (k,)   μ₀, μ₁ (n,)
Errors:
    ShapeError if X does not fit; ValueError if k is no integer from 1 to min(M, n), or X not
    finite, for the first batch and for every other.
Limits:
    Exact as long as nothing is cut off: with k = n, or if all batches lie in one k-dimensional
    space. Else it depends on the order of the batches.
    The largest element of each row of V is positive.
Source:
    Ross, Lim, Lin, Yang 2008, "Incremental learning for robust visual tracking"; PEFT
    0.21.2, utils/incremental_pca.py, IncrementalPCA.partial_fit, and tuners/lora/eva.py, SVDHook,
    which takes the SVD with torch.svd_lowrank of 2k columns and 4 iterations, and stops when the
    cosines of successive components reach τ, 0.99 by default.
"""

from dataclasses import dataclass

from ..arrays import Array, namespace
from ..shapes import bind, parse, shapes
from .decomposition import activations, checked_rank, svd


@dataclass(frozen=True, eq=False)
class Components:
    """k principal components of `count` rows; `total` is the sum of all squared deviations."""

    V: Array
    lengths: Array
    mean: Array
    count: int
    total: float

    def ratios(self) -> Array:
        """The share of the variance that each component explains."""
        return self.lengths**2 / self.total

    def variances(self) -> Array:
        """The variance of the rows along each component."""
        return self.lengths**2 / (self.count - 1)


@shapes(X="... n")
def components(X: Array, k: int) -> Components:
    """The first k components of one batch."""
    X = activations("components", "X", X)
    checked_rank("components", k, X, name="X")
    mean = namespace(X).mean(X, axis=0)
    _, lengths, Vt = svd("components", "X less its mean", X - mean)
    return Components(Vt[:k, :], lengths[:k], mean, X.shape[0], _squares(X - mean))


def with_batch(seen: Components, X: Array) -> Components:
    """The components of what has been seen and of one more batch."""
    bind("with_batch", {"seen.V": seen.V, "X": X}, {"seen.V": parse("k n"), "X": parse("... n")})
    X = activations("with_batch", "X", X)
    xp, k = namespace(X), seen.V.shape[0]
    checked_rank("with_batch", k, X, name="X")
    count = seen.count + X.shape[0]
    mean = xp.mean(X, axis=0)
    apart = (seen.count * X.shape[0] / count) ** 0.5 * (seen.mean - mean)  # (n,)
    stack = xp.concat([seen.lengths[:, None] * seen.V, X - mean, apart[None, :]], axis=0)
    _, lengths, Vt = svd("with_batch", "X less its mean, with what was seen,", stack)
    total = seen.total + _squares(X - mean) + _squares(apart)
    mean = mean + (seen.mean - mean) * (seen.count / count)
    return Components(Vt[:k, :], lengths[:k], mean, count, total)


@shapes(V="k n", V_before="k n")
def cosines(V: Array, V_before: Array) -> Array:
    """The cosine between each component and the one before it in time, (k,)."""
    xp = namespace(V, V_before)
    length = xp.sqrt(xp.sum(V * V, axis=1) * xp.sum(V_before * V_before, axis=1))
    return xp.sum(V * V_before, axis=1) / length


def _squares(t: Array) -> float:
    return float(namespace(t).sum(t * t))
