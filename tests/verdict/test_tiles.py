"""Gradients of attention that are summed in tiles, with what is stored between them."""

from itertools import pairwise

import numpy as np
import pytest

from lora_ref.verdict.bounds import bounds
from lora_ref.verdict.choices import Choices
from lora_ref.verdict.contract import BFLOAT16_CONTRACT, FLOAT16_CONTRACT, FLOAT32_CONTRACT, Forms
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.grids import BFLOAT16
from lora_ref.verdict.judge import judge
from lora_ref.verdict.oracles import attention
from lora_ref.verdict.tiles import between, keys, queries

TILED = Choices(tiled=True)
ONE_SUM = Forms(tiled=False)


def oracle_of(rng, contract, T, S, by=0.1):
    """Scores near 0, so that weights are all alike and gradients are sums over all of them."""
    q, k = (contract.inputs.round(by * rng.standard_normal((2, n, 8))) for n in (T, S))
    v, do = (contract.inputs.round(rng.standard_normal((2, n, 5))) for n in (S, T))
    return attention(q, k, v, do=do)


def outside(actual, found):
    return {n for n, b in found.items() if np.any(abs(actual[n] - b.v) > b.e)}


@pytest.mark.parametrize("contract", [BFLOAT16_CONTRACT, FLOAT16_CONTRACT])
@pytest.mark.parametrize(("T", "S"), [(33, 33), (97, 40), (200, 9), (20, 700)])
def test_sums_that_are_stored_between_tiles_are_admitted(contract, T, S, rng):
    oracle = oracle_of(rng, contract, T, S)
    assert outside(emulate(oracle, contract, TILED), bounds(oracle, contract)) == set()


def test_a_contract_of_one_sum_does_not_admit_them(rng):
    contract = BFLOAT16_CONTRACT.relax(forms=ONE_SUM)
    q, k, v, do = (BFLOAT16.round(by * rng.standard_normal((2, 33, 64))) for by in (0.1, 0.1, 1, 1))
    oracle = attention(q, k, v, do=do, causal=True)
    tiled = emulate(oracle, BFLOAT16_CONTRACT, TILED)
    assert "dv" in outside(tiled, bounds(oracle, contract))
    with pytest.raises(ValueError, match="tiled must be admitted"):
        emulate(oracle, contract, TILED)


def test_nothing_is_stored_between_where_there_is_one_tile(rng):
    oracle = oracle_of(rng, BFLOAT16_CONTRACT, 32, 32)
    found = (bounds(oracle, BFLOAT16_CONTRACT.relax(forms=f)) for f in (Forms(), ONE_SUM))
    one, other = ({n: b.e for n, b in bound.items()} for bound in found)
    assert all(np.array_equal(one[n], other[n]) for n in one)


def test_float32_that_is_stored_loses_nothing_on_a_float32_accumulator(rng):
    oracle = oracle_of(rng, FLOAT32_CONTRACT, 97, 40)
    found = (bounds(oracle, FLOAT32_CONTRACT.relax(forms=f)) for f in (Forms(), ONE_SUM))
    one, other = ({n: b.e for n, b in bound.items()} for bound in found)
    assert all(np.array_equal(one[n], other[n]) for n in one)


def test_a_gradient_without_a_tile_is_still_a_bug(rng):
    oracle = oracle_of(rng, BFLOAT16_CONTRACT, 97, 40)
    actual = {n: BFLOAT16_CONTRACT.output.round(t) for n, t in oracle.reference().items()}
    weights = np.full((2, 32, 40), 1 / 40)
    actual["dv"] = BFLOAT16_CONTRACT.output.round(
        oracle.reference()["dv"] - weights.mT @ oracle.cotangent[:, 64:96]
    )
    assert judge(actual, oracle, BFLOAT16_CONTRACT).finding("dv").status == "bug"


@pytest.mark.parametrize("terms", [1, 32, 33, 191, 192, 767, 768, 1500])
def test_tiles_cover_all_terms_and_the_last_one_is_not_empty(terms):
    for tile in (queries(terms), keys(terms)):
        stops = [0, *between(terms, tile), terms]
        assert all(0 < b - a <= tile for a, b in pairwise(stops))
