"""The envelope: all orders of a contract admitted, nothing beyond them, block by block."""

import ml_dtypes
import numpy as np
import pytest

from lora_ref.verdict.contract import MERGED_BFLOAT16, PRESETS, merged
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32, Grid, grid_of
from lora_ref.verdict.judge import judge as judge_kernel
from lora_ref.verdict.oracles import lora_merged
from lora_ref.verdict.orders import Probable
from lora_ref.verify import Status
from lora_ref.verify.catalogue import Surroundings
from lora_ref.verify.envelope import envelope
from lora_ref.verify.judge import judge
from lora_ref.verify.measure import Pair
from lora_ref.verify.updates import Conventions, LowRank, Part

SCALE = 5 / 3
GRIDS = (BFLOAT16, FLOAT16, FLOAT32)
DTYPES = {BFLOAT16: ml_dtypes.bfloat16, FLOAT16: np.float16, FLOAT32: np.float32}


def drawn(grid: Grid, starts=(0,), rows=11, columns=700, r=3, size=0.1) -> tuple[Pair, LowRank]:
    """A tensor on the grid and an update in float32 by parts; merged is correctly rounded."""
    rng = np.random.default_rng(7)
    parts = tuple(
        Part(
            start,
            FLOAT32.round(size * rng.standard_normal((rows, r))),
            FLOAT32.round(rng.standard_normal((r, columns))),
        )
        for start in starts
    )
    shape = (max(starts) + rows, columns)
    update = LowRank("t", "m", shape, parts, SCALE, Conventions(5.0, 3, False, 5.0, 3))
    W = grid.round(rng.standard_normal(shape))
    return merged_to(grid, W, update, lambda W, D: W + D), update


def merged_to(grid: Grid, W: np.ndarray, update: LowRank, merge) -> Pair:
    dtype = DTYPES[grid]
    M = merge(W, update.delta(np.arange(len(W))))
    return Pair(W.astype(dtype), grid.round(M).astype(dtype), grid_of(np.dtype(dtype)), grid)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.name)
def test_a_merge_in_two_halves_on_the_grid_is_within_the_bounds(grid):
    pair, update = drawn(grid)

    def halves(W, D):
        half = grid.round(D / 2)
        return grid.round(W + half) + half

    found = envelope(merged_to(grid, pair.W.astype(float), update, halves), update)
    assert found.holds
    assert found.contract == f"merged_{grid.name}"


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.name)
def test_one_element_further_off_than_the_roundings_bring_it_is_outside(grid):
    pair, update = drawn(grid, size=1e-3)
    M = pair.M.astype(float)
    M[4, 5] += 4 * grid.ulp(M[4, 5])
    off = Pair(pair.W, M.astype(pair.M.dtype), grid, grid)
    assert envelope(pair, update).holds
    assert envelope(off, update).outside == 1


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_every_part_of_an_update_is_bounded_with_its_own_factors(missing):
    """Blocks of rows that several experts share, and rows between them that none has."""
    pair, update = drawn(BFLOAT16, starts=(0, 11, 40), columns=700)
    rows = np.arange(update.parts[missing].start, update.parts[missing].stop)
    M = pair.M.copy()
    M[rows] = pair.W[rows]
    assert envelope(pair, update).holds
    assert envelope(Pair(pair.W, M, BFLOAT16, BFLOAT16), update).outside


def test_what_the_update_lacks_below_each_rounding_shows_in_their_sum():
    pair, update = drawn(FLOAT32, rows=300, columns=300, size=2e-4)
    W = pair.W + np.copysign(np.float32(1), pair.W)  # no small numbers, whose ulps would show it
    M = (W + 0.5 * update.delta(np.arange(300))).astype(ml_dtypes.bfloat16)
    short = Pair(W, M, FLOAT32, BFLOAT16)
    found = envelope(short, update)
    assert found.outside == 0
    assert not found.holds
    assert found.beta == pytest.approx(-0.5, abs=5 * found.beta_error)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.name)
def test_a_product_beyond_the_grid_is_no_reason_to_admit_anything(grid):
    """The same merge, of factors whose product would overflow float16 on its way."""
    pair, update = drawn(FLOAT32)
    part = update.parts[0]
    large = update.with_factors(1e5 * part.L, part.R).with_scale(1e-5 * SCALE)
    stored = Pair(pair.W, pair.M, FLOAT32, grid)
    wrong = Pair(pair.W, 2 * pair.M, FLOAT32, grid)
    assert envelope(stored, large).outside == 0
    assert envelope(wrong, large).outside > 0


def test_a_bound_without_end_admits_nothing():
    pair, update = drawn(FLOAT16)
    endless = update.with_factors(1e35 * update.parts[0].L, update.parts[0].R)
    with np.errstate(all="ignore"):  # as `verify` calls it
        found = envelope(pair, endless.with_scale(1e-35 * SCALE))
    assert found.outside == pair.M.size


def test_the_verdict_within_the_bounds_names_the_contract():
    """Rounded to bfloat16 in the middle of the sum over k, which no recipe does."""
    pair, update = drawn(BFLOAT16, rows=60, r=5)
    part = update.parts[0]

    def merge(W, D):
        first, rest = (
            BFLOAT16.round(part.L[:, k] @ part.R[k]) for k in (slice(0, 2), slice(2, None))
        )
        return W + BFLOAT16.round(SCALE * BFLOAT16.round(first + rest))

    pair = merged_to(BFLOAT16, pair.W.astype(float), update, merge)
    around = Surroundings({"t": pair.shape}, {"t": pair.W}.get, {"t": update})
    verdict = judge("t", pair, update, around, np.random.default_rng(0))
    assert verdict.status is Status.ROUNDING
    assert verdict.text == "no recipe known, within the bounds of merged_bfloat16"


def test_a_merge_in_two_halves_is_no_bug_as_an_output_of_a_kernel_either():
    pair, update = drawn(BFLOAT16)
    W, part = pair.W.astype(float), update.parts[0]
    half = BFLOAT16.round(update.delta(np.arange(len(W))) / 2)
    y = BFLOAT16.round(BFLOAT16.round(W + half) + half)
    oracle = lora_merged(W, part.R, part.L, scale=SCALE)
    assert judge_kernel(y, oracle, MERGED_BFLOAT16).status is Status.ROUNDING
    assert (
        judge_kernel(BFLOAT16.round(y + 3 * BFLOAT16.ulp(y)), oracle, MERGED_BFLOAT16).status
        is Status.BUG
    )


@pytest.mark.parametrize(("terms", "depth"), [(1, 1), (24, 24), (26, 26), (64, 40), (4096, 320)])
def test_independent_roundings_of_a_sum_are_five_roots_of_its_length_deep(terms, depth):
    assert Probable().depth(terms) == depth


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.name)
def test_the_contract_of_a_stored_grid_is_its_preset(grid):
    assert merged(grid) == PRESETS[f"merged_{grid.name}"]


def test_explain_says_what_a_merge_may_do():
    said = MERGED_BFLOAT16.explain()
    for words in (
        "matrix products round their operands to bfloat16",
        "any order, 5 √K roundings of K, every addition rounded to bfloat16",
        "the factor itself is a bfloat16",
        "W' = (W + ½ s BA) + ½ s BA",
    ):
        assert words in said
