"""PiSSA: the adapter starts as the principal components of the weight.

Math:
    W = U diag(S) Vᵀ
    B = U_r diag(√(S_r/s))        A = diag(√(S_r/s)) V_rᵀ        W_res = W − s B A
    so s B A is the best approximation of W with rank r, and A Aᵀ = Bᵀ B = diag(S_r/s)
Shapes:
    W, W_res (m, n)   A (r, n)   B (m, r)   S_r (r,): the r largest
Errors:
    ShapeError if W is no matrix; ValueError if the rank is no integer from 1 to min(m, n), s not
    positive and finite, or W not finite.
Limits:
    W_res is rounded to W's type: in 16 bits W_res + s B A is W up to half an ulp of W_res.
    `pissa_randomized` is near only where S falls quickly beyond the r-th; W_res + s B A = W holds
    all the same, since W_res is what is left. A file holds A and B and not W_res: to use it one
    needs W_res, or the same draws again, or `plain_lora`.
    PEFT's "pissa" takes r above min(m, n): the factors have rank min(m, n) and the scale α/r.
Source:
    Meng, Wang, Zhang 2024, arXiv:2404.02948, section 3, with s = 1; PEFT
    0.21.2, tuners/lora/layer.py, LoraLayer.pissa_init, divides S by s; init_lora_weights "pissa",
    and "pissa_niter_k" for k iterations without oversampling.
"""

import numpy as np

from ..adapters.lora import LoRA
from ..arrays import Array, namespace, working
from ..shapes import shapes
from .decomposition import checked_rank, checked_scale, randomized_svd, residual, svd


@shapes(W="m n")
def pissa(W: Array, rank: int, scale: float) -> tuple[LoRA, Array]:
    """The adapter of W's first `rank` components, and W without them."""
    checked_rank("pissa", rank, W)
    scale = checked_scale("pissa", scale)
    U, S, Vt = svd("pissa", "W", working(W))
    lora = split_evenly(U[:, :rank], S[:rank], Vt[:rank, :], scale)
    return lora, residual(W, lora)


@shapes(W="m n")
def pissa_randomized(
    W: Array,
    rank: int,
    scale: float,
    rng: np.random.Generator,
    *,
    iterations: int = 4,
    oversampling: int = 0,
) -> tuple[LoRA, Array]:
    """`pissa` with a randomised SVD, which costs m n r in place of m n min(m, n)."""
    owner = "pissa_randomized"
    checked_rank(owner, rank, W)
    scale = checked_scale(owner, scale)
    components = randomized_svd(owner, working(W), rank, rng, iterations, oversampling)
    lora = split_evenly(*components, scale)
    return lora, residual(W, lora)


def split_evenly(U: Array, S: Array, Vt: Array, scale: float) -> LoRA:
    """The LoRA with s B A = U diag(S) Vt whose two factors have half of S each."""
    root = namespace(S).sqrt(S / scale)
    return LoRA(root[:, None] * Vt, U * root, scale)
