"""Hypothesis strategies for small arrays of the numbers that break kernels.

    @given(small_arrays(BFLOAT16, (2, 3)))
    def test_mine(t): ...

Every element is a choice of its own: ±0, subnormals, the ends of the range, 1 and half an ulp of it
(whose sum is a tie), infinities and NaN, or any number of the grid; it shrinks to zeros.

Limits:
    At most 8 elements: for size there are `lora_ref.testing.case_strategies`. Arrays are float64
    with numbers of the grid, which a cast to its dtype keeps. A grid without infinity has none.
"""

import math

import numpy as np

from ..verdict.grids import Grid

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as extra
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{__name__}: needs Hypothesis; pip install hypothesis", name="hypothesis"
    ) from error

MOST_ELEMENTS = 8


def grid_numbers(grid: Grid) -> st.SearchStrategy[float]:
    """A finite number of the grid, often one at an end of its range or of its precision."""
    u, least_normal = grid.roundoff, 2.0**grid.emin
    sizes = (
        0.0,
        1.0,
        u,  # 1 + u is a tie, which goes to 1
        1 + 2 * u,
        3 * u,  # 1 + 3u is a tie, which goes away from 1
        grid.smallest,
        least_normal - grid.smallest,
        least_normal,
        grid.largest,
    )
    special = st.sampled_from([sign * size for size in sizes for sign in (1.0, -1.0)])
    most = grid.largest
    return special | st.floats(-most, most).map(lambda v: float(grid.round(np.array([v]))[0]))


def grid_values(grid: Grid) -> st.SearchStrategy[float]:
    """A number of the grid, or one of its infinities or NaN."""
    infinities = (math.inf, -math.inf) if grid.has_inf else ()
    return grid_numbers(grid) | st.sampled_from((math.nan, *infinities))


def small_arrays(
    grid: Grid,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]],
    *,
    elements: st.SearchStrategy[float] | None = None,
) -> st.SearchStrategy[np.ndarray]:
    """A float64 array of values of the grid, `grid_values` unless `elements` says else."""
    values = grid_values(grid) if elements is None else elements
    if isinstance(shape, tuple):
        _require_small(shape)
        return extra.arrays(np.float64, shape, elements=values, fill=st.nothing())
    return shape.flatmap(lambda drawn: small_arrays(grid, drawn, elements=elements))


def _require_small(shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(
            f"small_arrays: shape must have at most {MOST_ELEMENTS} elements, got {shape}"
        )
