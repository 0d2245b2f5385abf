"""Array dispatch: one library or a clear refusal, and helpers that mean the same in each."""

import numpy as np
import pytest

from lora_ref.arrays import (
    as_array,
    either,
    index_sum,
    is_array,
    namespace,
    norm,
    on_device_of,
    outer_sum,
    recomputed,
    row_sum,
    rows,
)
from lora_ref.testing import assert_close
from lora_ref.testing.tolerance import to_numpy


def test_the_namespace_makes_arrays_of_the_arguments_library(library):
    t = library.convert(np.ones((2, 3)))
    assert type(namespace(t).zeros((1,), **on_device_of(t))) is type(t)


@pytest.mark.parametrize("module", ["array_api_strict", "torch", "jax.numpy"])
def test_arrays_of_two_libraries_are_refused(module):
    other = pytest.importorskip(module, reason=f"{module} is not installed")
    with pytest.raises(TypeError, match=r"one library; got .*numpy"):
        namespace(np.ones(2, dtype=np.float32), other.asarray(np.ones(2, dtype=np.float32)))


@pytest.mark.parametrize("value", [[1.0], 1.0, None, "x", np.float64, object()])
def test_what_is_no_array_is_refused_by_its_type(value):
    assert not is_array(value)
    with pytest.raises(TypeError, match=f"must be an array, got {type(value).__name__}"):
        namespace(value)


def test_a_library_that_nobody_knows_is_named():
    class Table:
        shape, dtype = (2,), "f8"

    with pytest.raises(TypeError, match="is no array library that is known"):
        namespace(Table())


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7), (2, 0, 7), (3, 0)])
def test_rows_keeps_the_last_axis_and_the_order(shape):
    t = np.arange(np.prod(shape), dtype=float).reshape(shape)
    assert np.array_equal(rows(t).ravel(), t.ravel())
    assert rows(t).shape == (int(np.prod(shape[:-1])), shape[-1])


def test_outer_sum_and_row_sum_run_over_all_leading_axes(rng, library):
    a, b = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 3, 7))
    outer = outer_sum(library.convert(a), library.convert(b))
    assert_close(outer, np.einsum("ijm,ijn->mn", a, b), "libraries", "outer_sum")
    assert_close(row_sum(library.convert(a)), a.sum(axis=(0, 1)), "libraries", "row_sum")


def test_index_sum_adds_the_rows_of_repeated_indices(rng, library):
    index, d = np.array([4, 1, 4, 4, 0]), rng.standard_normal((5, 3))
    expected = np.zeros((6, 3))
    for i, row in zip(index, d, strict=True):
        expected[i] += row
    found = index_sum(library.convert(index), library.convert(d), 6)
    assert_close(found, expected, "libraries", "index_sum")


def test_index_sum_of_nothing_is_zero(library):
    index, d = np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    found = index_sum(library.convert(index), library.convert(d), 2)
    assert np.array_equal(to_numpy(found), np.zeros((2, 3)))


def test_norm_keeps_its_axis_with_length_one(rng, library):
    v = rng.standard_normal((5, 7))
    found = norm(library.convert(v), axis=1)
    assert_close(found, np.linalg.norm(v, axis=1, keepdims=True), "libraries", "norm")


def test_as_array_takes_the_dtype_of_its_model(library):
    like = library.convert(np.ones(1, dtype=np.float32))
    assert to_numpy(as_array(np.ones(3), like)).dtype == np.float32


def test_for_ordinary_arrays_recomputed_is_the_identity(library):
    t = library.convert(np.ones(3))
    assert recomputed(t) is t


def test_for_ordinary_arrays_only_the_first_alternative_is_computed(library):
    def never():
        raise AssertionError("the second alternative was computed")

    t = library.convert(np.ones(3))
    assert either(namespace(t), lambda: t, never) is t
