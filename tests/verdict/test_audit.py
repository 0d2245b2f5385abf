"""The audit names what an implementation does instead of what it claims, and no more than it is."""

import numpy as np
import pytest

from lora_ref.verdict.audit import audit
from lora_ref.verdict.contract import BFLOAT16_CONTRACT, FLOAT32_CONTRACT
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32, TF32
from lora_ref.verdict.oracles import lora_linear

SIZES = {"x": (24, 64), "W": (40, 64), "A": (3, 64), "B": (40, 3)}


def oracle_of(rng, size_of_x=1.0):
    t = {n: FLOAT32.round(rng.standard_normal(s)) for n, s in SIZES.items()}
    return lora_linear(t["x"] * size_of_x, t["W"], t["A"], t["B"], scale=1.25)


def said_of(oracle, load):
    actual = emulate(oracle, FLOAT32_CONTRACT.relax(load=load))
    return [d.says for d in audit(actual, oracle, FLOAT32_CONTRACT)]


@pytest.mark.parametrize("load", [TF32, FLOAT16])
def test_claims_that_the_inputs_do_not_tell_apart_are_named_together(load, rng):
    """tf32 and float16 have the same precision, and here nothing is small enough to differ."""
    (said,) = said_of(oracle_of(rng), load)
    assert said == "operands loaded as tf32 or float16 (these inputs do not tell them apart)"


@pytest.mark.parametrize(("load", "name"), [(TF32, "tf32"), (FLOAT16, "float16")])
def test_claims_that_small_inputs_tell_apart_have_a_line_of_their_own(load, name, rng):
    """Below 2^-14 float16 loses precision."""
    said = said_of(oracle_of(rng, 2.0**-18), load)
    assert said == [f"operands loaded as {name}"]


def test_claims_that_are_both_near_but_apart_have_a_line_each(rng):
    """Half of x is subnormal on float16, which costs y less than an ulp of float32."""
    oracle = oracle_of(rng)
    x, W, a = oracle.inputs["x"].copy(), oracle.static["W"], oracle.inputs["adapter"]
    x[:, ::2] *= 2.0**-15
    x[:, 1::2] *= 2.0**-3
    said = said_of(lora_linear(x, W, a.A, a.B, scale=1.25), TF32)
    assert said == ["operands loaded as tf32", "operands loaded as float16"]


@pytest.mark.parametrize(("load", "large"), [(TF32, "tf32"), (FLOAT16, "float16")])
def test_an_overflow_tells_claims_apart(load, large, rng):
    """On float16 a row overflows; all that is finite is the same."""
    oracle = oracle_of(rng)
    x = oracle.inputs["x"].copy()
    x[3] *= 2.0**18
    A, B = oracle.inputs["adapter"].A, oracle.inputs["adapter"].B
    said = said_of(lora_linear(x, oracle.static["W"], A, B, scale=1.25), load)
    assert f"operands loaded as {large}" in said
    assert not any("do not tell" in text for text in said)


def test_a_departure_that_alone_explains_the_outputs_is_named_alone(rng):
    assert said_of(oracle_of(rng), BFLOAT16) == ["operands loaded as bfloat16"]


def tf32_kernel(x, W, A, B, dy, scale):
    """LoRA in float32, in BLAS's order of sums, with the operands of every product in tf32."""

    def product(a, b):
        return TF32.round(a).astype(np.float32) @ TF32.round(b).astype(np.float32)

    u, du = product(x, A.T), scale * product(dy, B)
    y = product(x, W.T) + scale * product(u, B.T)
    dx = product(dy, W) + product(du, A)
    return {"y": y, "dx": dx, "dA": product(du.T, x), "dB": scale * product(dy.T, u)}


@pytest.mark.parametrize("seed", range(8))
def test_tf32_loads_are_named_whatever_the_order_of_the_sums(seed):
    """A sum in another order carries some operands across a tie, by all of a tf32's ulp."""
    rng = np.random.default_rng(seed)
    t = {n: rng.standard_normal(s).astype(np.float32) for n, s in SIZES.items()}
    t["dy"] = rng.standard_normal((24, 40)).astype(np.float32)
    oracle = lora_linear(**t, scale=1.25)
    actual = {n: a.astype(float) for n, a in tf32_kernel(**t, scale=np.float32(1.25)).items()}
    said = [d.says for d in audit(actual, oracle, FLOAT32_CONTRACT)]
    assert said == ["operands loaded as tf32 or float16 (these inputs do not tell them apart)"]


@pytest.mark.parametrize("where", [(slice(None), 5), (3, slice(None)), (3, 5)])
def test_an_error_in_one_place_is_no_accumulator(where, rng):
    t = {n: BFLOAT16.round(rng.standard_normal(s)) for n, s in SIZES.items()}
    oracle = lora_linear(**t, scale=1.25)
    actual = dict(emulate(oracle, BFLOAT16_CONTRACT))
    actual["y"] = actual["y"].copy()
    actual["y"][where] += 8
    assert audit(actual, oracle, BFLOAT16_CONTRACT) == ()
