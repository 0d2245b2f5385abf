"""Bounds and variances of tiny expressions, against formulas written out here and brute force."""

import itertools
import math

import numpy as np
import pytest
from bounded_readings import assert_is, bounded, h, reading, stored

from lora_ref.arrays import either, norm, recomputed
from lora_ref.layers.softmax import log_softmax, softmax_weights
from lora_ref.verdict.bounds import bounds_of
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT8_E4M3_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    TF32_CONTRACT,
    Accumulator,
    ScaleSites,
)
from lora_ref.verdict.grids import BFLOAT16, FLOAT8_E4M3, FLOAT16, FLOAT32, TF32
from lora_ref.verdict.orders import Blocked

CONTRACTS = [FLOAT32_CONTRACT, BFLOAT16_CONTRACT, FLOAT16_CONTRACT]
both = pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
U32 = 2.0**-24
NO_SITES = ScaleSites(operand=False, result=False)


def gamma(terms):
    """Of a float32 accumulator, plus what float64 leaves of the value."""
    return (1 + U32) ** (terms + 1) - 1 + (terms + 2) * 2.0**-53


def drawn(rng, contract, *shape):
    """Of size 1 to 4, so that half ulps differ and nothing is subnormal."""
    v = rng.uniform(1, 4, shape) * rng.choice([-1, 1], shape)
    return contract.inputs.round(v)


@both
def test_a_product_has_the_error_of_its_sums_and_of_one_store(contract, rng):
    x, W = drawn(rng, contract, 2, 3), drawn(rng, contract, 3, 4)
    bound = bounded(lambda xp, x, W: x @ W, contract, x, W)
    assert_is(bound.e, stored(x @ W, gamma(3) * (abs(x) @ abs(W)), contract))


@both
def test_a_product_of_products_carries_both_errors_on(contract, rng):
    a, b, c, d = (drawn(rng, contract, *s) for s in ((2, 3), (3, 4), (4, 5), (5, 3)))
    e_l = stored(a @ b, gamma(3) * (abs(a) @ abs(b)), contract)
    e_r = stored(c @ d, gamma(5) * (abs(c) @ abs(d)), contract)
    left, right = abs(a @ b) + e_l, abs(c @ d) + e_r
    # |ab| e_r + e_l (|cd| + e_r) is what the operands differ by
    inside = left @ right - abs(a @ b) @ abs(c @ d) + gamma(4) * (left @ right)
    bound = bounded(lambda xp, a, b, c, d: (a @ b) @ (c @ d), contract, a, b, c, d)
    assert_is(bound.e, stored(a @ b @ c @ d, inside, contract))


def test_terms_in_blocks_have_the_depth_of_a_block_and_of_the_blocks(rng):
    contract = FLOAT32_CONTRACT.relax(order=Blocked(4))
    x = drawn(rng, contract, 12)
    bound = bounded(lambda xp, x: x[None, :] @ x[:, None], contract, x)
    depth = (1 + U32) ** (4 + 3 + 1) - 1 + (12 + 2) * 2.0**-53
    assert_is(bound.e, stored(x @ x, depth * (x @ x), contract))


def test_an_accumulator_that_truncates_has_twice_the_roundoff(rng):
    contract = FLOAT32_CONTRACT.relax(accumulate=Accumulator(FLOAT32, truncates=True))
    x = drawn(rng, contract, 5)
    bound = bounded(lambda xp, x: x[None, :] @ x[:, None], contract, x)
    g = (1 + 2 * U32) ** 6 - 1 + 7 * 2.0**-53
    assert_is(bound.e, stored(x @ x, g * (x @ x), contract))


