"""Every kernel under the emulated reading: it runs, rounds where it should, and nowhere else."""

import numpy as np
import pytest
from emulated_cases import CHOICES, oracle_names, oracle_of, rounded

from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import tree_map
from lora_ref.verdict.accumulate import LIBRARY
from lora_ref.verdict.choices import Choices, Fusion, ScaleSite
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    MERGED_BFLOAT16,
    PRESETS,
    Accumulator,
    Contract,
    Forms,
    ScaleSites,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.emulated_namespace import EmulatedNamespace
from lora_ref.verdict.grids import BFLOAT16, FLOAT32, FLOAT64, Grid
from lora_ref.verdict.oracle import Oracle
from lora_ref.verdict.oracles import Rotation, attention
from lora_ref.verdict.orders import AnyOrder

FLOAT64_CONTRACT = Contract("float64", FLOAT64, FLOAT64, Accumulator(FLOAT64), FLOAT64)
CONTRACTS = [FLOAT32_CONTRACT, BFLOAT16_CONTRACT, FLOAT16_CONTRACT]
FOURTEEN_BITS = Grid("14 bits", 14, -126, (2 - 2.0**-13) * 2.0**127, True)
# Without any rounding, or with one addition here and there.
NEARLY_EXACT = ("relu", "embedding", "BitFit.weight")
ONE_RMS = 0.25  # of one rounding in units of u: 1/√12 ulp is 0.29 u to 0.58 u

VARIED = ["LoRA.apply", "attention, causal", "DoRA.apply", "block", "ConvLoRA.apply", "embedding"]


def by_name(contract):
    return contract.name


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-300)


def condition(oracle):
    """By output, how much more it moves than the inputs did, when each of their numbers moves."""
    step, rng = 1e-7, np.random.default_rng(1)

    def moved(t):
        return t * (1 + step * rng.choice([-1, 1], t.shape)) if t.dtype.kind == "f" else t

    given = (oracle.inputs, oracle.static, oracle.cotangent)
    inputs, static, cotangent = tree_map(moved, given)
    there = Oracle(oracle.kernel, inputs, static, cotangent).reference()
    return {name: relative(there[name], t) / step for name, t in oracle.reference().items()}


def check_plausible(oracle, contract, choices, monkeypatch):
    """On the output's grid, and off by at most u for each rounding, amplified as inputs are.

    To first order the error is the sum over the stored values of what a relative change of at
    most u does to the outputs, and a change of a stored value does about what one of an input
    does: hence u · (number of stores, and one more for the sums inside) · condition.
    """
    stores = [1]
    round_ = EmulatedNamespace.rounded

    def counted(self, values):
        stores[0] += 1
        return round_(self, values)

    monkeypatch.setattr(EmulatedNamespace, "rounded", counted)
    found = emulate(oracle, contract, choices)
    reference, amplified = oracle.reference(), condition(oracle)
    assert found.keys() == reference.keys()
    u = max(contract.store.roundoff, contract.accumulate.roundoff, contract.output.roundoff)
    for name, value in found.items():
        assert value.shape == reference[name].shape
        assert np.all(contract.output.holds(value))
        error = relative(value, reference[name]) / u
        assert error <= stores[0] * max(1, amplified[name]), (name, error, stores[0])
    return max(relative(found[name], t) for name, t in reference.items()) / u


@pytest.mark.parametrize("contract", CONTRACTS, ids=by_name)
@pytest.mark.parametrize("name", oracle_names())
def test_every_kernel_rounds_as_much_as_its_contract_says(name, contract, monkeypatch):
    worst = check_plausible(oracle_of(name, contract.inputs), contract, Choices(), monkeypatch)
    assert worst >= ONE_RMS or name.startswith(NEARLY_EXACT)


@pytest.mark.parametrize("name", oracle_names())
def test_a_float64_contract_gives_the_numbers_of_numpy(name):
    oracle = oracle_of(name, FLOAT64)
    reference = oracle.reference()
    for output, value in emulate(oracle, FLOAT64_CONTRACT).items():
        assert_close(value, reference[output], "libraries", f"{name}, {output}")


@pytest.mark.parametrize("contract", PRESETS.values(), ids=by_name)
@pytest.mark.parametrize("name", VARIED)
def test_every_preset_can_be_emulated(name, contract):
    oracle = oracle_of(name, contract.inputs)
    chosen = Choices()
    for value in emulate(oracle, contract, chosen).values():
        assert np.all(contract.output.holds(value))


@pytest.mark.parametrize(
    "contract",
    [
        BFLOAT16_CONTRACT,
        FLOAT16_CONTRACT.relax(accumulate=Accumulator(FLOAT16_CONTRACT.store)),
        BFLOAT16_CONTRACT.relax(accumulate=Accumulator(FOURTEEN_BITS, truncates=True)),
    ],
    ids=by_name,
)
@pytest.mark.parametrize("choices", CHOICES, ids=str)
@pytest.mark.parametrize("name", VARIED)
def test_every_choice_keeps_the_contract(name, choices, contract, monkeypatch):
    check_plausible(oracle_of(name, contract.inputs), contract, choices, monkeypatch)


