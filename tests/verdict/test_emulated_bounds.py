"""Two readings of one text: what the emulated one computes, the bounded one admits."""

import numpy as np
import pytest
from emulated_cases import CHOICES, oracle_names, oracle_of

from lora_ref.verdict.bounds import bounds
from lora_ref.verdict.choices import Choices, ScaleSite
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    BFLOAT16_FLOAT32_INTERMEDIATES,
    FLOAT8_E5M2_CONTRACT,
    FLOAT16_CONTRACT,
    FLOAT32_CONTRACT,
    TF32_CONTRACT,
    Accumulator,
)
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.grids import FLOAT16
from lora_ref.verdict.oracle import Oracle
from lora_ref.verdict.orders import AnyOrder

CONTRACTS = [
    contract.relax(order=AnyOrder())
    for contract in (
        FLOAT32_CONTRACT,
        TF32_CONTRACT,
        BFLOAT16_CONTRACT,
        BFLOAT16_FLOAT32_INTERMEDIATES,
        FLOAT8_E5M2_CONTRACT,
        FLOAT16_CONTRACT.relax(accumulate=Accumulator(FLOAT16)),
    )
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
@pytest.mark.parametrize("name", oracle_names())
def test_every_choice_stays_within_the_bounds_of_its_contract(name, contract):
    oracle = oracle_of(name, contract.inputs)
    admitted = bounds(oracle, contract, variance=False)
    for choices in CHOICES:
        for output, value in emulate(oracle, contract, choices).items():
            bound = admitted[output]
            known = np.isfinite(bound.e)
            outside = ~(np.abs(value - bound.v) <= bound.e) & known
            assert not outside.any(), (output, choices)


@pytest.mark.parametrize("site", ScaleSite)
def test_a_factor_on_an_operand_is_there_before_the_operand_is_loaded(site, rng):
    """5/3 takes a number past a power of two, where the same load rounds twice as far."""
    a, b = (FLOAT32_CONTRACT.inputs.round(rng.standard_normal((300, 1))) for _ in range(2))
    oracle = Oracle(lambda a, b: (5 / 3 * (a @ b.T), None), {"a": a, "b": b})
    bound = bounds(oracle, TF32_CONTRACT, variance=False)["y"]
    value = emulate(oracle, TF32_CONTRACT, Choices(scale=site))["y"]
    assert np.max(np.abs(value - bound.v) / bound.e) <= 1