def test_a_sum_on_float16_may_underflow_at_every_term_and_overflow_on_the_way():
    contract = FLOAT16_CONTRACT.relax(accumulate=Accumulator(FLOAT16))
    x = np.full((1, 6), 2.0**-11)
    bound = bounded(lambda xp, x: x @ x.T, contract, x)
    assert bound.e[0, 0] >= 6 * FLOAT16.smallest / 2
    large = np.array([[150.0, 150.0, 150.0, -150.0]])
    product = lambda xp, x, y: x @ y.T  # noqa: E731
    bound = bounded(product, contract, large, abs(large))
    assert np.isinf(bound.e[0, 0])  # 2 · 150² is stored, 3 · 150² on the way is not
    assert np.isfinite(bounded(product, FLOAT16_CONTRACT, large, abs(large)).e[0, 0])


@both
def test_a_factor_may_be_on_the_result_or_on_either_operand(contract, rng):
    """The union over the sites: 5/3 (a b), (5/3 a) b and a (5/3 b)."""
    a, b, s = drawn(rng, contract, 2, 3), drawn(rng, contract, 3, 4), 5 / 3
    size, grid = abs(a) @ abs(b), contract.store
    g = gamma(3)
    on_result = s * stored(a @ b, g * size, contract)
    e_a, e_b = h(s * abs(a), grid), h(s * abs(b), grid)
    on_a = e_a @ abs(b) + g * (s * abs(a) + e_a) @ abs(b)
    on_b = abs(a) @ e_b + g * abs(a) @ (s * abs(b) + e_b)
    inside = np.maximum(on_result, np.maximum(on_a, on_b))
    bound = bounded(lambda xp, a, b: s * (a @ b), contract, a, b)
    assert np.any(on_a > on_result)
    assert np.any(on_b > on_result)
    by_hand = stored(s * (a @ b), inside, contract)
    assert np.all(bound.e >= by_hand * (1 - 2.0**-40))
    # g e_a is counted once more than it must be
    assert np.all(bound.e <= by_hand * (1 + 4 * g + 2.0**-13))


@both
def test_a_factor_that_may_be_nowhere_else_is_on_the_stored_product(contract, rng):
    a, b, s = drawn(rng, contract, 2, 3), drawn(rng, contract, 3, 4), 5 / 3
    contract = contract.relax(scale=NO_SITES)
    inside = s * stored(a @ b, gamma(3) * (abs(a) @ abs(b)), contract)
    bound = bounded(lambda xp, a, b: s * (a @ b), contract, a, b)
    assert_is(bound.e, stored(s * (a @ b), inside, contract))


@both
def test_a_factor_held_on_a_coarse_grid_is_off_by_its_roundoff(contract, rng):
    a, b, s = drawn(rng, contract, 2, 3), drawn(rng, contract, 3, 4), 5 / 3
    held = contract.relax(scale=ScaleSites(held_on=BFLOAT16))
    exact, coarse = (bounded(lambda xp, a, b: s * (a @ b), c, a, b) for c in (contract, held))
    extra = coarse.e - exact.e
    off = abs(BFLOAT16.round(np.array(s)) - s) / s
    assert np.all(extra >= off * abs(s * (a @ b)))
    assert np.all(extra <= 2.0**-7 * (abs(s * (a @ b)) + exact.e) * (1 + 2.0**-13))
    half = bounded(lambda xp, a, b: 0.5 * (a @ b), held, a, b)
    assert np.array_equal(half.e, bounded(lambda xp, a, b: 0.5 * (a @ b), contract, a, b).e)


@both
def test_a_power_of_two_adds_no_rounding(contract, rng):
    a, b = drawn(rng, contract, 2, 3), drawn(rng, contract, 3, 4)
    plain = bounded(lambda xp, a, b: a @ b, contract, a, b)
    for s in (4.0, -0.5):
        scaled = bounded(lambda xp, a, b, s=s: s * (a @ b), contract, a, b)
        np.testing.assert_allclose(scaled.e, abs(s) * plain.e, rtol=2.0**-40)
        np.testing.assert_allclose(scaled.s, s * s * plain.s, rtol=2.0**-40)


