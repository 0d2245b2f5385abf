"""Sums in a given order on a given accumulator, and rounding towards zero."""

import numpy as np
import pytest

from lora_ref.verdict.accumulate import LIBRARY, Sequential, Split, product, sums
from lora_ref.verdict.choices import Choices
from lora_ref.verdict.contract import BFLOAT16_CONTRACT, Accumulator
from lora_ref.verdict.grids import (
    BFLOAT16,
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT16,
    FLOAT32,
    TF32,
    Grid,
)
from lora_ref.verdict.orders import AnyOrder, Blocked, Pairwise

ORDERS = [Sequential(), Blocked(3), Split(4), Pairwise(2), Pairwise(1)]
FOURTEEN_BITS = Grid("14 bits", 14, -126, (2 - 2.0**-13) * 2.0**127, True)
GRIDS = [BFLOAT16, FLOAT16, FLOAT32, FLOAT8_E4M3, FLOAT8_E5M2, TF32, FOURTEEN_BITS]


@pytest.mark.parametrize("order", [*ORDERS, LIBRARY], ids=str)
@pytest.mark.parametrize(("m", "k", "n"), [(3, 13, 5), (4, 4, 4), (2, 1, 3), (3, 0, 2)])
def test_products_of_small_integers_are_exact_in_every_order(order, m, k, n, rng):
    a = rng.integers(-4, 5, (2, m, k)).astype(float)
    b = rng.integers(-4, 5, (k, n)).astype(float)
    assert np.array_equal(product(a, b, Accumulator(FLOAT32), order), a @ b)


@pytest.mark.parametrize("order", [Sequential(), LIBRARY], ids=str)
def test_vectors_lose_their_axis_as_in_numpy(order, rng):
    a, b = rng.integers(-4, 5, (2, 3, 7)).astype(float), rng.integers(-4, 5, 7).astype(float)
    for left, right in ((a, b), (b, a.mT), (b, b)):
        found = product(left, right, Accumulator(FLOAT32), order)
        assert found.shape == (left @ right).shape
        assert np.array_equal(found, left @ right)


def test_a_sequential_sum_is_that_of_a_loop_over_float16(rng):
    t = FLOAT16.round(rng.standard_normal((5, 37)))
    total = t[:, 0].astype(np.float16)
    for k in range(1, 37):
        total = total + t[:, k].astype(np.float16)
    assert np.array_equal(sums(t, Accumulator(FLOAT16), Sequential()), total)


def test_every_order_adds_in_its_own_order(rng):
    t = BFLOAT16.round(rng.standard_normal((200, 13)))
    found = [sums(t, Accumulator(BFLOAT16), order).tobytes() for order in ORDERS]
    assert len(set(found)) == len(ORDERS)


@pytest.mark.parametrize(
    ("order", "total"),
    [(Sequential(), 256), (Blocked(64), 512), (Split(4), 512), (Pairwise(), 512)],
)
def test_a_bfloat16_accumulator_stops_growing_at_256_ones_in_one_row(order, total):
    assert sums(np.ones((1, 512)), Accumulator(BFLOAT16), order) == total


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("terms", [1, 2, 13])
def test_every_total_is_a_number_of_the_accumulator(order, terms, rng):
    a, b = (BFLOAT16.round(rng.standard_normal(shape)) for shape in ((20, terms), (terms, 20)))
    for accumulator in (Accumulator(BFLOAT16), Accumulator(FOURTEEN_BITS, truncates=True)):
        assert np.all(accumulator.grid.holds(product(a, b, accumulator, order)))


def test_a_product_rounds_once_for_each_addition():
    """1 · 1 + x · x with x² a quarter of an ulp of 1 and half of it rounded: once gives 1."""
    u = BFLOAT16.roundoff
    a, b = np.array([[1.0, 1.0]]), np.array([[1.0], [u * (1 + 2**-9)]])
    assert product(a, b, Accumulator(BFLOAT16), Sequential()) == 1 + 2 * u


def test_a_truncating_accumulator_drops_what_rounding_would_carry():
    terms = np.array([1.0, 1.5 * BFLOAT16.roundoff])
    assert sums(terms, Accumulator(BFLOAT16, truncates=True), Sequential()) == 1.0
    assert sums(terms, Accumulator(BFLOAT16), Sequential()) == 1.0 + 2 * BFLOAT16.roundoff


def test_the_library_on_an_accumulator_that_it_lacks_is_the_order_of_the_contract():
    contract = BFLOAT16_CONTRACT.relax(accumulate=Accumulator(FLOAT16), order=Blocked(32))
    assert Choices().order_for(contract, 100) == Blocked(32)
    assert Choices().order_for(BFLOAT16_CONTRACT, 100) == LIBRARY
    assert Choices().order_for(BFLOAT16_CONTRACT.relax(order=Pairwise(8)), 100) == Pairwise(8)


def test_an_order_deeper_than_the_contract_is_refused():
    own = Choices(order=Sequential())
    assert own.order_for(BFLOAT16_CONTRACT, 200) == Sequential()
    with pytest.raises(ValueError, match=r"depth of at most 260, from blocks of 256"):
        own.order_for(BFLOAT16_CONTRACT, 1000)
    assert own.order_for(BFLOAT16_CONTRACT.relax(order=AnyOrder()), 1000) == Sequential()


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_truncating_gives_the_number_of_the_grid_next_to_zero(grid, rng):
    exponents = rng.uniform(np.log2(grid.smallest) - 2, np.log2(grid.largest) + 1, 2000)
    v = rng.choice([-1, 1], 2000) * np.exp2(exponents)
    t = grid.truncate(v)
    inside = np.abs(v) <= grid.largest
    assert np.all(grid.holds(t))
    assert np.all(np.abs(t) <= np.abs(v))
    assert np.all((np.abs(v) - np.abs(t) < grid.ulp(v))[inside])
    assert np.all(np.abs(t[~inside]) == grid.largest)
    assert np.array_equal(np.signbit(t), np.signbit(v))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_truncating_keeps_zeros_and_what_is_no_number(grid):
    t = grid.truncate(np.array([0.0, -0.0, np.inf, -np.inf, np.nan]))
    assert np.array_equal(t, [0, 0, np.inf, -np.inf, np.nan], equal_nan=True)
    assert np.array_equal(np.signbit(t[:2]), [False, True])


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_a_number_rounds_as_it_does_in_an_array(grid):
    for v in (0.0, 1.1, grid.smallest * 0.75, grid.largest * 2):
        assert float(grid.round(np.array(v))) == grid.round(np.array([v]))[0]
