"""The array libraries that the suite runs over, and the Hypothesis profiles.

A test that takes `library` runs once for each library; one that is not there skips and says why.
`HYPOTHESIS_PROFILE=deep` draws many random examples; the default draws the same few every time.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest

from lora_ref.testing.checks import read_only

pytest_plugins = ["pytester"]

hypothesis.settings.register_profile(
    "ci", derandomize=True, max_examples=40, deadline=None, database=None, print_blob=True
)
hypothesis.settings.register_profile("deep", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@dataclass(frozen=True)
class Library:
    """An array library: how its arrays are made from NumPy's."""

    name: str
    convert: Callable[[np.ndarray], Any]


def _import(module: str, reason: str) -> Any:
    """`module`, or a skip that says what is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{reason} ({error})")


def _numpy() -> Library:
    return Library("numpy", np.asarray)


def _numpy_read_only() -> Library:
    return Library("numpy_read_only", read_only)


def _array_api_strict() -> Library:
    strict = _import("array_api_strict", "array-api-strict is in the [test] extra")
    return Library("array_api_strict", strict.asarray)


def _torch() -> Library:
    torch = _import("torch", "PyTorch is in the [peers] extra")
    return Library("torch", lambda t: torch.asarray(np.array(t)))


def _jax() -> Library:
    jax = _import("jax", "JAX is in the [peers] extra")
    jax.config.update("jax_enable_x64", True)
    return Library("jax", jax.numpy.asarray)


def _cupy() -> Library:
    cupy = _import("cupy", "CuPy is in the [gpu] extra")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy sees no GPU: {error}")
    if count == 0:
        pytest.skip("CuPy sees no GPU")
    return Library("cupy", cupy.asarray)


LIBRARIES = [
    _numpy,
    _numpy_read_only,
    _array_api_strict,
    pytest.param(_torch, marks=pytest.mark.peers),
    pytest.param(_jax, marks=pytest.mark.peers),
    _cupy,
]


@pytest.fixture(params=LIBRARIES, ids=lambda make: make.__name__.strip("_"))
def library(request: pytest.FixtureRequest) -> Library:
    """Each array library in turn."""
    return request.param()


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers in every test and every run."""
    return np.random.default_rng(20210617)