def test_a_power_of_two_rounds_float16_where_it_leaves_the_normal_range():
    """2^−14 (1 + 2^−10) / 8 is no number of float16; 2^15 · 2 is none either."""
    v = np.array([[2.0**-14 * (1 + 2.0**-10)]])
    one, eighth = np.ones((1, 1)), 0.125
    for text in (
        lambda xp, v, one: eighth * v,
        lambda xp, v, one: eighth * (v @ one),
        lambda xp, v, one: (eighth * v) @ one,
        lambda xp, v, one: eighth * (v * one),
        lambda xp, v, one: (eighth * v) * one,
        lambda xp, v, one: xp.sum(eighth * (v * one), axis=0),
        lambda xp, v, one: eighth * (v + one - one),
    ):
        bound = bounded(text, FLOAT16_CONTRACT, v, one)
        exact = v[0, 0] / 8
        error = abs(FLOAT16.round(np.array(exact)) - exact)
        assert error > 0
        assert bound.e.flat[0] >= error
        large = bounded(text, FLOAT16_CONTRACT, 2.0**15 * one, one)
        assert np.isfinite(large.e).all()
    doubled = bounded(lambda xp, v, one: 2 * (v @ one), FLOAT16_CONTRACT, 2.0**15 * one, one)
    assert np.isinf(doubled.e).all()


@both
@pytest.mark.parametrize("terms", [2, 3, 4, 6])
def test_a_sum_admits_every_order_and_some_order_comes_near_the_bound(contract, terms, rng):
    grid = contract.store
    parts = [grid.round(rng.uniform(-4, 4, 400)) for _ in range(terms)]
    bound = bounded(lambda xp, *parts: sum(parts[1:], start=parts[0]), contract, *parts)
    exact, most = sum(parts), 0.0
    for order in itertools.islice(itertools.permutations(range(terms)), 120):
        total = parts[order[0]]
        for i in order[1:]:
            total = grid.round(total + parts[i])
        ratio = abs(total - exact) / bound.e
        assert np.all(ratio <= 1)
        most = max(most, ratio.max())
    assert most > 0.5
    size = sum(abs(t) for t in parts)
    if terms <= 4:
        assert_is(bound.e, stored(exact, (terms - 2) * h(size, grid), contract))


@both
def test_pending_sums_are_one_sum_and_carry_the_errors_of_their_terms(contract, rng):
    a, b, c, d = (drawn(rng, contract, 3) for _ in range(4))
    e_p, e_q = (stored(s * t, 0, contract) for s, t in ((a, b), (c, d)))
    bound = bounded(lambda xp, a, b, c, d: (a * b - c * d) + a, contract, a, b, c, d)
    size = abs(a * b) + e_p + abs(c * d) + e_q + abs(a)
    assert_is(bound.e, stored(a * b - c * d + a, e_p + e_q + h(size, contract.store), contract))


@both
def test_an_elementwise_product_and_a_quotient(contract, rng):
    a, b, c, d = (drawn(rng, contract, 5) for _ in range(4))
    e_p, e_q = stored(a * b, 0, contract), stored(c * d, 0, contract)
    p, q = abs(a * b), abs(c * d)
    bound = bounded(lambda xp, a, b, c, d: (a * b) * (c * d), contract, a, b, c, d)
    assert_is(bound.e, stored(a * b * c * d, p * e_q + (q + e_q) * e_p, contract))
    bound = bounded(lambda xp, a, b, c, d: (a * b) / (c * d), contract, a, b, c, d)
    v = a * b / (c * d)
    assert_is(bound.e, stored(v, (e_p + abs(v) * e_q) / (q - e_q), contract))


@both
def test_a_factor_on_an_elementwise_product_rounds_after_its_store_or_on_an_operand(contract, rng):
    """The error of the first store grows by the factor; half an ulp of the result is less."""
    a, b, s = drawn(rng, contract, 400), drawn(rng, contract, 400), 5 / 3
    grid = contract.store
    v = s * a * b
    on_result = stored(v, s * h(abs(a * b), grid), contract)
    bound = bounded(lambda xp, a, b: s * (a * b), contract, a, b)
    assert_is(bound.e, on_result)
    on_operand = stored(v, h(s * abs(a), grid) * abs(b), contract)
    bound = bounded(lambda xp, a, b: (s * a) * b, contract, a, b)
    assert_is(bound.e, np.maximum(on_result, on_operand))
    assert np.any(on_operand > on_result)


