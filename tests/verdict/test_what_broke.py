"""Honest implementations that earlier engines called wrong, and the rule that each one taught.

The numbers behind these are those of the first engine: 43 false bugs in 64,320 tensors, each a
legitimate order of evaluation or a kernel's trick that the contract did not have.
"""

import itertools

import numpy as np
import pytest
from bounded_readings import bounded, worst

from lora_ref.verdict.bounds import bounds
from lora_ref.verdict.choices import Choices, ScaleSite
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    Forms,
    ScaleSites,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.findings import Status
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32
from lora_ref.verdict.incoming import received
from lora_ref.verdict.judge import judge
from lora_ref.verdict.oracles import attention, dora_linear, lora_linear

SIZES = {"x": (24, 64), "W": (40, 64), "A": (3, 64), "B": (40, 3), "dy": (24, 40)}
FINE = (Status.EXACT, Status.ROUNDING)


def drawn(rng, grid, factor=1.0, **sizes):
    return {n: grid.round(factor * rng.standard_normal(s)) for n, s in (sizes or SIZES).items()}


def adapted(t, s=5 / 3):
    return lora_linear(t["x"], t["W"], t["A"], t["B"], scale=s, b=t.get("b"), dy=t["dy"])


def test_a_three_terms_may_be_added_in_any_order(rng):
    """y = x Wᵀ + s u Bᵀ + b: every order of the three, each sum rounded to bfloat16."""
    t = drawn(rng, BFLOAT16, **SIZES, b=(40,))
    oracle, r = adapted(t), BFLOAT16.round
    u = r(t["x"] @ t["A"].T)
    terms = [r(t["x"] @ t["W"].T), r(5 / 3 * r(u @ t["B"].T)), np.broadcast_to(t["b"], (24, 40))]
    bound = bounds(oracle, BFLOAT16_CONTRACT)["y"]
    two_roundings = np.zeros(bound.v.shape)
    for i, j, k in itertools.permutations(range(3)):
        y = r(r(terms[i] + terms[j]) + terms[k])
        assert worst(y, bound) <= 1
        found = judge(y, oracle, BFLOAT16_CONTRACT, left_out=("dx", "dA", "dB", "db")).finding("y")
        assert found.status in FINE
        two_roundings = np.maximum(two_roundings, abs(y - (terms[0] + terms[1] + terms[2])))
    at_value = bounded(lambda xp, a, b: a + b, BFLOAT16_CONTRACT, bound.v, 0 * bound.v).e
    assert np.any(two_roundings > at_value)  # a single rounding at |v| would not have been enough


@pytest.mark.parametrize("site", ScaleSite)
def test_b_a_factor_may_be_rounded_on_another_operand(site, rng):
    t = drawn(rng, BFLOAT16)
    oracle = adapted(t)
    value = emulate(oracle, BFLOAT16_CONTRACT, Choices(scale=site))
    outcome = judge(value, oracle, BFLOAT16_CONTRACT)
    assert all(f.status in FINE for f in outcome.findings), [f.line() for f in outcome.findings]


def test_b_the_sites_are_needed(rng):
    """5/3 a is above 2 where a b is below: (s a) b rounds twice as far as s (a b)."""
    a = BFLOAT16.round(rng.uniform(1.21, 1.25, (300, 1)))
    b = BFLOAT16.round(rng.uniform(1.55, 1.6, (1, 300)))
    strict = BFLOAT16_CONTRACT.relax(scale=ScaleSites(operand=False, result=False))
    moved = BFLOAT16.round(BFLOAT16.round(5 / 3 * a) @ b)
    admitted, one_site = (
        bounded(lambda xp, a, b: 5 / 3 * (a @ b), contract, a, b)
        for contract in (BFLOAT16_CONTRACT, strict)
    )
    assert worst(moved, admitted) <= 1 < worst(moved, one_site)


def test_c_dora_as_peft_computes_it_is_judged_by_its_own_formula(rng):
    """y = x Wᵀ + (g − 1) x Wᵀ + g s (x Aᵀ) Bᵀ, where the definition has x W'ᵀ."""
    t, r, s = drawn(rng, BFLOAT16), BFLOAT16.round, 1.5
    m = r(1 + 0.1 * rng.standard_normal(40))
    oracle = dora_linear(t["x"], t["W"], t["A"], t["B"], m, scale=s)
    V = r(t["W"] + r(s * r(t["B"] @ t["A"])))
    g = r(m / r(np.sqrt((V * V).sum(1))))
    base, update = r(t["x"] @ t["W"].T), r(s * r(r(t["x"] @ t["A"].T) @ t["B"].T))
    peft = r(base + r(r(r(g - 1) * base) + r(g * update)))
    merged = r(t["x"] @ r(g[:, None] * V).T)
    for y in (peft, merged):
        assert judge(y, oracle, BFLOAT16_CONTRACT).finding("y").status in FINE
    one_formula = BFLOAT16_CONTRACT.relax(forms=Forms(alternatives=False))
    admitted = bounds(oracle, one_formula)["y"]
    assert max(worst(peft, admitted), worst(merged, admitted)) > 1


