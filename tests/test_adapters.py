"""Every check on every adapter, with unequal and with equal sizes, over every array library."""

from functools import partial

import numpy as np
import pytest

from lora_ref.adapters import ADAPTERS
from lora_ref.testing import ADAPTER_CHECKS, check_library, converted
from lora_ref.testing.adapter_examples import EXAMPLES, adapter_example
from lora_ref.trees import leaves

SEED = 20210617


def name_of(value):
    return getattr(value, "__name__", str(value)).removeprefix("check_")


@pytest.fixture(params=ADAPTERS, ids=name_of)
def adapter(request):
    return request.param


@pytest.fixture(params=[None, 4], ids=["unequal", "equal"])
def make(request, adapter):
    """A case of the adapter: sizes pairwise different, or all equal."""
    return partial(adapter_example, adapter, square=request.param)


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=name_of)
def test_adapter(check, make, library):
    check(converted(make, library.convert), np.random.default_rng(SEED))


def test_adapter_gives_every_library_the_numbers_of_numpy(make, library):
    check_library(make, np.random.default_rng(SEED), library.convert)


def test_no_example_is_of_a_class_that_is_no_adapter():
    assert EXAMPLES.keys() <= {*ADAPTERS}


def test_an_example_has_no_field_that_is_zero_anywhere(make, rng):
    """At B = 0 the gradient of A is zero, and a check sees nothing."""
    case = make(rng)
    assert all(np.all(leaf != 0) for _, leaf in leaves(case.target))
