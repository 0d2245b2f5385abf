"""Rotary position embedding, in its two pairings: by halves, and interleaved.

Math:
    θⱼ = base^(−2j / w), j = 0 … w/2 − 1        cos, sin of the angles φⱼ = p θⱼ at position p
    Each pair (a, b) of features turns by its angle:
        a' = a cos φ − b sin φ        b' = b cos φ + a sin φ
    by halves:     pair j is (xⱼ, xⱼ₊w/₂)
    interleaved:   pair j is (x₂ⱼ, x₂ⱼ₊₁)
    Features from w on are not turned: with w < d the rotation is partial.

    dx = dy turned by −φ
Shapes:
    positions (...), integers of any sign   cos, sin (..., w/2)   x, y (..., d), w ≤ d
    The leading axes of cos and sin broadcast to those of x. For queries (batch, H, T, d) take
    positions (batch, 1, T) or (T,); for (batch, T, H, d), positions (batch, T, 1).
Units:
    Angles in radians. base is 10000 in the paper; Llama 3 has 500000.
Errors:
    ShapeError if cos and sin differ in shape, are wider than half of d, or do not broadcast to x;
    ValueError if the width is odd or not positive.
Limits:
    `rotary_angles` works in float64 and rounds once, at the end. Frameworks compute angles in
    float32, which at position 131072 is off by up to 0.009 (width 128, base 500000). A kernel that
    does so is compared by giving its own cos and sin: `rotary_half` and `rotary_interleaved` take
    them as they are, in place of angles. JAX has no float64 unless it is switched on.
    Rounded cos and sin are no rotation to the last bit: then backward, which is the transpose, is
    the inverse up to that rounding. With cos and sin scaled by f, as YaRN does, it is f² of it.
Source:
    Su et al. 2021, arXiv:2104.09864, section 3.2.2, equation (15), and section 3.4.2, which is
    interleaved. transformers 5.23: models/llama/modeling_llama.py,
    apply_rotary_pos_emb, by halves, also GPT-NeoX, Mistral, Qwen; models/gptj/modeling_gptj.py,
    apply_rotary_pos_emb, interleaved, with rotary_dim = w. Llama's own weights are interleaved;
    the conversion to transformers permutes the rows of Wq and Wk.
"""

from typing import Any

from ..arrays import Array, Backward, namespace, on_device_of
from ..shapes import ShapeError, shapes


@shapes(positions="int(p) ...")
def rotary_angles(
    positions: Array, width: int, *, base: float = 10000.0, dtype: Any = None
) -> tuple[Array, Array]:
    """cos and sin of p θⱼ for the features 0 … width − 1, in float64 or cast to `dtype` from it.

    >>> import numpy as np
    >>> cos, sin = rotary_angles(np.array([0, 3]), 4, base=100.0)
    >>> cos.round(4)
    array([[ 1.    ,  1.    ],
           [-0.99  ,  0.9553]])
    """
    if width < 2 or width % 2:
        raise ValueError(f"rotary_angles: width must be even and at least 2, got {width}")
    xp = namespace(positions)
    frequencies = [base ** (-2 * j / width) for j in range(width // 2)]
    theta = xp.asarray(frequencies, dtype=xp.float64, **on_device_of(positions))
    phi = xp.astype(positions, xp.float64)[..., None] * theta
    found = xp.cos(phi), xp.sin(phi)
    return found if dtype is None else (xp.astype(found[0], dtype), xp.astype(found[1], dtype))


@shapes(x="... d", cos="*lead h", sin="*lead h")
def rotary_half(x: Array, *, cos: Array, sin: Array) -> tuple[Array, Backward]:
    """Feature j turned with feature j + w/2, as in Llama and GPT-NeoX; backward: dy -> dx."""
    _check_angles("rotary_half", x, cos)
    return _by_halves(x, cos, sin), lambda dy: _by_halves(dy, cos, -sin)


@shapes(x="... d", cos="*lead h", sin="*lead h")
def rotary_interleaved(x: Array, *, cos: Array, sin: Array) -> tuple[Array, Backward]:
    """Feature 2j turned with feature 2j + 1, as in the paper and GPT-J; backward: dy -> dx."""
    _check_angles("rotary_interleaved", x, cos)
    return _by_neighbours(x, cos, sin), lambda dy: _by_neighbours(dy, cos, -sin)


def _by_halves(x: Array, cos: Array, sin: Array) -> Array:
    half = cos.shape[-1]
    a, b = _turned(x[..., :half], x[..., half : 2 * half], cos, sin)
    rest = x[..., 2 * half :]
    return namespace(x).concat([a, b, rest], axis=-1)


def _by_neighbours(x: Array, cos: Array, sin: Array) -> Array:
    xp, width = namespace(x), 2 * cos.shape[-1]
    pair = _turned(x[..., 0:width:2], x[..., 1:width:2], cos, sin)
    turned = xp.reshape(xp.stack(pair, axis=-1), (*x.shape[:-1], width))
    return xp.concat([turned, x[..., width:]], axis=-1)


def _turned(a: Array, b: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    return a * cos - b * sin, b * cos + a * sin


def _check_angles(owner: str, x: Array, cos: Array) -> None:
    """cos has a place for at most every second feature, and adds no axis to x."""
    *lead, half = cos.shape
    if 2 * half > x.shape[-1]:
        raise ShapeError(
            f"{owner}: cos must be (..., w/2) with w at most d = {x.shape[-1]} from x, "
            f"got {tuple(cos.shape)}"
        )
    sizes = zip(reversed(lead), reversed(x.shape[:-1]), strict=False)
    if cos.ndim > x.ndim or any(own not in (1, size) for own, size in sizes):
        raise ShapeError(
            f"{owner}: the leading axes of cos must broadcast to those of x, {tuple(x.shape)}, "
            f"got {tuple(cos.shape)}"
        )
