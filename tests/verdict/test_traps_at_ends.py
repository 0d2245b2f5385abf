"""More mistakes that error-bounded readings were seen to make: at the ends of grids, in float64,
where a factor waits, where a mask is a large number."""

import numpy as np
import pytest
from bounded_readings import bounded, h, worst

from lora_ref.arrays import index_sum
from lora_ref.layers.activations import gelu
from lora_ref.verdict.accumulate import Sequential
from lora_ref.verdict.bounds import bounds
from lora_ref.verdict.bounds.arithmetic import Arithmetic
from lora_ref.verdict.bounds.enclosure import Enclosure
from lora_ref.verdict.bounds.logits import Logits
from lora_ref.verdict.choices import Choices, ScaleSite
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT8_E4M3_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    MERGED_FLOAT16,
    Accumulator,
    Contract,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.findings import Status
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT64
from lora_ref.verdict.judge import judge
from lora_ref.verdict.oracle import Oracle
from lora_ref.verdict.oracles import attention, lora_linear, lora_merged

IN_FLOAT64 = Contract("float64", FLOAT64, FLOAT64, Accumulator(FLOAT64), FLOAT64)
BOTH_ENDS = [ScaleSite.LEFT, ScaleSite.RIGHT]


def inside(y, bound):
    with np.errstate(invalid="ignore"):
        return np.all((abs(y - bound.v) <= bound.e) | ~np.isfinite(bound.e))


def test_a_factor_of_an_absolute_value_is_rounded():
    bound = bounded(lambda xp, a: 0.3 * xp.abs(a), BFLOAT16_CONTRACT, np.array([1.0, 3.0, 5.0]))
    assert np.all(bound.e >= h(0.3 * np.array([1.0, 3.0, 5.0]), BFLOAT16))


@pytest.mark.parametrize("contract", [BFLOAT16_CONTRACT, FLOAT16_CONTRACT])
def test_an_honest_gelu_is_admitted(contract, rng):
    x = contract.inputs.round(rng.standard_normal((100, 100)))
    oracle = Oracle(gelu, {"x": x})
    assert inside(emulate(oracle, contract, Choices())["y"], bounds(oracle, contract)["y"])


@pytest.mark.parametrize("site", BOTH_ENDS)
@pytest.mark.parametrize("scale", [8.0, 7.0])
def test_a_sum_may_overflow_where_the_factor_is_on_an_operand(site, scale):
    """800 · 100 is more than float16 holds; 100 · 100 and the scaled result are not."""
    A, B = np.array([[100.0], [-100.0], [1.0]]), np.array([[100.0, 100.0, 1.0]])
    oracle = lora_merged(np.ones((1, 1)), A, B, scale=scale)
    with np.errstate(over="ignore", invalid="ignore"):
        y = emulate(oracle, MERGED_FLOAT16, Choices(scale=site, order=Sequential()))["y"]
    assert not np.isfinite(y).all()
    assert inside(y, bounds(oracle, MERGED_FLOAT16)["y"])


@pytest.mark.parametrize("scale", [2.0**-11, 3 * 2.0**-12])
def test_a_sum_may_underflow_where_the_factor_is_on_an_operand(scale, rng):
    contract = FLOAT16_CONTRACT.relax(accumulate=Accumulator(FLOAT16))
    a, b = (FLOAT16.round(2.0**-7 * rng.uniform(1, 2, s)) for s in ((5, 51), (51, 3)))
    oracle = Oracle(lambda a, b: (scale * (a @ b), None), {"a": a, "b": b})
    small = emulate(Oracle(lambda a, b: ((scale * a) @ b, None), {"a": a, "b": b}), contract)["y"]
    assert inside(small, bounds(oracle, contract)["y"])


def two_factors(a, b, h):
    """A product of two operands that both have a factor."""
    return (5 / 3 * (a @ b)) @ (h * (0.25 * h)), None


@pytest.mark.parametrize("site", ScaleSite)
@pytest.mark.parametrize("seed", range(20))
def test_of_two_factors_one_may_wait_and_the_other_not(seed, site):
    """Where h² is subnormal on float16 it matters when it is divided by four."""
    rng = np.random.default_rng(seed)
    small = {"a": ((5, 3), 2.0**-7), "b": ((3, 4), 2.0**-7), "h": ((4, 7), 2.0**-6)}
    t = {n: FLOAT16.round(by * rng.standard_normal(s)) for n, (s, by) in small.items()}
    oracle = Oracle(two_factors, t)
    y = emulate(oracle, FLOAT16_CONTRACT, Choices(scale=site))["y"]
    assert inside(y, bounds(oracle, FLOAT16_CONTRACT)["y"])