@pytest.mark.parametrize(
    ("name", "choices", "contract"),
    [
        ("attention, causal", Choices(alternative=1), BFLOAT16_CONTRACT),
        ("attention, causal", Choices(recompute=True), FLOAT32_CONTRACT),
        ("DoRA.apply", Choices(alternative=1), BFLOAT16_CONTRACT),
        *(("LoRA.apply", c, BFLOAT16_CONTRACT) for c in CHOICES if c.scale != ScaleSite.RESULT),
        *(("LoRA.apply", c, BFLOAT16_CONTRACT) for c in CHOICES if c.fusion != Fusion.NOTHING),
    ],
    ids=str,
)
def test_every_choice_shows(name, choices, contract):
    oracle = oracle_of(name, contract.inputs)
    plain, other = (emulate(oracle, contract, c) for c in (Choices(), choices))
    assert any(not np.array_equal(plain[output], other[output]) for output in plain)


@pytest.mark.parametrize("order", [c.order for c in CHOICES if c.order != LIBRARY], ids=str)
def test_every_order_shows_on_a_short_accumulator(order):
    contract = FLOAT16_CONTRACT.relax(
        accumulate=Accumulator(FLOAT16_CONTRACT.store), order=AnyOrder()
    )
    oracle = oracle_of("LoRA.apply", contract.inputs)
    others = {c.order for c in CHOICES} - {order, LIBRARY}
    mine = emulate(oracle, contract, Choices(order=order))["dx"]
    for other in others:
        assert not np.array_equal(mine, emulate(oracle, contract, Choices(order=other))["dx"])


def test_nothing_is_drawn_at_random():
    oracle = oracle_of("block", BFLOAT16_CONTRACT.inputs)
    once, again = emulate(oracle, BFLOAT16_CONTRACT), emulate(oracle, BFLOAT16_CONTRACT)
    assert all(np.array_equal(once[name], again[name]) for name in once)


def test_overflow_gives_infinity_and_what_follows_from_it_without_a_warning():
    x = np.array([1.0, 300.0])
    oracle = Oracle(lambda x: (x * x - x * x / 2, None), {"x": x})
    found = emulate(oracle, FLOAT16_CONTRACT)["y"]
    assert np.array_equal(found, [0.5, np.nan], equal_nan=True)
    oracle = Oracle(lambda x: (x * x, None), {"x": x})
    assert np.array_equal(emulate(oracle, FLOAT16_CONTRACT)["y"], [1, np.inf])


def test_the_merged_route_stores_the_merged_weight(rng):
    t = [rounded(rng.standard_normal(s), MERGED_BFLOAT16.inputs) for s in ((5, 7), (3, 7), (3, 7))]
    oracle = Oracle(
        lambda x, W, D: (x @ W.T + x @ D.T, None),
        dict(zip("xWD", t, strict=True)),
        merged=lambda x, W, D: (x @ (W + D).T, None),
    )
    contract = MERGED_BFLOAT16.relax(accumulate=Accumulator(FLOAT32))
    low = MERGED_BFLOAT16.store.round
    x, W, D = t
    merged = (low(x).astype(np.float32) @ low(W + D).astype(np.float32).T).astype(float)
    assert np.array_equal(emulate(oracle, contract, Choices(merged=True))["y"], low(merged))


@pytest.mark.parametrize(
    ("choices", "forms", "sites"),
    [
        (Choices(alternative=1), Forms(alternatives=False), ScaleSites()),
        (Choices(recompute=True), Forms(recomputed=False), ScaleSites()),
        (Choices(merged=True), Forms(merged=False), ScaleSites()),
        (Choices(), Forms(factored=False, merged=True), ScaleSites()),
        (Choices(scale=ScaleSite.LEFT), Forms(), ScaleSites(operand=False)),
        (Choices(scale=ScaleSite.LATER), Forms(), ScaleSites(result=False)),
    ],
    ids=str,
)
def test_a_choice_that_the_contract_does_not_leave_open_is_refused(choices, forms, sites):
    contract = BFLOAT16_CONTRACT.relax(forms=forms, scale=sites)
    with pytest.raises(ValueError, match=r"Choices: .* must be admitted by the contract"):
        emulate(oracle_of("linear", contract.inputs), contract, choices)


def test_the_merged_route_of_an_oracle_without_one_is_refused():
    oracle = oracle_of("linear", BFLOAT16_CONTRACT.inputs)
    contract = BFLOAT16_CONTRACT.relax(forms=Forms(merged=True))
    with pytest.raises(ValueError, match="must have a merged kernel"):
        emulate(oracle, contract, Choices(merged=True))


def test_an_input_between_numbers_of_the_contract_is_named():
    oracle = Oracle(lambda x: (x + x, None), {"x": np.array([1.0, 1.001])})
    with pytest.raises(ValueError, match=r"x must hold numbers of bfloat16 .* got 1.001 at \(1,\)"):
        emulate(oracle, BFLOAT16_CONTRACT)
    oracle = Oracle(oracle.kernel, {"x": np.ones(2)}, cotangent=np.array([0.3, 1.0]))
    with pytest.raises(ValueError, match="dy must hold numbers of bfloat16"):
        emulate(oracle, BFLOAT16_CONTRACT)


def test_the_cos_and_sin_of_a_rotation_need_not_be_on_the_grid(rng):
    q, k, v = (BFLOAT16.round(rng.standard_normal((2, 5, 8))) for _ in range(3))
    oracle = attention(q, k, v, rotation=Rotation(np.arange(5)))
    assert set(emulate(oracle, BFLOAT16_CONTRACT)) == {"y"}