def test_d_an_overflow_of_float16_is_undecidable_and_no_bug(rng):
    t = drawn(rng, FLOAT16)
    t["x"], t["A"] = FLOAT16.round(t["x"] * 50), FLOAT16.round(t["A"] * 200)
    oracle = adapted(t)
    value = emulate(oracle, FLOAT16_CONTRACT)
    assert not np.isfinite(value["y"]).all()
    outcome = judge(value, oracle, FLOAT16_CONTRACT)
    assert outcome.finding("y").status is Status.UNDECIDABLE
    assert outcome.finding("y").undecidable >= np.count_nonzero(~np.isfinite(value["y"]))
    assert outcome.status is not Status.BUG


def _attention(rng, grid, T=59, d=16):
    """Logits of up to ±200 leave a logsumexp whose rounding shows in every recomputed weight."""
    q, k, v, do = (grid.round(rng.standard_normal((2, 3, T, d))) for _ in range(4))
    return {"q": grid.round(8 * q), "k": grid.round(4 * k), "v": v, "do": do}


def test_e_weights_recomputed_from_a_stored_logsumexp_are_admitted(rng):
    t = _attention(rng, FLOAT32)
    oracle = attention(t["q"], t["k"], t["v"], causal=True, do=t["do"])
    value = emulate(oracle, FLOAT32_CONTRACT, Choices(recompute=True, alternative=1))
    outcome = judge(value, oracle, FLOAT32_CONTRACT)
    assert all(f.status in FINE for f in outcome.findings), [f.line() for f in outcome.findings]
    stored = bounds(oracle, FLOAT32_CONTRACT.relax(forms=Forms(recomputed=False)))
    admitted = bounds(oracle, FLOAT32_CONTRACT)
    assert np.max(admitted["dv"].e / stored["dv"].e) > 1.5  # where one key has all the weight


def _sdpa(torch, t, dtype, causal):
    q, k, v = (torch.tensor(t[n]).to(dtype).requires_grad_() for n in "qkv")
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    y.backward(torch.tensor(t["do"]).to(dtype))
    return {"y": y, "dq": q.grad, "dk": k.grad, "dv": v.grad}


@pytest.mark.peers
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_e_f_float32_attention_of_torch_is_no_bug_and_not_suspect(seed, causal):
    """With four ulps for exp: that it first looked suspect was the logsumexp, and not exp."""
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    assert FLOAT32_CONTRACT.exp_ulps == 4
    t = _attention(np.random.default_rng(seed), FLOAT32)
    actual = _sdpa(torch, t, torch.float32, causal)
    oracle = attention(t["q"], t["k"], t["v"], causal=causal, do=t["do"])
    outcome = judge(actual, oracle, FLOAT32_CONTRACT)
    assert all(f.status in FINE for f in outcome.findings), [f.line() for f in outcome.findings]


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("causal", [True, False])
def test_e_f_attention_of_torch_in_16_bits_is_no_bug_and_not_suspect(dtype, causal, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    contract = {"bfloat16": BFLOAT16_CONTRACT, "float16": FLOAT16_CONTRACT}[dtype]
    q, k, v, do = (contract.inputs.round(rng.standard_normal((2, 3, 59, 16))) for _ in range(4))
    t = {"q": q, "k": k, "v": v, "do": do}
    actual = _sdpa(torch, t, getattr(torch, dtype), causal)
    oracle = attention(q, k, v, causal=causal, do=do)
    outcome = judge(actual, oracle, contract)
    assert all(f.status in FINE for f in outcome.findings), [f.line() for f in outcome.findings]


@pytest.mark.peers
@pytest.mark.parametrize("length", [33, 100, 200])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_that_torch_stores_between_tiles_are_no_bug(dtype, length, rng):
    """Scores near 0: dv is a sum over all queries, of which torch rounds a part each 32 or 64."""
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    contract = {"bfloat16": BFLOAT16_CONTRACT, "float16": FLOAT16_CONTRACT}[dtype]
    shape = (1, 2, length, 64)
    drawn = (contract.inputs.round(by * rng.standard_normal(shape)) for by in (0.1, 0.1, 1, 1))
    t = dict(zip(("q", "k", "v", "do"), drawn, strict=True))
    actual = _sdpa(torch, t, getattr(torch, dtype), True)
    outcome = judge(actual, attention(**t, causal=True), contract)
    assert all(f.status in FINE for f in outcome.findings), [f.line() for f in outcome.findings]


TWICE = np.array([1 + 2.0**-8 + 2.0**-30, -(1 + 2.0**-8 + 2.0**-30), 3 - 2.0**-7 - 2.0**-40])


def test_g_a_grid_rounds_once():
    """Just beyond a tie of bfloat16, which a stop at float32 turns into the tie itself."""
    once = BFLOAT16.round(TWICE)
    assert list(once) == [1 + 2.0**-7, -(1 + 2.0**-7), 3 - 2.0**-6]
    assert list(BFLOAT16.round(FLOAT32.round(TWICE))) != list(once)


@pytest.mark.peers
def test_g_inputs_that_torch_rounded_twice_are_judged_as_the_numbers_they_are():
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    x = torch.tensor(TWICE).to(torch.bfloat16)
    assert list(x.double().numpy()) != list(BFLOAT16.round(TWICE))
    assert list(received(x, "x").values) == list(x.double().numpy())
    one = torch.ones(3, 3, dtype=torch.bfloat16)
    x = x[None, :]
    actual = {"y": x @ one.T + 2 * ((x @ one.T) @ one.T)}
    oracle = lora_linear(x, one, one, one, scale=2.0)
    assert judge(actual, oracle, BFLOAT16_CONTRACT).finding("y").status in FINE
