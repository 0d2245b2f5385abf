"""Decompositions that the initialisations share, what they accept, and the residual weight.

Math:
    SVD         W = U diag(S) Vᵀ, S descending; of the first r: ‖W − U diag(S) Vᵀ‖ is the least
                that rank r allows
    randomised  Q an orthonormal basis of (W Wᵀ)ᵏ W Ω, Ω Gaussian (n, q); the SVD of Qᵀ W, its U
                times Q
    QR          W = Q R, R upper triangular with a diagonal that is not negative
    residual    W_res = W − s B A, rounded to W's type
Shapes:
    W (m, n)   U (m, r)   S (r,)   Vt (r, n)   Q (m, k)   R (k, n), k = min(m, n)
Errors:
    ValueError, in the caller's name, for a matrix that is not finite, or so large that its singular
    values are not: with an infinity in it some of LAPACK's SVDs never return.
Limits:
    A pair of singular vectors may change sign together, and where singular values are equal it may
    turn with its neighbours. The sign is fixed here: of each row of Vᵀ the largest element is
    positive. So all libraries give the same factors; LAPACK's own signs differ.
    Weights of 16 bits and less are decomposed in float32 and the factors stay in it, as in PEFT.
Source:
    Halko, Martinsson, Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.1; PyTorch 2.13,
    torch.svd_lowrank, has no oversampling but what its caller adds to q.
"""

from typing import Any

import numpy as np

from ..adapters.lora import LoRA
from ..arrays import Array, as_array, namespace, on_device_of, rows, working
from ..values import checked_finite, checked_number, is_integer


def checked_rank(owner: str, rank: int, W: Array, most: int | None = None, name: str = "W") -> int:
    """`rank`, if `name` (m, n) has that many components, or `most` where that is given."""
    limit = min(W.shape) if most is None else most
    if not (is_integer(rank) and 1 <= rank <= limit):
        raise ValueError(
            f"{owner}: rank must be an integer from 1 to {limit}, for {name} {tuple(W.shape)}, "
            f"got {rank!r}"
        )
    return int(rank)


def checked_scale(owner: str, scale: float) -> float:
    """`scale`, if one can divide by it and take the root."""
    number = checked_number(owner, "scale", scale)
    if number <= 0:
        raise ValueError(f"{owner}: scale must be positive, the factors are √(S/s), got {scale}")
    return number


def activations(owner: str, name: str, x: Array) -> Array:
    """The rows of x (..., n) in a type that can be decomposed, if there are any and all finite."""
    if 0 in x.shape:
        raise ValueError(f"{owner}: {name} must not be empty, got {tuple(x.shape)}")
    return checked_finite(owner, name, rows(working(x)))


def residual(W: Array, lora: LoRA) -> Array:
    """W − s B A in W's type, so that `lora` on it is W again."""
    return namespace(W).astype(working(W) - lora.delta(), W.dtype)


def zeros(rows: int, columns: int, like: Array) -> Array:
    """Zeros (rows, columns) in the library, type and device of `like`."""
    return namespace(like).zeros((rows, columns), dtype=like.dtype, **on_device_of(like))


def svd(owner: str, name: str, W: Array) -> tuple[Array, Array, Array]:
    """U (m, k), S (k,) and Vt (k, n) of W, k = min(m, n), with the sign fixed."""
    W = checked_finite(owner, name, W)
    U, S, Vt = namespace(W).linalg.svd(W, full_matrices=False)
    return _upright(U, checked_finite(owner, f"the singular values of {name}", S), Vt)


def randomized_svd(
    owner: str,
    W: Array,
    rank: int,
    rng: np.random.Generator,
    iterations: int,
    oversampling: int = 0,
) -> tuple[Array, Array, Array]:
    """The first `rank` components of W, nearly; of its short side Ω takes one row each."""
    if W.shape[0] < W.shape[1]:
        U, S, Vt = randomized_svd(owner, W.T, rank, rng, iterations, oversampling)
        return _upright(Vt.T, S, U.T)
    xp, n = namespace(checked_finite(owner, "W", W)), W.shape[1]
    Omega = rng.standard_normal((n, min(rank + oversampling, n)))
    Q = xp.linalg.qr(W @ as_array(np.asarray(Omega), W))[0]
    for _ in range(iterations):
        Q = xp.linalg.qr(W.T @ Q)[0]
        Q = xp.linalg.qr(W @ Q)[0]
    U, S, Vt = svd(owner, "the sketch Qᵀ W", Q.T @ W)
    return Q @ U[:, :rank], S[:rank], Vt[:rank, :]


def qr(owner: str, name: str, W: Array) -> tuple[Array, Array]:
    """Q (m, k) and R (k, n) of W, k = min(m, n), with no negative number on R's diagonal."""
    xp = namespace(checked_finite(owner, name, W))
    Q, R = xp.linalg.qr(W)
    turned = _signs(xp, xp.linalg.diagonal(R))
    return Q * turned, turned[:, None] * R


def _upright(U: Array, S: Array, Vt: Array) -> tuple[Array, Array, Array]:
    """The same components, of each row of Vt the largest element positive."""
    xp = namespace(Vt)
    size = xp.abs(Vt)
    largest = xp.where(size == xp.max(size, axis=1, keepdims=True), Vt, xp.zeros_like(Vt))
    turned = _signs(xp, xp.sum(largest, axis=1))
    return U * turned, S, turned[:, None] * Vt


def _signs(xp: Any, t: Array) -> Array:
    """−1 where `t` is negative, else 1."""
    return xp.where(t < 0, -xp.ones_like(t), xp.ones_like(t))