def test_a_divisor_that_may_be_zero_says_nothing(rng):
    a = drawn(rng, BFLOAT16_CONTRACT, 3)
    close = np.array([1.0, 2.0**-9, 1.0])
    bound = bounded(lambda xp, a, b: a / (a * 1.5 - a * 1.5 + b), BFLOAT16_CONTRACT, a, close)
    assert list(np.isinf(bound.e)) == [False, True, False]


@both
def test_a_sum_along_an_axis(contract, rng):
    a, b = drawn(rng, contract, 6, 4), drawn(rng, contract, 6, 4)
    e_p = stored(a * b, 0, contract)
    size = (abs(a * b) + e_p).sum(0)
    bound = bounded(lambda xp, a, b: xp.sum(a * b, axis=0), contract, a, b)
    assert bound.v.shape == (4,)
    assert_is(bound.e, stored((a * b).sum(0), e_p.sum(0) + gamma(6) * size, contract))


@both
def test_a_factor_of_a_sum_may_be_on_what_is_summed(contract, rng):
    a, b, s = drawn(rng, contract, 6, 4), drawn(rng, contract, 6, 4), 5 / 3
    contract_without = contract.relax(scale=NO_SITES)
    e_first = stored(s * a * b, s * h(abs(a * b), contract.store), contract)
    size = (abs(s * a * b) + e_first).sum(0)
    bound = bounded(lambda xp, a, b: xp.sum(s * (a * b), axis=0), contract_without, a, b)
    assert_is(bound.e, stored((s * a * b).sum(0), e_first.sum(0) + gamma(6) * size, contract))


@both
@pytest.mark.parametrize("axis", [0, 1])
def test_a_norm_moves_by_no_more_than_the_norm_of_the_errors(contract, axis, rng):
    a, b = drawn(rng, contract, 6, 4), drawn(rng, contract, 6, 4)
    e_p = stored(a * b, 0, contract)
    K = (6, 4)[axis]
    moved = np.sqrt((e_p**2).sum(axis, keepdims=True))
    v = np.sqrt(((a * b) ** 2).sum(axis, keepdims=True))
    bound = bounded(lambda xp, a, b: norm(a * b, axis), contract, a, b)
    own = gamma(K) / 2 + 2 * contract.accumulate.roundoff  # the root halves what the sum is off
    assert_is(bound.e, stored(v, moved + own * (v + moved), contract))


def test_no_point_of_the_box_has_a_norm_outside_its_bound(rng):
    contract = BFLOAT16_CONTRACT
    a, b = drawn(rng, contract, 1, 5), drawn(rng, contract, 1, 5)
    e_p = stored(a * b, 0, contract)
    bound = bounded(lambda xp, a, b: norm(a * b, 1), contract, a, b)
    corners = np.array(list(itertools.product([-1, 1], repeat=5)))
    far = np.max(abs(np.sqrt(((a * b + corners * e_p) ** 2).sum(1)) - bound.v))
    assert far / 2 < far <= bound.e[0, 0] <= 2 * far + h(bound.v[0, 0] * 1.01, contract.store)


def _logits(rng, contract):
    """Logits with errors: (values, e, the expression's operands)."""
    a, b = drawn(rng, contract, 3, 5), drawn(rng, contract, 3, 5)
    return a * b, stored(a * b, 0, contract), (a, b)


def _exponents(z, e, contract):
    """d_j from its definition."""
    u, top = U32, z.max(-1, keepdims=True)
    own = 2 * contract.exp_ulps * u
    return e + 2 * u * (abs(z - top) + e + e.max(-1, keepdims=True)) + own


