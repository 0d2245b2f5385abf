"""The emulated array: where each operation rounds, and what it takes beside itself."""

import numpy as np
import pytest
from scipy.special import erf

from lora_ref.arrays import either, index_sum, namespace, norm, recomputed
from lora_ref.layers.softmax import softmax_weights
from lora_ref.verdict.choices import Choices, Fusion, ScaleSite
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT8_E4M3_CONTRACT,
    FLOAT16_CONTRACT,
    TF32_CONTRACT,
    Accumulator,
    ScaleSites,
)
from lora_ref.verdict.emulated_array import Emulated
from lora_ref.verdict.emulated_namespace import EmulatedNamespace
from lora_ref.verdict.grids import BFLOAT16, FLOAT8_E4M3, FLOAT16, FLOAT32, TF32

low = BFLOAT16.round


def reading(contract=BFLOAT16_CONTRACT, **choices):
    return EmulatedNamespace(contract, Choices(**choices))


@pytest.fixture
def pair(rng):
    """Two square matrices of bfloat16."""
    return low(rng.standard_normal((5, 5))), low(rng.standard_normal((5, 5)))


def test_an_elementwise_operation_rounds_its_exact_result_once(pair):
    a, b = pair
    x, y = map(reading().wrap, pair)
    assert np.array_equal((x + y).values, low(a + b))
    assert np.array_equal((x - y).values, low(a - b))
    assert np.array_equal((x * y).values, low(a * b))
    assert np.array_equal((x / y).values, low(a / b))
    assert np.array_equal((x**2).values, low(a * a))
    assert np.array_equal(x.xp.sqrt(abs(x)).values, low(np.sqrt(np.abs(a))))


def test_numbers_are_exact_until_the_result_is_rounded(pair):
    a, _ = pair
    x = reading().wrap(a)
    assert np.array_equal((x + 0.1).values, low(a + 0.1))
    assert np.array_equal((0.1 - x).values, low(0.1 - a))
    assert np.array_equal((0.1 * x).values, low(0.1 * a))
    assert np.array_equal((x / 3).values, low(a / 3))
    assert np.array_equal((0.1 / x).values, low(0.1 / a))


def test_a_factor_held_on_a_grid_is_rounded_to_it_first(pair):
    a, _ = pair
    held = BFLOAT16_CONTRACT.relax(scale=ScaleSites(held_on=BFLOAT16))
    x = reading(held).wrap(a)
    tenth = float(low(np.array([0.1]))[0])
    assert np.array_equal((0.1 * x).values, low(tenth * a))
    assert not np.array_equal((0.1 * x).values, low(0.1 * a))
    assert np.array_equal((x + 0.1).values, low(a + 0.1))


@pytest.mark.parametrize("factor", [-1, -1.0, 2.0, 0.25, np.float64(-8)], ids=str)
def test_a_sign_and_a_power_of_two_are_exact(factor, pair):
    a, b = pair
    for site in ScaleSite:
        xp = reading(scale=site)
        x, y = xp.wrap(a), xp.wrap(b)
        assert np.array_equal((factor * (x @ y)).values, float(factor) * (x @ y).values)
    assert np.array_equal((-x).values, -a)


@pytest.mark.parametrize("number", [np.float32(0.3), np.array(0.3), np.array(0.3, np.float32)])
def test_a_scalar_of_numpy_is_a_number(number, pair):
    a, b = pair
    xp = reading(scale=ScaleSite.LEFT)
    product = xp.wrap(a) @ xp.wrap(b)
    for found in (number * product, product * number):
        assert np.array_equal(found.values, (float(number) * product).values)


def test_numpy_arrays_beside_it_are_constants(pair):
    a, b = pair
    x = reading().wrap(a)
    for found, wanted in (
        (b + 1e-3 + x, low(low(b + 1e-3) + a)),
        (np.arange(5) * x, low(np.arange(5) * a)),
        ((b > 0) * x, (b > 0) * a),
    ):
        assert isinstance(found, Emulated)
        assert np.array_equal(found.values, wanted)
    assert np.array_equal((b @ x).values, (x.xp.wrap(b) @ x).values)
    assert np.array_equal((x @ b).values, (x @ x.xp.wrap(b)).values)


