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
    ValueError if the density is outside [0, 1], or 0 where it divides.
Limits:
    ⌊d·size⌋ is taken in floating point, as PEFT and mergekit take it: 0.29 of 100 entries are 28.
    Of entries of one size the earlier ones stay. PEFT and mergekit keep any of them; mergekit
    compares in float32.
    After `drop_and_match` the mean is t only roughly, but ‖t‖₁ is kept with certainty; where the
    norm before or after is below 1e-7 nothing is rescaled.
Source:
    Yadav et al. 2023, arXiv:2306.01708, section 4 (trim); Yu et al. 2023, arXiv:2311.03099,
    section 3 (DARE). PEFT 0.21.2, utils/merge_utils.py: magnitude_based_pruning, random_pruning.
    mergekit 0.1.4, sparsify.py: magnitude, and rescaled_masked_tensor with RescaleNorm.l1, which
    is what its `rescale: true` means.
"""

import numpy as np

from ..arrays import Array, namespace
from ..shapes import shapes

_NO_NORM = 1e-7


@shapes(t="...")
def trim(t: Array, density: float) -> Array:
    """The ⌊density·size⌋ entries of largest magnitude, and zeros."""
    _check_density("trim", density, 0.0 <= density <= 1.0, "in [0, 1]")
    xp, size = namespace(t), int(np.prod(t.shape))
    order = xp.argsort(-xp.reshape(xp.abs(t), (size,)), stable=True)
    place = xp.reshape(xp.argsort(order), t.shape)  # 0 for the largest
    return xp.where(place < int(density * size), t, xp.zeros_like(t))


@shapes(t="*axes", mask="bool *axes")
def drop_and_rescale(t: Array, mask: Array, density: float) -> Array:
    """t ∘ mask / density: DARE, for a mask of that density."""
    _check_density("drop_and_rescale", density, 0.0 < density <= 1.0, "in (0, 1]")
    return _dropped(t, mask) / density


@shapes(t="*axes", mask="bool *axes")
def drop_and_match(t: Array, mask: Array) -> Array:
    """t ∘ mask, rescaled to the sum of magnitudes that t has: mergekit's DARE."""
    xp, kept = namespace(t), _dropped(t, mask)
    before, after = (float(xp.sum(xp.abs(v))) for v in (t, kept))
    if before < _NO_NORM or after < _NO_NORM:
        return kept
    return kept * (before / after)


def drawn_mask(shape: tuple[int, ...], density: float, rng: np.random.Generator) -> np.ndarray:
    """A mask of independent entries that are True with probability `density`."""
    return rng.random(shape) < density


def _dropped(t: Array, mask: Array) -> Array:
    xp = namespace(t)
    return xp.where(mask, t, xp.zeros_like(t))


def _check_density(owner: str, density: float, fits: bool, range_: str) -> None:
    if not fits:
        raise ValueError(f"{owner}: density must be {range_}, got {density}")
