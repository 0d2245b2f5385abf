"""EVA: A starts as the directions in which the layer's inputs vary most, B = 0.

Math:
    X the rows xᵢ less their mean = U diag(σ) Vᵀ        A = V_rᵀ        B = 0
    V is also that of the covariance C = XᵀX / (N − 1) = V diag(λ) Vᵀ, λ = σ²/(N − 1)
    explained ratio of component i: λᵢ / trace C
    whitened: A = diag(lengths)^−½ V_rᵀ. With lengths = λ the components of u = A x have variance 1;
    PEFT's lengths are σ, and the variances then σ/(N − 1)
Shapes:
    W (m, n)   x (..., n)   C (n, n)   A (r, n)   B (m, r)   lengths (r,)
Init:
    B = 0: W is not changed.
Errors:
    ShapeError if W, x or C does not fit; ValueError if the rank is no integer from 1 to what x or C
    has, or s, x or C not finite.
Limits:
    From C, components with λᵢ below the rounding of λ₁ are lost; from x, those with σᵢ below that
    of σ₁: twice as many digits. `incremental` keeps k components and no matrix.
    N rows less their mean have N − 1 components at most; PEFT allows N, the last of them noise.
    To take the inputs about zero and not about their mean, give `Moments.correlation`.
Source:
    Paischer et al. 2024, arXiv:2410.07170, section 3; PEFT 0.21.2, tuners/lora/eva.py,
    _get_eva_state_dict, on utils/incremental_pca.py, which subtracts the mean; whitening is
    EvaConfig.whiten. Ranks over layers: `eva_ranks`.
"""

from ..adapters.lora import LoRA
from ..arrays import Array, namespace, working
from ..shapes import shapes
from ..values import checked_number
from .decomposition import activations, checked_rank, svd, zeros


@shapes(W="m n", x="... n")
def eva(W: Array, x: Array, rank: int, scale: float) -> tuple[LoRA, Array]:
    """The adapter of the principal directions of the activations x; and W itself."""
    X = activations("eva", "x", x)
    checked_rank("eva", rank, X, min(X.shape[0] - 1, X.shape[1]), "x")
    X = X - namespace(X).mean(X, axis=0)
    return _around("eva", W, svd("eva", "x less its mean", X)[2][:rank, :], scale)


@shapes(W="m n", C="n n")
def eva_from_covariance(W: Array, C: Array, rank: int, scale: float) -> tuple[LoRA, Array]:
    """`eva` from the covariance of the activations; and W itself."""
    owner = "eva_from_covariance"
    checked_rank(owner, rank, C, name="C")
    return _around(owner, W, svd(owner, "C", working(C))[2][:rank, :], scale)


@shapes(W="m n", V="r n")
def around(W: Array, V: Array, scale: float) -> tuple[LoRA, Array]:
    """The adapter with the rows of V for A and B = 0; and W itself."""
    return _around("around", W, V, scale)


@shapes(V="r n", lengths="r")
def whitened(V: Array, lengths: Array) -> Array:
    """The rows of V over the roots of their lengths."""
    return V / namespace(V).sqrt(lengths)[:, None]


def _around(owner: str, W: Array, V: Array, scale: float) -> tuple[LoRA, Array]:
    scale = checked_number(owner, "scale", scale)
    return LoRA(V, zeros(W.shape[0], V.shape[0], V), scale), W
