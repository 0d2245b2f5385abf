"""The emulated reading against PyTorch on the CPU, where bit equality can be argued."""

import numpy as np
import pytest

from lora_ref.adapters import LoRA
from lora_ref.trees import leaves, tree_map
from lora_ref.verdict.choices import Choices
from lora_ref.verdict.contract import BFLOAT16_CONTRACT, FLOAT16_CONTRACT
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.emulated_namespace import EmulatedNamespace
from lora_ref.verdict.oracle import Oracle

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
pytestmark = pytest.mark.peers

CONTRACTS = {"bfloat16": BFLOAT16_CONTRACT, "float16": FLOAT16_CONTRACT}


@pytest.fixture(params=CONTRACTS)
def contract(request):
    return CONTRACTS[request.param]


def to_torch(t, contract):
    """Values of the grid, hence converted without rounding."""
    return torch.asarray(np.array(t)).to(getattr(torch, contract.store.name))


def from_torch(t):
    return t.double().numpy()


@pytest.mark.parametrize("operation", ["__add__", "__sub__", "__mul__", "__truediv__"])
def test_elementwise_operations_are_pytorchs_bit_for_bit(operation, contract, rng):
    """PyTorch computes in float32 and rounds again, harmlessly: 24 bits are at least 2 p + 2."""
    a, b = (contract.store.round(rng.standard_normal(100_000)) for _ in range(2))
    xp = EmulatedNamespace(contract, Choices())
    ours = getattr(xp.wrap(a), operation)(xp.wrap(b))
    theirs = getattr(to_torch(a, contract), operation)(to_torch(b, contract))
    assert np.array_equal(ours.values, from_torch(theirs))


def test_square_roots_are_pytorchs_bit_for_bit(contract, rng):
    a = contract.store.round(rng.exponential(size=100_000))
    xp = EmulatedNamespace(contract, Choices())
    assert np.array_equal(xp.sqrt(xp.wrap(a)).values, from_torch(to_torch(a, contract).sqrt()))


def test_lora_on_integers_is_pytorchs_bit_for_bit(contract, rng):
    """Sums of products are exact in float32, in every order, and too long for a stored value."""
    shapes = {"x": (5, 37), "W": (11, 37), "dy": (5, 11), "A": (3, 37), "B": (11, 3)}
    x, W, dy, A, B = (rng.integers(-15, 16, shape).astype(float) for shape in shapes.values())
    given = {"x": x, "adapter": LoRA(A, B, 1.25)}
    oracle = Oracle(lambda x, adapter, W: adapter.apply(x, W), given, {"W": W}, dy)
    ours = emulate(oracle, contract)
    there = tree_map(lambda t: to_torch(t, contract), {**given, "W": W, "dy": dy})
    y, backward = there["adapter"].apply(there["x"], there["W"])
    dx, dadapter = backward(there["dy"])
    theirs = {"y": y, "dx": dx, **{f"d{path}": t for path, t in leaves(dadapter)}}
    reference = oracle.reference()
    for name, t in theirs.items():
        assert np.array_equal(ours[name], from_torch(t)), name
        assert not np.array_equal(ours[name], reference[name]), name