def test_comparisons_integers_and_booleans_are_numpys(pair):
    a, b = pair
    x = reading().wrap(a)
    xp = namespace(x, np.ones(1, bool))
    assert xp is x.xp
    for found, wanted in ((x <= 0, a <= 0), (x > 0.5, a > 0.5), (x == b, a == b), (x != a, a != a)):
        assert type(found) is np.ndarray
        assert np.array_equal(found, wanted)
    assert type(xp.arange(3)) is type(xp.asarray([1, 2], dtype=xp.int64)) is np.ndarray
    assert type(xp.reshape(np.arange(4), (2, 2))) is np.ndarray
    assert isinstance(xp.astype(a > 0, x.dtype), Emulated)


def test_numpy_functions_are_refused(pair):
    x = reading().wrap(pair[0])
    with pytest.raises(TypeError, match=r"take \.values"):
        np.asarray(x)
    with pytest.raises(TypeError, match="ufunc"):
        np.exp(x)
    with pytest.raises(AttributeError, match="has no function cumulative_sum"):
        _ = x.xp.cumulative_sum


def test_arrays_of_two_emulations_do_not_mix(pair):
    x, y = (reading().wrap(t) for t in pair)
    for operation in (lambda: x + y, lambda: x @ y, lambda: x.xp.concat([x, y]), lambda: x < y):
        with pytest.raises(TypeError, match="of two"):
            operation()


def test_a_matrix_product_accumulates_in_float32_and_is_stored_once(pair):
    a, b = (t.astype(np.float32) for t in pair)
    xp = reading()
    assert np.array_equal((xp.wrap(pair[0]) @ xp.wrap(pair[1])).values, low((a @ b).astype(float)))


@pytest.mark.parametrize(
    ("contract", "load"), [(TF32_CONTRACT, TF32), (FLOAT8_E4M3_CONTRACT, FLOAT8_E4M3)]
)
def test_a_matrix_product_loads_its_operands(contract, load, rng):
    a, b = (contract.inputs.round(rng.standard_normal((4, 4))) for _ in range(2))
    xp = reading(contract)
    x, y = xp.wrap(a), xp.wrap(b)
    product = load.round(a).astype(np.float32) @ load.round(b).astype(np.float32)
    assert np.array_equal((x @ y).values, contract.store.round(product.astype(float)))
    assert np.array_equal((x * y).values, contract.store.round(a * b))
    assert np.array_equal(index_sum(np.arange(4), y, 4).values, b)


def test_a_scale_is_applied_where_the_choices_say(pair):
    (a, b), s = pair, 0.7

    def product(a, b):
        return (a.astype(np.float32) @ b.astype(np.float32)).astype(float)

    wanted = {
        ScaleSite.RESULT: low(s * low(product(a, b))),
        ScaleSite.ACCUMULATOR: low(s * product(a, b)),
        ScaleSite.LEFT: low(product(low(s * a), b)),
        ScaleSite.RIGHT: low(product(a, low(s * b))),
        ScaleSite.LATER: low(s * low(product(a, b))),
    }
    for site, expected in wanted.items():
        xp = reading(scale=site)
        assert np.array_equal((s * (xp.wrap(a) @ xp.wrap(b))).values, expected)


def test_a_later_scale_passes_through_products_and_views_only(pair):
    a, b = pair
    xp = reading(scale=ScaleSite.LATER)
    x, y = xp.wrap(a), xp.wrap(b)
    after = low(0.7 * (x.T @ y).values)
    assert np.array_equal(((0.7 * x).T @ y).values, after)
    assert np.array_equal(xp.reshape((0.7 * x).mT @ y, (25,)).values, after.reshape(25))
    assert np.array_equal(((0.7 * x) + y).values, low(low(0.7 * a) + b))
    assert np.array_equal(xp.sum(0.7 * x).values, xp.sum(xp.wrap(low(0.7 * a))).values)