@both
def test_softmax_covers_every_corner_of_its_logits_and_no_more(contract, rng):
    z, e, operands = _logits(rng, contract)
    d = _exponents(z, e, contract)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    far = np.zeros_like(p)
    for corner in itertools.product([-1, 1], repeat=5):
        moved = p * np.exp(corner * d)
        far = np.maximum(far, abs(moved / moved.sum(-1, keepdims=True) - p))
    bound = bounded(lambda xp, a, b: softmax_weights(a * b), contract, *operands)
    by_hand = stored(p, far + gamma(7) * p, contract)
    assert np.all(bound.e >= by_hand * (1 - 2.0**-20))
    assert np.all(bound.e <= by_hand * (1 + 2.0**-12))


@both
def test_recomputed_weights_are_not_normalised_again(contract, rng):
    z, e, operands = _logits(rng, contract)
    top = z.max(-1, keepdims=True)
    p = np.exp(z - top)
    lse = top + np.log(p.sum(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    d = _exponents(z, e, contract)
    grown = np.log((p * np.exp(d)).sum(-1, keepdims=True))
    t = d + grown + U32 * (3 * abs(lse) + abs(top) + 2 * 5 + 8)
    bound = bounded(lambda xp, a, b: recomputed(softmax_weights(a * b)), contract, *operands)
    by_hand = stored(p, p * np.expm1(t), contract)
    assert np.all(bound.e >= by_hand * (1 - 2.0**-20))
    assert np.all(bound.e <= by_hand * (1 + 2.0**-12))


@both
def test_log_softmax_covers_every_corner_of_its_logits(contract, rng):
    z, e, operands = _logits(rng, contract)
    d = _exponents(z, e, contract)
    v = z - z.max(-1, keepdims=True)
    v = v - np.log(np.exp(v).sum(-1, keepdims=True))
    far = d + np.log((np.exp(v + d)).sum(-1, keepdims=True))
    for corner in itertools.product([-1, 1], repeat=5):
        moved = v + corner * d
        assert np.all(abs(moved - np.log(np.exp(moved).sum(-1, keepdims=True)) - v) <= far)
    bound = bounded(lambda xp, a, b: log_softmax(a * b)[0], contract, *operands)
    by_hand = stored(v, far + U32 * (2 * abs(v) + 5 + 8), contract)
    assert np.all(bound.e >= by_hand * (1 - 2.0**-20))
    assert np.all(bound.e <= by_hand * (1 + 2.0**-12))


def test_a_saturated_row_of_softmax_has_almost_no_error():
    z = np.array([[40.0, 0.0, 0.0]])
    bound = bounded(lambda xp, z: softmax_weights(xp.exp(z * 0) * z), BFLOAT16_CONTRACT, z)
    assert np.all(bound.e[0, 1:] < 1e-15)


def test_logits_that_may_overflow_say_nothing_of_their_row():
    z = np.array([[300.0, 1.0], [1.0, 2.0]])
    bound = bounded(lambda xp, z: softmax_weights(z * z), FLOAT16_CONTRACT, z)
    assert [*np.isinf(bound.e).all(axis=1)] == [True, False]
    masked = np.array([[-math.inf, 0.0], [0.0, 0.0]])
    bound = bounded(lambda xp, z: softmax_weights(z * z, masked), FLOAT16_CONTRACT, z)
    assert [*np.isinf(bound.e).all(axis=1)] == [True, False]  # ∞ − ∞ is NaN
    keep = masked == 0
    bound = bounded(lambda xp, z: softmax_weights(z * z, keep), FLOAT16_CONTRACT, z)
    assert np.isfinite(bound.e).all()


@both
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("exp", lambda a, v, e: v * np.expm1(e)),
        ("log", lambda a, v, e: -np.log1p(-e / a)),
        ("tanh", lambda a, v, e: e),
        ("erf", lambda a, v, e: 2 / math.pi**0.5 * e),
        ("sqrt", lambda a, v, e: v - np.sqrt(a - e)),
    ],
)
def test_a_function_changes_by_the_error_of_its_argument_and_its_own_ulps(
    name, change, contract, rng
):
    a, b = abs(drawn(rng, contract, 5)), abs(drawn(rng, contract, 5))
    e_p = stored(a * b, 0, contract)
    bound = bounded(lambda xp, a, b: getattr(xp, name)(a * b), contract, a, b)
    v = bound.v
    own = 2 * contract.exp_ulps * U32 * abs(v)
    assert_is(bound.e, stored(v, change(a * b, v, e_p) + own, contract))
    for end in (-1, 1):
        moved = bounded(lambda xp, t: getattr(xp, name)(t), contract, a * b + end * e_p).v
        assert np.all(abs(moved - v) <= bound.e)


