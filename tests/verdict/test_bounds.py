"""Every kernel of the library under the error-bounded reading, against what may be computed."""

import gc

import numpy as np
import pytest
from bounded_readings import worst
from emulated_cases import CHOICES, oracle_names, oracle_of

from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import tree_map
from lora_ref.verdict.accumulate import Sequential
from lora_ref.verdict.bounds import bounds
from lora_ref.verdict.bounds.nodes import Node
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    FLOAT8_E4M3_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    Accumulator,
    Forms,
    ScaleSites,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.grids import BFLOAT16, FLOAT16
from lora_ref.verdict.oracle import Oracle, is_real
from lora_ref.verdict.oracles import lora_linear
from lora_ref.verdict.statistics import statistics

CONTRACTS = [FLOAT32_CONTRACT, BFLOAT16_CONTRACT, FLOAT16_CONTRACT, FLOAT8_E4M3_CONTRACT]
IN_BLOCKS = [c for c in CHOICES if not isinstance(c.order, Sequential)]  # no deeper than 256
SMALL = 2.0**-7  # float16's subnormal numbers then appear in products, and in scores times 1/8


def sized(oracle, factor, grid):
    """The oracle with inputs and cotangent times a factor."""
    inputs, cotangent = tree_map(
        lambda t: grid.round(factor * t) if is_real(t) else t,
        (dict(oracle.inputs), oracle.cotangent),
    )
    return Oracle(oracle.kernel, inputs, oracle.static, cotangent)


def each(f):
    """f with every example, under every contract."""
    f = pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)(f)
    return pytest.mark.parametrize("name", oracle_names())(f)


@each
def test_the_value_of_the_bounded_reading_is_that_of_numpy(name, contract):
    oracle = oracle_of(name, contract.inputs)
    expected, found = oracle.reference(), bounds(oracle, contract)
    assert list(found) == list(expected)
    for output, bound in found.items():
        assert_close(bound.v, expected[output], "routes", output)


@each
def test_errors_and_variances_are_float64_arrays_of_the_output_and_not_negative(name, contract):
    """Errors are numbers or infinite; variances are known where errors are numbers above 2^−70."""
    for bound in bounds(oracle_of(name, contract.inputs), contract).values():
        for t in (bound.e, bound.s):
            assert (t.shape, t.dtype) == (bound.v.shape, np.float64)
        assert np.all(bound.e >= 0)
        assert np.all(bound.s[np.isfinite(bound.e) & (bound.e > 2.0**-70)] > 0)
        assert not np.any(bound.s < 0)


@each
def test_what_an_honest_implementation_computes_is_admitted_and_looks_random(name, contract):
    oracle = oracle_of(name, contract.inputs)
    found = bounds(oracle, contract)
    for choices in IN_BLOCKS:
        for output, value in emulate(oracle, contract, choices).items():
            bound = found[output]
            assert worst(value, bound) <= 1, (output, choices)
            known = np.isfinite(bound.e)
            with np.errstate(invalid="ignore"):
                error = np.where(known, value - bound.v, 0)
            assert not statistics(error, bound.s).suspicion(), (output, choices)


@pytest.mark.parametrize("name", oracle_names())
@pytest.mark.parametrize("accumulate", [FLOAT16_CONTRACT.accumulate, Accumulator(FLOAT16)], ids=str)
def test_small_numbers_of_float16_are_admitted_where_they_underflow(name, accumulate):
    contract = FLOAT16_CONTRACT.relax(accumulate=accumulate)
    oracle = sized(oracle_of(name, contract.inputs), SMALL, contract.inputs)
    found = bounds(oracle, contract, variance=False)
    for choices in IN_BLOCKS:
        for output, value in emulate(oracle, contract, choices).items():
            assert worst(value, found[output]) <= 1, (output, choices)


@pytest.mark.parametrize("name", oracle_names())
@pytest.mark.parametrize("factor", [2.0**-66, 2.0**100])
def test_numbers_at_the_ends_of_float32_are_admitted(name, factor):
    """Products of 2^−66 underflow in float32, products of 2^100 overflow."""
    oracle = sized(oracle_of(name, FLOAT32_CONTRACT.inputs), factor, FLOAT32_CONTRACT.inputs)
    found = bounds(oracle, FLOAT32_CONTRACT, variance=False)
    for output, value in emulate(oracle, FLOAT32_CONTRACT).items():
        assert worst(value, found[output]) <= 1, output


