"""Hypothesis strategies for whole cases: a seed, sizes, a regime and a contract.

    @given(case=lora_cases(BFLOAT16_CONTRACT))
    def test_kernel(lora_ref, case):
        y = my_kernel(**case.arrays, scale=case.scale)
        left_out = case.oracle.outputs_but("y")
        lora_ref.assert_matches({"y": y}, case.oracle, case.contract, left_out=left_out)

No element is drawn, so a case of any size costs a few choices, and a failing one shrinks to the
smallest sizes that show the bug, then to the plainest regime, the first contract and seed 0.
"""

from typing import Any

from ..verdict.contract import Contract
from .oracle_cases import AttentionCase, DoraCase, LoraCase, MergedCase
from .regimes import ATTENTION_REGIMES, LINEAR_REGIMES, Regime

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{__name__}: needs Hypothesis; pip install hypothesis", name="hypothesis"
    ) from error

Regimes = tuple[Regime, ...]
ALPHAS = (1.0, 8.0, 16.0, 5.0, 0.5)


def lora_cases(
    *contracts: Contract,
    regimes: Regimes = LINEAR_REGIMES,
    max_rows: int = 8,
    max_size: int = 32,
    max_rank: int = 8,
) -> st.SearchStrategy[LoraCase]:
    """Linear layers with LoRA, with and without a bias."""
    common = _common("lora_cases", contracts, regimes)
    return st.builds(LoraCase, **_layer(max_rows, max_size, max_rank), **common)


def dora_cases(
    *contracts: Contract,
    regimes: Regimes = LINEAR_REGIMES,
    max_rows: int = 8,
    max_size: int = 32,
    max_rank: int = 8,
) -> st.SearchStrategy[DoraCase]:
    """Linear layers with DoRA, with and without a bias."""
    common = _common("dora_cases", contracts, regimes)
    return st.builds(DoraCase, **_layer(max_rows, max_size, max_rank), **common)


def merged_cases(
    *contracts: Contract,
    regimes: Regimes = LINEAR_REGIMES,
    max_size: int = 32,
    max_rank: int = 8,
) -> st.SearchStrategy[MergedCase]:
    """Merges of LoRA into a weight."""
    layer = _layer(1, max_size, max_rank)
    sizes = {name: layer[name] for name in ("n", "m", "r", "alpha")}
    return st.builds(MergedCase, **sizes, **_common("merged_cases", contracts, regimes))


@st.composite
def attention_cases(
    draw: st.DrawFn,
    *contracts: Contract,
    regimes: Regimes = ATTENTION_REGIMES,
    max_length: int = 24,
    max_width: int = 16,
    max_group: int = 3,
) -> AttentionCase:
    """Attention with one head or several, grouped queries, cross-attention and causal masks."""
    common = {name: draw(s) for name, s in _common("attention_cases", contracts, regimes).items()}
    length, width = st.integers(1, max_length), st.integers(1, max_width)
    group = st.integers(1, max_group)
    kv_heads = draw(group)
    return AttentionCase(
        T=draw(length),
        S=draw(length),
        d=draw(width),
        e=draw(width),
        heads=kv_heads * draw(group),
        kv_heads=kv_heads,
        causal=draw(st.booleans()),
        **common,
    )


def _layer(max_rows: int, max_size: int, max_rank: int) -> dict[str, Any]:
    size = st.integers(1, max_size)
    return {
        "T": st.integers(1, max_rows),
        "n": size,
        "m": size,
        "r": st.integers(1, max_rank),
        "alpha": st.sampled_from(ALPHAS),
        "bias": st.booleans(),
    }


def _common(name: str, contracts: tuple[Contract, ...], regimes: Regimes) -> dict[str, Any]:
    if not contracts:
        raise TypeError(f"{name}: needs the contract that the kernel claims, or several")
    if not regimes:
        raise ValueError(f"{name}: regimes must not be empty")
    return {
        "regime": st.sampled_from(regimes),
        "contract": st.sampled_from(contracts),
        "seed": st.integers(0, 2**32 - 1),
    }
