"""Arrays that the library makes itself lie where its arguments do, not on the default device."""

from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import (
    ADAPTERS,
    IA3,
    OFT,
    AdaLoRA,
    Bat,
    BiasedLoRA,
    ConvLoRA,
    DoRA,
    EmbeddingLoRA,
    ExpertLoRA,
    LoHa,
    LoKr,
    LoRA,
    LoralibConvLoRA,
    MiSS,
    VeRA,
)
from lora_ref.adapters.generators import (
    BasisGenerator,
    DialectGenerator,
    LinearGenerator,
    MLPGenerator,
)
from lora_ref.layers.activations import gelu, silu
from lora_ref.layers.convolution import Geometry
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.generator_examples import GENERATORS, hyperlora_example
from lora_ref.trees import leaves, map_arrays

SEED = 20210617


def adapted(cls):
    return adapter_example(cls, np.random.default_rng(SEED))


def generated(cls):
    """GELU, which the standard does not have, goes through NumPy on the default device."""
    case = hyperlora_example(cls, np.random.default_rng(SEED))
    generator = case.target.generator
    if getattr(generator, "activation", None) is gelu:
        generator = replace(generator, activation=silu)
    return replace(case, target=replace(case.target, generator=generator))


CASES = [(adapted, cls) for cls in ADAPTERS] + [(generated, cls) for cls in GENERATORS]


@pytest.fixture
def placed():
    """Puts NumPy's arrays on a device that refuses to combine with arrays of the default one."""
    xp = pytest.importorskip("array_api_strict", reason="array-api-strict is in the [test] extra")
    device = xp.Device("device1")
    return lambda t: xp.asarray(np.asarray(t), device=device)


def devices(tree):
    return {str(leaf.device) for _, leaf in leaves(tree)}


@pytest.mark.parametrize(("make", "cls"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_all_that_an_adapter_gives_is_on_the_device_of_its_arguments(make, cls, placed):
    case = make(cls)
    adapter = map_arrays(placed, case.target)
    x, W = map_arrays(placed, case.args)
    y, backward = adapter.apply(x, W)
    W_merged, weight_backward = adapter.weight(W)
    given = y, backward(y), W_merged, weight_backward(W_merged)
    assert devices(given) == devices(W)


SIZES = {"condition": 5, "layers": 3, "embedding": 4}
STARTS = {
    "LoRA": lambda W, rng: LoRA.init(W, 3, 5, rng),
    "LoRA, Gaussian": lambda W, rng: LoRA.init_gaussian(W, 3, 5, rng),
    "BiasedLoRA": lambda W, rng: BiasedLoRA.around(LoRA.init(W, 3, 5, rng)),
    "DoRA": lambda W, rng: DoRA.init(W, 3, 5, rng),
    "EmbeddingLoRA": lambda W, rng: EmbeddingLoRA.init(W, 3, 5, rng),
    "AdaLoRA": lambda W, rng: AdaLoRA.init(W, 3, 5, rng),
    "LoHa": lambda W, rng: LoHa.init(W, 3, 5, rng),
    "LoKr": lambda W, rng: LoKr.init(W, 1, 5, rng),
    "IA3": lambda W, rng: IA3.init(W),
    "VeRA": lambda W, rng: VeRA.init(W, W[:3, :], W[:, :3]),
    "MiSS": lambda W, rng: MiSS.init(W, 3),
    "Bat": lambda W, rng: Bat.init(W, 2),
    "OFT": lambda W, rng: OFT.init(W, 4),
    "Linear": lambda W, rng: LinearGenerator.init(W, 3, rng, **SIZES),
    "MLP": lambda W, rng: MLPGenerator.init(W, 3, rng, **SIZES, width=6),
    "Dialect": lambda W, rng: DialectGenerator.init(W, 3, rng, condition=5),
    "Basis": lambda W, rng: BasisGenerator.zeros([W], 3, condition=5),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_start_is_on_the_device_of_its_weight(start, rng, placed):
    W = placed(rng.standard_normal((10, 12)))
    assert devices(STARTS[start](W, rng)) == devices(W)


@pytest.mark.parametrize("cls", [ConvLoRA, LoralibConvLoRA])
def test_a_start_of_a_convolution_is_on_the_device_of_its_kernel(cls, rng, placed):
    W = placed(rng.standard_normal((6, 5, 2, 2)))
    assert devices(cls.init(W, 3, 5, Geometry.uniform(2), rng)) == devices(W)


def test_a_start_of_experts_is_on_the_device_of_their_weights(rng, placed):
    W = placed(rng.standard_normal((2, 10, 12)))
    assert devices(ExpertLoRA.init(W, 3, 5, rng)) == devices(W)
