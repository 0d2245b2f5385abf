"""Every check on every layer's examples, over every array library."""

import numpy as np
import pytest

from lora_ref.layers import LAYERS
from lora_ref.testing import LAYER_CHECKS, check_library, converted
from lora_ref.testing.layer_examples import LAYER_EXAMPLES

SEED = 20210617


def name_of(value):
    return getattr(value, "__name__", str(value)).removeprefix("check_")


@pytest.fixture(params=LAYER_EXAMPLES)
def make(request):
    return LAYER_EXAMPLES[request.param]


@pytest.mark.parametrize("check", LAYER_CHECKS, ids=name_of)
def test_layer(check, make, library):
    check(converted(make, library.convert), np.random.default_rng(SEED))


def test_layer_gives_every_library_the_numbers_of_numpy(make, library):
    check_library(make, np.random.default_rng(SEED), library.convert)


@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_every_layer_has_an_example(layer):
    assert any(name.split(",")[0] == layer.__name__ for name in LAYER_EXAMPLES)