@both
def test_a_choice_that_an_error_could_turn_covers_both_sides(contract):
    a = contract.inputs.round(np.array([3.0, 1 + contract.inputs.roundoff * 2, -3.0]))
    zero = np.zeros(3)

    def text(xp, a, zero):
        t = a * a[::-1] + zero  # stored, so that it has an error
        return xp.where(t - t + a <= 1, 5.0, zero)

    bound = bounded(text, contract, a, zero)
    assert list(bound.v) == [0, 0, 5]
    assert bound.e[0] == bound.e[2] == 0
    assert bound.e[1] >= 5


def test_a_load_rounds_the_operands_of_products_alone(rng):
    x, W = drawn(rng, FLOAT8_E4M3_CONTRACT, 2, 3), drawn(rng, FLOAT8_E4M3_CONTRACT, 3, 4)
    for contract, load in ((FLOAT8_E4M3_CONTRACT, FLOAT8_E4M3), (TF32_CONTRACT, TF32)):
        x_, W_ = contract.inputs.round(x), contract.inputs.round(W)
        e_x, e_W = (np.where(load.holds(t).all(), 0, h(abs(t), load)) for t in (x_, W_))
        left, right = abs(x_) + e_x, abs(W_) + e_W
        inside = left @ right - abs(x_) @ abs(W_) + gamma(3) * left @ right
        bound = bounded(lambda xp, x, W: x @ W, contract, x_, W_)
        assert_is(bound.e, stored(x_ @ W_, inside, contract))
        bound = bounded(lambda xp, x: x * x, contract, x_)
        assert_is(bound.e, stored(x_ * x_, 0, contract))


def test_any_of_several_formulas_is_admitted_and_the_value_is_that_of_the_first(rng):
    contract = BFLOAT16_CONTRACT
    a, b = drawn(rng, contract, 5), drawn(rng, contract, 5)

    def text(xp, a, b):
        return either(xp, lambda: a * b + a, lambda: a * (b + 1))

    e_first = stored(a * b + a, stored(a * b, 0, contract), contract)
    e_second = stored(a * (b + 1), abs(a) * stored(b + 1, 0, contract), contract)
    bound = bounded(text, contract, a, b)
    assert np.any(e_first > e_second)
    assert np.any(e_first < e_second)
    assert_is(bound.e, np.maximum(e_first, e_second))
    assert np.array_equal(bound.v, a * b + a)


# Variances.


@both
def test_the_variance_of_a_store_is_a_third_of_half_an_ulp_squared_at_the_value(contract, rng):
    a, b = drawn(rng, contract, 50), drawn(rng, contract, 50)
    bound = bounded(lambda xp, a, b: a * b, contract, a, b)
    np.testing.assert_allclose(bound.s, h(abs(a * b), contract.store) ** 2 / 3, rtol=2.0**-40)


