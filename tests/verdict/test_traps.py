"""Mistakes that error-bounded readings were seen to make, each by the name of what must hold."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
from bounded_readings import assert_is, bounded, h, reading, stored, worst

from lora_ref.adapters import LoRA
from lora_ref.arrays import namespace
from lora_ref.layers.attention import attention
from lora_ref.layers.softmax import softmax_weights
from lora_ref.verdict.bounds import bounds, bounds_of
from lora_ref.verdict.bounds.products import Product
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT8_E4M3_CONTRACT,
    FLOAT8_E5M2_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    ScaleSites,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.grids import FLOAT16
from lora_ref.verdict.judge import judge
from lora_ref.verdict.oracle import Oracle
from lora_ref.verdict.oracles import lora_linear
from lora_ref.verdict.statistics import statistics

SIZES = {"x": (6, 64), "W": (11, 64), "A": (3, 64), "B": (11, 3), "dy": (6, 11)}


def drawn(rng, contract, **sizes):
    return {n: contract.inputs.round(rng.standard_normal(s)) for n, s in sizes.items()}


def gamma(terms):
    return (1 + 2.0**-24) ** (terms + 1) - 1 + (terms + 2) * 2.0**-53


def test_a_factor_never_moves_upstream_of_a_stored_value(rng):
    """s (u Bᵀ) with u stored: admitted are s on u, on Bᵀ or on the product, never s on x or A."""
    contract, s = BFLOAT16_CONTRACT, 5 / 3
    t = drawn(rng, contract, x=(6, 3), A=(4, 3), B=(5, 4))
    x, A, B = t.values()
    u, grid = x @ A.T, contract.store
    e_u = stored(u, gamma(3) * abs(x) @ abs(A.T), contract)
    size_u = abs(u) + e_u
    inside = size_u @ abs(B.T) - abs(u) @ abs(B.T) + gamma(4) * size_u @ abs(B.T)
    on_result = s * stored(u @ B.T, inside, contract)
    on_u = s * inside + h(s * size_u, grid) @ abs(B.T) * (1 + 2 * gamma(4))
    on_B = s * inside + size_u @ h(s * abs(B.T), grid) * (1 + 2 * gamma(4))
    most = np.maximum(on_result, np.maximum(on_u, on_B))
    bound = bounded(lambda xp, x, A, B: s * ((x @ A.T) @ B.T), contract, x, A, B)
    assert_is(bound.e, stored(s * u @ B.T, most, contract))


def doubled_product(a, b, c, before):
    """c a b with the factor applied to a, or to the product."""
    return ((c * a) @ b if before else c * (a @ b)), None


@pytest.mark.parametrize("before", [True, False], ids=["on a", "on the product"])
@pytest.mark.parametrize(("c", "size"), [(2.0, 0.75), (2.0**-4, 2.0**-8)])
@pytest.mark.parametrize("contract", [FLOAT8_E5M2_CONTRACT, FLOAT8_E4M3_CONTRACT])
def test_a_power_of_two_may_bring_an_operand_to_the_ends_of_the_grid_it_is_loaded_on(
    contract, c, size, before, rng
):
    """bfloat16 holds c a exactly; float8, which the product takes it in, need not."""
    top = contract.load.largest if c > 1 else 1.0
    a = contract.inputs.round(size * top * rng.uniform(0.5, 1, (5, 7)))
    b = contract.inputs.round(rng.standard_normal((7, 3)))
    oracle = Oracle(partial(doubled_product, c=c, before=before), {"a": a, "b": b})
    (bound,) = bounds(oracle, contract).values()
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        written_first = contract.output.round(contract.load.round(c * a) @ b)
    assert np.all((abs(written_first - bound.v) <= bound.e) | (bound.e == np.inf))


def test_a_sum_of_two_rounds_at_its_value_and_not_at_the_sum_of_sizes(rng):
    contract = BFLOAT16_CONTRACT
    a = contract.inputs.round(rng.uniform(1, 2, 9))
    b = contract.inputs.round(-a * 0.875)
    bound = bounded(lambda xp, a, b: a + b, contract, a, b)
    assert_is(bound.e, h(abs(a + b), contract.store))


def test_a_variance_takes_half_an_ulp_at_the_value_and_not_at_its_upper_end():
    """1.99 with an error of 0.1: the bound rounds above 2, the typical rounding is below."""
    contract = BFLOAT16_CONTRACT
    a, one = np.array([1.9921875]), np.ones(1)

    def text(xp, a, one):
        noise = (100 * one) * (1.0078125 * one)  # stored at 2^6, an error of 2^−2
        return a + noise - noise

    bound = bounded(lambda xp, a, one: (a * one) * one, contract, a, one)
    assert_is(bound.e, h(a, contract.store) + h(a + h(a, contract.store), contract.store))
    np.testing.assert_allclose(bound.s, 2 * h(a, contract.store) ** 2 / 3, rtol=2.0**-40)


@pytest.mark.parametrize("site", ["result", "operand"])
def test_overflow_is_seen_at_every_admitted_rounding(site):
    """In float16 u Bᵀ overflows before s < 1 is applied, and s B before it meets a small u."""
    contract = FLOAT16_CONTRACT
    u, B, s = (300.0, 300.0, 1 / 3) if site == "result" else (2.0**-8, 3000.0, 100 / 3)
    u, B = np.full((1, 1), u), np.full((1, 1), B)
    assert abs(s * u * B).item() < FLOAT16.largest
    assert np.isinf(bounded(lambda xp, u, B: s * (u @ B), contract, u, B).e).all()


def test_overflow_in_a_partial_sum_is_seen():
    parts = [np.array([t]) for t in (60000.0, 10000.0, -50000.0)]
    parts = [FLOAT16.round(t) for t in parts]
    assert np.isinf(bounded(lambda xp, a, b, c: a + b + c, FLOAT16_CONTRACT, *parts).e).all()


@pytest.mark.parametrize("factor", [1.0, 2.0**-20, 2.0**-60, 2.0**-70])
def test_variances_of_float32_do_not_underflow(factor, rng):
    """They are about 2^−50 times the square of numbers that may be small themselves."""
    t = drawn(rng, FLOAT32_CONTRACT, **SIZES)
    t = {n: factor * a if n in ("x", "dy") else a for n, a in t.items()}
    oracle = lora_linear(t["x"], t["W"], t["A"], t["B"], scale=5 / 3, dy=t["dy"])
    value = emulate(oracle, FLOAT32_CONTRACT)
    for name, bound in bounds(oracle, FLOAT32_CONTRACT).items():
        found = statistics(value[name] - bound.v, bound.s)
        assert found.count == bound.v.size
        assert 0.1 < found.rms_z < 3  # neither lost nor of another magnitude


def test_a_variance_that_float32_loses_is_not_known(rng):
    """Keys of weight e^−60: the squares of their weights are no numbers of float32."""
    q, k, v, do = (FLOAT32_CONTRACT.inputs.round(rng.standard_normal((9, 4))) for _ in range(4))
    k[3], q[:, 0] = [-60.0, 0, 0, 0], 2.0
    oracle = Oracle(attention, {"q": q, "k": k, "v": v}, {"scale": 0.5}, do)
    found = bounds(oracle, FLOAT32_CONTRACT)
    assert np.isnan(found["dv"].s[3]).all()
    assert np.isfinite(found["dv"].e).all()
    assert np.all(found["dv"].s[[0, 1, 2, 4, 5, 6, 7, 8]] > 0)
    value = emulate(oracle, FLOAT32_CONTRACT)["dv"]
    assert statistics(value - found["dv"].v, found["dv"].s).count == 8 * 4


def test_where_a_variance_is_lost_nothing_is_said_of_chance():
    error, variance = np.array([1e-30, 1.0]), np.array([0.0, 4.0])
    found = statistics(error, variance)
    assert (found.count, found.max_z) == (1, 0.5)
    assert statistics(error, np.zeros(2)).suspicion() == ""


def test_the_variance_of_float16_has_the_floor_of_its_subnormal_numbers(rng):
    v = 2.0**-20 * rng.standard_normal((50, 50))
    a, eye = FLOAT16.round(v), np.eye(50)
    third = bounded(lambda xp, a, eye: a * (eye * 0 + 0.34375), FLOAT16_CONTRACT, a, eye)
    error = FLOAT16.round(a * 0.34375) - a * 0.34375
    found = statistics(error, third.s)
    assert 0.3 < found.rms_z < 1.1
    assert found.suspicion() == ""


@pytest.mark.parametrize("number", [3, 3.0, np.float32(3), np.float64(3), np.array(3.0)], ids=repr)
def test_a_number_of_any_kind_is_a_factor_and_no_array(number, rng):
    contract = BFLOAT16_CONTRACT
    t = drawn(rng, contract, a=(4, 5), b=(5, 6))
    expected = bounded(lambda xp, a, b: 3.0 * (a @ b), contract, *t.values())
    for text in (lambda xp, a, b: number * (a @ b), lambda xp, a, b: (a @ b) * number):
        bound = bounded(text, contract, *t.values())
        assert np.array_equal(bound.e, expected.e)
        assert bound.v.shape == (4, 6)
    third = bounded(lambda xp, a, b: (a @ b) / number, contract, *t.values())
    assert np.array_equal(
        third.e, bounded(lambda xp, a, b: 1 / 3 * (a @ b), contract, *t.values()).e
    )


def test_a_sign_and_a_subtraction_cost_nothing(rng):
    contract = BFLOAT16_CONTRACT
    t = drawn(rng, contract, a=(4, 5), b=(5, 6), c=(4, 6))
    plus = bounded(lambda xp, a, b, c: a @ b + c, contract, *t.values())
    minus = bounded(lambda xp, a, b, c: a @ b - -1 * c, contract, *t.values())
    assert np.array_equal(plus.e, minus.e)
    negative = bounded(lambda xp, a, b, c: -(a @ b + c), contract, *t.values())
    assert np.array_equal(negative.v, -plus.v)
    assert np.array_equal(negative.e, plus.e)
    assert np.array_equal(negative.s, plus.s)


@pytest.mark.parametrize("c", [1.0, -1.0])
def test_a_view_shares_the_sizes_of_what_it_views(c, rng):
    xp = reading(BFLOAT16_CONTRACT, np.float32)
    t = xp.bounded(rng.standard_normal((4, 6)))
    whole, turned = t.stored(), (c * t.T).stored()
    assert np.shares_memory(whole.size, turned.size)
    assert np.shares_memory((t @ t.T).stored().size, np.empty(0)) is False
    product = t @ t.T
    assert np.shares_memory(product.stored().size, product.T[1:].stored().size)
    assert np.shares_memory(product.stored().e, product.T[1:].stored().e)


def test_structural_calls_move_errors_with_their_elements(rng):
    """And masks and indices of any integer type stay what they are."""
    contract = BFLOAT16_CONTRACT
    t = drawn(rng, contract, a=(4, 6), b=(4, 6))
    plain = bounded(lambda xp, a, b: a * b, contract, *t.values())
    index = np.array([2, 0, 2], dtype=np.uint8)
    calls = {
        "concat": (
            lambda xp, p, a: xp.concat([p, a], axis=0),
            lambda f, zero: np.concatenate([f, zero]),
        ),
        "stack": (
            lambda xp, p, a: xp.stack([a, p], axis=1),
            lambda f, zero: np.stack([zero, f], 1),
        ),
        "take": (lambda xp, p, a: xp.take(p, index, axis=0), lambda f, zero: f[index]),
        "moveaxis": (lambda xp, p, a: xp.moveaxis(p, 0, 1), lambda f, zero: f.T),
        "reshape": (lambda xp, p, a: xp.reshape(p, (3, 8)), lambda f, zero: f.reshape(3, 8)),
        "broadcast": (
            lambda xp, p, a: xp.broadcast_to(p[None], (2, 4, 6)),
            lambda f, zero: np.stack([f, f]),
        ),
        "flip": (lambda xp, p, a: xp.flip(p, axis=1), lambda f, zero: f[:, ::-1]),
        "slice": (lambda xp, p, a: p[1:, ::2], lambda f, zero: f[1:, ::2]),
        "where": (
            lambda xp, p, a: xp.where(np.eye(4, 6, dtype=np.uint8) == 1, p, a),
            lambda f, zero: np.where(np.eye(4, 6) == 1, f, zero),
        ),
    }
    for name, (call, moved) in calls.items():
        bound = bounded(lambda xp, a, b, f=call: f(xp, a * b, a), contract, *t.values())
        zero = np.zeros_like(plain.e)
        assert np.array_equal(bound.e, moved(plain.e, zero)), name
        assert np.array_equal(bound.s, moved(plain.s, zero)), name
        assert np.array_equal(bound.v, moved(plain.v, t["a"])), name
    xp = reading(contract)
    assert xp.concat([index, index]).dtype == np.uint8


def test_joined_parts_with_different_factors_keep_each_its_own(rng):
    contract = BFLOAT16_CONTRACT
    t = drawn(rng, contract, a=(4, 5), b=(5, 6))
    bound = bounded(
        lambda xp, a, b: xp.concat([3 * (a @ b), -1 * (a @ b)], axis=0), contract, *t.values()
    )
    tripled, plain = (
        bounded(lambda xp, a, b, c=c: c * (a @ b), contract, *t.values()) for c in (3, 1)
    )
    assert np.array_equal(bound.e, np.concatenate([tripled.e, plain.e]))
    assert np.array_equal(bound.v, np.concatenate([tripled.v, -plain.v]))


def test_the_graph_dies_with_the_check(rng):
    """No memo outlives bounds(), and no cycle keeps the intermediates until a collection."""
    contract, seen = BFLOAT16_CONTRACT, []
    t = drawn(rng, contract, q=(5, 4), k=(7, 4), v=(7, 3), do=(5, 3))
    do = t.pop("do")

    def kernel(q, k, v):
        o, backward = attention(q, k, v)
        seen.extend([weakref.ref(namespace(q)), *(weakref.ref(node) for _, node in o.terms)])
        return o, backward

    gc.collect()
    gc.disable()
    try:
        found = bounds(Oracle(kernel, t, cotangent=do), contract)
        assert len(seen) == 2
        assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()
    assert found["y"].v.shape == (5, 3)


def test_a_value_that_two_outputs_need_is_computed_once(rng, monkeypatch):
    """dy @ B is in dx and in dA: within one check the memo shares it."""
    t = drawn(rng, BFLOAT16_CONTRACT, **SIZES)
    xp, enclose, asked = reading(BFLOAT16_CONTRACT), Product._enclose, []
    x, W, A, B, dy = (xp.bounded(t[n]) for n in ("x", "W", "A", "B", "dy"))
    _, backward = LoRA(A, B, 5 / 3).apply(x, W)
    dx, adapter = backward(dy)

    def counted(self, c):
        asked.append((self, c))
        return enclose(self, c)

    monkeypatch.setattr(Product, "_enclose", counted)
    for output in (dx, adapter.A, dx):
        bounds_of(output, BFLOAT16_CONTRACT)
    assert len(asked) == len(set(asked)) == 5  # dy W, dy B, s dy B, (dy B) A, (dy B)ᵀ x


@pytest.mark.peers
def test_torch_tensors_which_have_no_namespace_of_their_own_run_the_same_kernels(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    t = drawn(rng, BFLOAT16_CONTRACT, **SIZES)
    x, W, A, B, dy = (torch.tensor(t[n]).to(torch.bfloat16) for n in SIZES)
    assert not hasattr(x, "__array_namespace__")
    y, backward = LoRA(A, B, 5 / 3).apply(x, W)
    dx, adapter = backward(dy)
    oracle = lora_linear(x, W, A, B, scale=5 / 3, dy=dy)
    actual = {"y": y, "dx": dx, "dA": adapter.A, "dB": adapter.B}
    assert judge(actual, oracle, BFLOAT16_CONTRACT).status in ("exact", "rounding")
    for name, bound in bounds(oracle, BFLOAT16_CONTRACT).items():
        assert worst(actual[name].double().numpy(), bound) <= 1


@pytest.mark.parametrize("contract", [FLOAT32_CONTRACT, BFLOAT16_CONTRACT], ids=lambda c: c.name)
def test_what_overflows_a_wide_grid_is_undecidable_too(contract):
    a = contract.inputs.round(np.array([1e20, 1.0]))
    assert list(np.isinf(bounded(lambda xp, a: a * a, contract, a).e)) == [True, False]


def test_a_factor_inside_a_chain_of_products_may_wait_for_the_last_of_them(rng):
    """(5/3 (a b)) c as 5/3 ((a b) c): r(5/3 r(r(a b) c))."""
    contract, r = BFLOAT16_CONTRACT, BFLOAT16_CONTRACT.store.round
    a, c = (contract.inputs.round(rng.uniform(1, 2, s)) for s in ((400, 1), (1, 400)))
    b = np.array([[1.0078125]])
    later = r(5 / 3 * r(r(a @ b) @ c))
    waiting, strict = (
        bounded(
            lambda xp, a, b, c: (5 / 3 * (a @ b)) @ c,
            contract.relax(scale=ScaleSites(operand=False, result=result)),
            *(a, b, c),
        )
        for result in (True, False)
    )
    assert worst(later, waiting) <= 1
    assert np.any(waiting.e > strict.e)


def test_a_weight_that_underflows_may_be_zero():
    """e^−200 is 0 in float16, and so is its size where companions are in float32."""
    z = np.array([[0.0, -200.0]])
    bound = bounded(lambda xp, z: softmax_weights(z), FLOAT16_CONTRACT, z, dtype=np.float32)
    assert bound.v[0, 1] > 0
    assert worst(np.array([[1.0, 0.0]]), bound) <= 1


def test_variances_of_subnormal_numbers_of_float32_have_a_floor():
    a = np.array([FLOAT32_CONTRACT.inputs.round(np.array(1e-22))])
    bound = bounded(lambda xp, a: a * a, FLOAT32_CONTRACT, a)
    least = FLOAT32_CONTRACT.store.smallest / 2
    np.testing.assert_allclose(bound.s, least**2 / 3, rtol=2.0**-40)