@pytest.mark.parametrize("contract", [BFLOAT16_CONTRACT, FLOAT32_CONTRACT])
@pytest.mark.parametrize("s", [1e12, 2.0**40])
def test_a_scaled_operand_may_overflow_on_any_grid(contract, s, rng):
    """10³⁰ · 10¹² is beyond float32; B of 10⁻²⁰ brings the result back."""
    r = contract.inputs.round
    x, B = r(1e30 * rng.standard_normal((8, 16))), r(1e-20 * rng.standard_normal((12, 4)))
    W, A = r(rng.standard_normal((12, 16))), r(rng.standard_normal((4, 16)))
    y = np.full((8, 12), np.inf)
    found = judge(y, lora_linear(x, W, A, B, scale=s), contract, known_mistakes=False)
    assert found.status is Status.UNDECIDABLE


@pytest.mark.parametrize("contract", [BFLOAT16_CONTRACT, FLOAT32_CONTRACT])
def test_a_scaled_operand_may_be_subnormal_on_any_grid(contract, rng):
    r, s = contract.inputs.round, 2.0**-40
    u, B = r(1e-30 * rng.standard_normal((8, 4))), r(1e20 * rng.standard_normal((12, 4)))
    oracle = Oracle(lambda u, B: (s * (u @ B.T), None), {"u": u, "B": B})
    assert inside(r(r(s * u) @ B.T), bounds(oracle, contract)["y"])


def test_the_reference_itself_is_rounded_in_float64(rng):
    a, b, c = (rng.uniform(-1, 1, 2000) for _ in range(3))
    bound = bounded(lambda xp, a, b, c: (a + b) + c, IN_FLOAT64, a, b, c)
    assert worst(a + (b + c), bound) <= 1


def test_a_weight_is_rounded_where_it_is_largest():
    """γ is of the weight with its error, which a bfloat16 accumulator makes large."""
    K, u = 256, BFLOAT16.roundoff
    arithmetic = Arithmetic(
        BFLOAT16_CONTRACT.relax(accumulate=Accumulator(BFLOAT16)), np.dtype(float), False
    )
    e = np.full((1, K), 1.0)
    logits = Logits(Enclosure(np.zeros((1, K)), e, None, np.dtype(float)), None, arithmetic)
    grown = 1 / (1 + (K - 1) * np.exp(-2.0))  # one logit 1 up, all others 1 down
    gamma = arithmetic.gamma(K + 2)
    assert gamma > 20 * u
    assert np.all(logits.e >= grown * (1 + gamma) - 1 / K)


@pytest.mark.parametrize("z", [(3004.997, 2987.946), (4111.875, 4093.875), (20.0, 3.0, 2.5)])
def test_weights_of_peaked_rows_have_the_same_errors_in_float32_and_float64(z):
    v = np.array([z])
    e = np.maximum(h(v, BFLOAT16), 1e-3)
    found = {}
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        arithmetic = Arithmetic(BFLOAT16_CONTRACT, dtype, False)
        found[dtype.name] = Logits(Enclosure(v, e.astype(dtype), None, dtype), None, arithmetic).e
    assert np.all(found["float32"] >= found["float64"] * (1 - 2.0**-14))
    assert np.all(found["float32"] <= found["float64"] * 1.01 + 1e-6)


@pytest.mark.parametrize("number", [-1e4, -65504.0, -1e9, -1e12, -3.3e38])
@pytest.mark.parametrize("contract", [FLOAT32_CONTRACT, BFLOAT16_CONTRACT, FLOAT16_CONTRACT])
def test_a_mask_of_large_negative_numbers_hides_no_mistake(contract, number, rng):
    """Its half ulp is large, and says nothing of the keys that are not masked."""
    r = contract.inputs.round
    number = float(max(r(np.array(number)), -contract.inputs.largest))
    q, k, v, do = (r(rng.standard_normal((2, 24, 16))) for _ in range(4))
    allowed = np.tril(np.ones((24, 24))) > 0
    by_number = attention(q, k, v, mask=np.where(allowed, 0.0, number), do=do)
    by_boolean = bounds(attention(q, k, v, mask=allowed, do=do), contract)
    for name, bound in bounds(by_number, contract).items():
        assert np.isfinite(bound.e).all()
        assert np.median(bound.e) < 3 * np.median(by_boolean[name].e)


def test_a_row_that_a_number_masks_whole_is_as_its_scores_say(rng):
    q, k, v = (FLOAT16.round(rng.standard_normal((1, 4, 8))) for _ in range(3))
    mask = np.zeros((4, 4))
    mask[1] = -65504.0
    bound = bounds(attention(q, k, v, mask=mask), FLOAT16_CONTRACT)["y"]
    assert np.isinf(bound.e[0, 1]).all() or np.all(bound.e[0, 1] >= 0.1)


def test_a_gradient_that_is_gathered_by_index_is_not_loaded(rng):
    index, d = rng.integers(0, 5, 12), BFLOAT16.round(rng.standard_normal((12, 3)))

    def kernel(d):
        return index_sum(index, d, 5), None

    e8, e16 = (bounds(Oracle(kernel, {"d": d}), c)["y"].e
               for c in (FLOAT8_E4M3_CONTRACT, BFLOAT16_CONTRACT))  # fmt: skip
    assert np.array_equal(e8, e16)
