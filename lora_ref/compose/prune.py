"""Fewer entries of an update, before updates are combined: trimming, and dropping at random.

Math:
    trim                 the k = ⌊d·size⌋ entries of largest |t|, zeros elsewhere
    drop_and_rescale     t ∘ μ / d, which has t for its mean where each μ is 1 with probability d
    drop_and_match       t ∘ μ · ‖t‖₁ / ‖t ∘ μ‖₁
Shapes:
    t (...)   mask μ (...), bool
Units:
    d is the density, the share that is kept: DARE's drop rate is 1 − d, TIES's k % is 100 d.
Errors:
    ValueError if the density is no number in [0, 1], or 0 where it divides.
Limits:
    ⌊d·size⌋ is taken in floating point, as PEFT and mergekit take it: 0.29 of 100 entries are 28.
    Of entries of one size the earlier ones stay. PEFT and mergekit keep any of them; mergekit
    compares in float32.
    NaN is never dropped, so that what is merged from it is NaN in its place too. It has no size and
    is none of the k: to PEFT and mergekit it is the largest, and it stays with them, who multiply
    by 0, as well. With them an infinite entry that is dropped is NaN, here 0.
    After `drop_and_match` the mean is t only roughly, but ‖t‖₁ is kept with certainty; where the
    norm before or after is below 1e-7 nothing is rescaled. Both are summed in float32 at least:
    in float16 a sum overflows beyond 65504.
Source:
    Yadav et al. 2023, arXiv:2306.01708, section 4 (trim); Yu et al. 2023, arXiv:2311.03099,
    section 3 (DARE). PEFT 0.21.2, utils/merge_utils.py: magnitude_based_pruning, random_pruning.
    mergekit 0.1.4, sparsify.py: magnitude, and rescaled_masked_tensor with RescaleNorm.l1, which
    is what its `rescale: true` means.
"""

import numpy as np

from ..arrays import Array, namespace, working
from ..shapes import shapes
from ..values import checked_number

_NO_NORM = 1e-7


@shapes(t="...")
def trim(t: Array, density: float) -> Array:
    """The ⌊density·size⌋ entries of largest magnitude, and zeros."""
    d = checked_number("trim", "density", density)
    _check_density("trim", d, 0.0 <= d <= 1.0, "in [0, 1]")
    xp, size = namespace(t), int(np.prod(t.shape))
    order = xp.argsort(-xp.reshape(xp.abs(t), (size,)), stable=True)
    place = xp.reshape(xp.argsort(order), t.shape)  # 0 for the largest
    return _dropped(t, place < int(d * size))


@shapes(t="*axes", mask="bool *axes")
def drop_and_rescale(t: Array, mask: Array, density: float) -> Array:
    """t ∘ mask / density: DARE, for a mask of that density."""
    d = checked_number("drop_and_rescale", "density", density)
    _check_density("drop_and_rescale", d, 0.0 < d <= 1.0, "in (0, 1]")
    return _dropped(t, mask) / d


@shapes(t="*axes", mask="bool *axes")
def drop_and_match(t: Array, mask: Array) -> Array:
    """t ∘ mask, rescaled to the sum of magnitudes that t has: mergekit's DARE."""
    xp, kept = namespace(t), _dropped(t, mask)
    wide, wide_kept = working(t), working(kept)
    before, after = (float(xp.sum(xp.abs(v))) for v in (wide, wide_kept))
    if before < _NO_NORM or after < _NO_NORM:
        return kept
    return xp.astype(wide_kept * (before / after), t.dtype)


def drawn_mask(shape: tuple[int, ...], density: float, rng: np.random.Generator) -> np.ndarray:
    """A mask of independent entries that are True with probability `density`."""
    return rng.random(shape) < density


def _dropped(t: Array, mask: Array) -> Array:
    """`t` where the mask is True, or t is NaN, and zeros."""
    xp = namespace(t)
    return xp.where(mask | xp.isnan(t), t, xp.zeros_like(t))


def _check_density(owner: str, density: float, fits: bool, range_: str) -> None:
    if not fits:
        raise ValueError(f"{owner}: density must be {range_}, got {density}")