def test_fused_code_keeps_float32_and_stores_operands_of_products_if_elementwise(pair):
    (a, b), wide, sums = pair, FLOAT32.round, {}
    for fusion in (Fusion.ELEMENTWISE, Fusion.EVERYTHING):
        xp = reading(fusion=fusion)
        x, y = xp.wrap(a), xp.wrap(b)
        assert np.array_equal((x * y).values, wide(a * b))
        sums[fusion] = (x * y) @ y
    stored = low(a * b).astype(np.float32) @ b.astype(np.float32)
    kept = wide(a * b).astype(np.float32) @ b.astype(np.float32)
    assert np.array_equal(sums[Fusion.ELEMENTWISE].values, stored)
    assert np.array_equal(sums[Fusion.EVERYTHING].values, kept)


def test_softmax_norm_and_functions_are_computed_in_float32_and_stored_once(pair):
    a = pair[0]
    x = reading().wrap(a)
    single = a.astype(np.float32)
    assert np.array_equal(softmax_weights(x).values, low(softmax_weights(single).astype(float)))
    for f, name in ((np.exp, "exp"), (np.tanh, "tanh"), (erf, "erf")):
        assert np.array_equal(getattr(x.xp, name)(x).values, low(f(single).astype(float)))
    length = np.sqrt(np.sum(single * single, axis=1, keepdims=True).astype(float))
    assert np.array_equal(norm(x, axis=1).values, low(length))


def test_a_sum_goes_over_any_axes(rng):
    t = rng.integers(-8, 8, (2, 3, 4)).astype(float)
    x = reading().wrap(t)
    for axis in (None, 0, -1, (0, 2), (1, -3)):
        for keepdims in (False, True):
            found = x.xp.sum(x, axis=axis, keepdims=keepdims).values
            assert np.array_equal(found, np.sum(t, axis=axis, keepdims=keepdims))


def test_a_sum_is_added_on_the_accumulator():
    short = FLOAT16_CONTRACT.relax(accumulate=Accumulator(FLOAT16))
    for contract, total in ((BFLOAT16_CONTRACT, 2112), (short, 2048)):
        x = reading(contract).wrap([2048.0, *[1.0] * 64])
        assert x.xp.sum(x).values == total


@pytest.mark.parametrize("mask", [None, np.array([True, False, True, True, False])])
def test_recomputed_weights_are_exp_of_z_less_logsumexp(mask, rng):
    z = FLOAT32.round(5 * rng.standard_normal((3, 5)))
    for chosen in (False, True):
        xp = reading(TF32_CONTRACT, recompute=chosen)
        p = softmax_weights(xp.wrap(z), mask)
        assert (recomputed(p) is p) != chosen
    shown = np.where(True if mask is None else mask, np.exp(z), 0)
    wanted = shown / np.sum(shown, axis=-1, keepdims=True)
    u = FLOAT32.roundoff
    bound = (np.abs(z) + 2 * np.abs(np.log(np.sum(shown, -1, keepdims=True))) + 16) * u * wanted
    assert np.all(np.abs(recomputed(p).values - wanted) <= bound)


def test_recomputed_weights_of_a_row_that_sees_nothing_are_zero():
    xp = reading(recompute=True)
    p = softmax_weights(xp.wrap(np.ones((2, 3))), np.array([[True] * 3, [False] * 3]))
    assert np.array_equal(recomputed(p).values[1], [0, 0, 0])


def test_either_evaluates_the_alternative_of_the_choices_alone():
    asked = []
    for index in range(4):
        xp = reading(alternative=index)
        either(xp, lambda: asked.append("first"), lambda: asked.append("second"))
    assert asked == ["first", "second", "first", "second"]


def test_constants_of_a_kernel_are_stored():
    xp, tenth = reading(), low(np.array([0.1]))
    one = xp.wrap([1.0])
    for constant in (xp.asarray([0.1]), xp.where(one > 0, 0.1, one), xp.clip(one, None, 0.1)):
        assert constant.values == tenth