@both
def test_variances_go_through_products_sums_and_quotients(contract, rng):
    a, b, c, d = (drawn(rng, contract, 4, 4) for _ in range(4))
    grid = contract.store
    S_p, S_q = (h(abs(t), grid) ** 2 / 3 for t in (a * b, c * d))
    shown = 1e-3 * grid.roundoff**2 / 3 < 4 * U32**2 / 6  # where the accumulator is not hidden
    kappa = 4 * U32**2 / 6 if shown else 0.0
    p, q = a * b, c * d
    texts = {
        "product": (p * q, p**2 * S_q + q**2 * S_p),
        "quotient": (p / q, (S_p + (p / q) ** 2 * S_q) / q**2),
        "sum": (p + q, S_p + S_q),
        "matmul": (p @ q, p**2 @ S_q + (S_p + kappa * p**2) @ q**2 + 2 / 3 * kappa * (p @ q) ** 2),
        "sum along": (p.sum(0), (S_p + kappa * p**2).sum(0) + 2 / 3 * kappa * p.sum(0) ** 2),
        "norm": (np.sqrt((p**2).sum(0)), (p**2 * S_p).sum(0) / (p**2).sum(0)),
        "tanh": (np.tanh(p), (1 - np.tanh(p) ** 2) ** 2 * S_p),
        "softmax": None,
    }
    calls = {
        "product": lambda xp, p, q: p * q,
        "quotient": lambda xp, p, q: p / q,
        "sum": lambda xp, p, q: p + q,
        "matmul": lambda xp, p, q: p @ q,
        "sum along": lambda xp, p, q: xp.sum(p, axis=0),
        "norm": lambda xp, p, q: norm(p, 0)[0],
        "tanh": lambda xp, p, q: xp.tanh(p),
    }
    for name, call in calls.items():
        v, S = texts[name]
        bound = bounded(lambda xp, a, b, c, d, f=call: f(xp, a * b, c * d), contract, a, b, c, d)
        own = (8 * U32 * abs(v)) ** 2 / 3 if name == "tanh" and shown else 0.0
        expected = S + own + h(abs(v), grid) ** 2 / 3
        np.testing.assert_allclose(bound.s, expected, rtol=2.0**-30, err_msg=name)


@both
def test_the_variance_of_softmax_is_that_of_its_derivative(contract, rng):
    z, _, operands = _logits(rng, contract)
    grid = contract.store
    S_z = h(abs(z), grid) ** 2 / 3
    if contract is FLOAT32_CONTRACT:  # exp's own error shows there
        S_z = S_z + (8 * U32 * (1 + abs(z - z.max(-1, keepdims=True)))) ** 2 / 3
    p = softmax_weights(z)
    slope = p[..., :, None] * (np.eye(5) - p[..., None, :])
    S = (slope**2 @ S_z[..., None])[..., 0]
    bound = bounded(lambda xp, a, b: softmax_weights(a * b), contract, *operands)
    np.testing.assert_allclose(bound.s, S + h(p, grid) ** 2 / 3, rtol=2.0**-20)
    slope = np.eye(5) - p[..., None, :]
    S = (slope**2 @ S_z[..., None])[..., 0]
    bound = bounded(lambda xp, a, b: log_softmax(a * b)[0], contract, *operands)
    expected = S + h(abs(np.log(p)), grid) ** 2 / 3
    np.testing.assert_allclose(bound.s, expected, rtol=2.0**-20)


def test_an_output_on_another_grid_is_rounded_once_more(rng):
    contract = FLOAT32_CONTRACT.relax(output=BFLOAT16)
    a = drawn(rng, contract, 5)
    bound = bounded(lambda xp, a: a * a, contract, a)
    inner = h(a * a, FLOAT32)
    assert_is(bound.e, inner + h(a * a + inner, BFLOAT16))


def test_without_variance_nothing_else_changes(rng):
    a = drawn(rng, BFLOAT16_CONTRACT, 4, 4)
    with_it, without = (
        bounds_of(xp.bounded(a) @ xp.bounded(a) * (5 / 3), BFLOAT16_CONTRACT)
        for xp in (reading(BFLOAT16_CONTRACT), reading(BFLOAT16_CONTRACT, variance=False))
    )
    assert np.array_equal(with_it.e, without.e)
    assert np.array_equal(with_it.v, without.v)
