"""Softmax and log-softmax over the last axis, and what a fully masked row means.

Math:
    pᵢ = exp(zᵢ − max z) / Σⱼ exp(zⱼ − max z)     dz = p ∘ (dp − ⟨dp, p⟩)
    yᵢ = zᵢ − log Σⱼ exp zⱼ                       dz = dy − p Σᵢ dyᵢ
    A boolean mask says which entries take part (True: may be attended to), an additive one is
    added to z first; both broadcast to z.
Shapes:
    z (..., c)   mask broadcasts to (..., c)   p, y (..., c)
Errors:
    TypeError if a mask holds integers or floats of another dtype than z; ShapeError if it does
    not broadcast to z.
Limits:
    A row in which nothing may be attended to (masked, or −inf throughout) is zero, and so is its
    gradient: it is the limit of no keys at all, and leaves the other rows of a batch finite.
    NaN in an entry that a boolean mask excludes does not matter. NaN or +inf elsewhere makes its
    row NaN, as IEEE arithmetic says. `log_softmax` takes no mask: −inf throughout gives NaN.
Source:
    PyTorch 2.13: scaled_dot_product_attention gives zeros for such a row, as here, and
    torch.softmax NaN. JAX 0.10: jax.nn.softmax(where=...) gives zeros, a row of −inf NaN, and
    jax.nn.dot_product_attention the mean of all values, because its mask is a large negative
    number; so do models that mask with the smallest finite number of their dtype. In ONNX's
    reference op_attention (at 04138e0) −inf throughout gives NaN.
"""

import math
from typing import Any

from ..arrays import Array, Backward, library_of, namespace, own_function, reuse
from ..shapes import ShapeError, shapes


@shapes(z="... c")
def softmax(z: Array, *, mask: Array | None = None) -> tuple[Array, Backward]:
    """The probabilities p of each row, and backward: dp -> dz."""
    if mask is not None:
        check_mask("softmax", mask, z, z.shape)
    p = softmax_weights(z, mask)

    def backward(dp):
        return p * (dp - namespace(p).sum(dp * p, axis=-1, keepdims=True))

    return p, backward


@shapes(z="... c")
def log_softmax(z: Array) -> tuple[Array, Backward]:
    """The logarithms y of the probabilities, and backward: dy -> dz."""
    xp = namespace(z)
    y = _log_weights(z)

    def backward(dy):
        return dy - xp.exp(y) * xp.sum(dy, axis=-1, keepdims=True)

    return y, backward


def softmax_weights(z: Array, mask: Array | None = None) -> Array:
    """p alone: the named function through which a reading of a kernel sees the whole softmax."""
    xp = namespace(z)
    if own := own_function(xp, "softmax"):
        return own(z, mask)
    if mask is not None and not is_boolean(mask):
        z, mask = z + mask, None
    if z.shape[-1] == 0:
        return z
    if mask is not None:
        z = xp.where(mask, z, -math.inf)
    top = xp.max(z, axis=-1, keepdims=True)
    e = reuse(xp.exp, z - xp.where(top == -math.inf, 0.0, top))  # exp(−∞ − 0), never of −∞ + ∞
    total = xp.sum(e, axis=-1, keepdims=True)
    return reuse(xp.divide, e, xp.where(total == 0, 1.0, total))


def _log_weights(z: Array) -> Array:
    xp = namespace(z)
    if own := own_function(xp, "log_softmax"):
        return own(z)
    shifted = z - xp.max(z, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def check_mask(owner: str, mask: Any, like: Array, shape: tuple[int, ...]) -> None:
    """A mask is boolean or of `like`'s dtype, and broadcasts to scores of `shape`."""
    if not hasattr(namespace(like), "is_reading"):
        if library_of(mask) != library_of(like):
            raise TypeError(
                f"{owner}: mask must be of one library with the scores, which is "
                f"{library_of(like)}, got {library_of(mask)}"
            )
        if not is_boolean(mask) and mask.dtype != like.dtype:
            raise TypeError(
                f"{owner}: mask must be boolean (True: may be attended to) or additive in the "
                f"scores' dtype, {like.dtype}, got {mask.dtype}"
            )
    sizes = zip(reversed(mask.shape), reversed(shape), strict=False)
    if mask.ndim > len(shape) or any(m not in (1, size) for m, size in sizes):
        raise ShapeError(
            f"{owner}: mask must broadcast to the scores {tuple(shape)}, got {tuple(mask.shape)}"
        )


def is_boolean(mask: Array) -> bool:
    """Whether a mask says yes or no, rather than how much to add."""
    return bool(namespace(mask).isdtype(mask.dtype, "bool"))