@pytest.mark.parametrize("name", ["LoRA.apply", "DoRA.apply", "EmbeddingLoRA.weight", "attention"])
def test_a_factor_that_is_held_in_bfloat16_is_admitted(name):
    contract = BFLOAT16_CONTRACT.relax(scale=ScaleSites(held_on=BFLOAT16))
    oracle = oracle_of(name, contract.inputs)
    found = bounds(oracle, contract)
    for choices in IN_BLOCKS:
        for output, value in emulate(oracle, contract, choices).items():
            assert worst(value, found[output]) <= 1, (output, choices)


@pytest.mark.parametrize("contract", CONTRACTS[:2], ids=lambda contract: contract.name)
def test_a_contract_that_admits_less_has_bounds_that_are_not_larger(contract):
    strict = contract.relax(
        forms=Forms(alternatives=False, recomputed=False), scale=ScaleSites(False, False)
    )
    smaller = 0
    for name in ("LoRA.apply", "DoRA.apply", "attention"):
        oracle = oracle_of(name, contract.inputs)
        wide = bounds(oracle, contract, variance=False)
        for output, bound in bounds(oracle, strict, variance=False).items():
            assert np.all(bound.e <= wide[output].e)
            smaller += np.count_nonzero(bound.e < wide[output].e)
    assert smaller > 0


@pytest.mark.parametrize("contract", CONTRACTS[:3], ids=lambda contract: contract.name)
@pytest.mark.parametrize("name", ["LoRA.apply", "DoRA.apply", "attention", "layer_norm"])
def test_companions_in_float32_are_not_below_those_in_float64(name, contract):
    """An input of 2^11 more, which no output depends on, takes the companions to float64."""
    oracle = oracle_of(name, contract.inputs)
    kernel = oracle.kernel

    def with_a_large_input(*inputs, **static):
        value, backward = kernel(*inputs[:-1], **static)
        return value, lambda d: (*_tuple(backward(d)), inputs[-1])

    def _tuple(gradients):
        return gradients if isinstance(gradients, tuple) else (gradients,)

    inputs = {**oracle.inputs, "large": np.array([2.0**11])}
    wide = Oracle(with_a_large_input, inputs, oracle.static, oracle.cotangent)
    in_float64 = bounds(wide, contract)
    for output, bound in bounds(oracle, contract).items():
        # the same up to the binade that a float32 may have been rounded into
        assert np.all(bound.e >= in_float64[output].e * (1 - 2.0**-20))
        assert np.mean(bound.e <= in_float64[output].e * (1 + 2.0**-12) + 2.0**-90) > 0.99


@pytest.mark.parametrize(("n", "larger"), [(1, "factored"), (11, "merged")])
def test_a_contract_that_admits_both_routes_has_the_larger_bound_of_each(n, larger, rng):
    """With one input W' is rounded once and u, u Bᵀ and the sum are three; with 11 W' is 11."""
    t = [BFLOAT16.round(rng.standard_normal(s)) for s in ((4, n), (7, n), (3, n), (7, 3))]
    oracle = lora_linear(*t, scale=5 / 3)
    found = {
        name: bounds(oracle, BFLOAT16_CONTRACT.relax(forms=Forms(factored=f, merged=m)))["y"].e
        for name, f, m in (("factored", True, False), ("merged", False, True), ("both", True, True))
    }
    other = "merged" if larger == "factored" else "factored"
    assert np.any(found[larger] > found[other])
    assert np.array_equal(found["both"], np.maximum(found["factored"], found["merged"]))


def nodes():
    """How many nodes of graphs are in memory."""
    return sum(issubclass(type(t), Node) for t in gc.get_objects())


@pytest.fixture
def no_collector():
    """Only what nothing refers to any more is freed; then the collector is as it was."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", oracle_names())
def test_the_memory_of_a_graph_is_free_when_its_bounds_are_known(name, no_collector):
    """Nothing waits for the collector of cycles, which counts objects and not their megabytes."""
    oracle = oracle_of(name, BFLOAT16_CONTRACT.inputs)
    before = nodes()
    bounds(oracle, BFLOAT16_CONTRACT)
    assert nodes() == before
