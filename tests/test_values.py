"""Counts, numbers and arrays: which are taken, and how the others are refused."""

import numpy as np
import pytest

from lora_ref.values import checked_count, checked_finite, checked_number


def test_a_count_is_an_integer_that_is_large_enough():
    assert checked_count("f", "rank", 3, 3) == 3
    assert type(checked_count("f", "rank", np.int64(3), 3)) is int
    for count in (2, 3.0, "3", None, True, float("nan")):
        with pytest.raises(
            ValueError, match=r"f: rank must be an integer of at least 3, as W, got"
        ):
            checked_count("f", "rank", count, 3, ", as W")


def test_a_number_is_real_and_finite():
    for value in (2, -0.5, np.float32(0.5), np.int64(2)):
        assert type(checked_number("f", "scale", value)) is float
        assert checked_number("f", "scale", value) == value
    for value in (float("nan"), float("-inf"), 10**400, "1", None, True, 1j):
        with pytest.raises(ValueError, match=r"f: scale must be a finite number, got"):
            checked_number("f", "scale", value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_array_is_finite_in_every_library(library, bad):
    fine = library.convert(np.array([1.0, 2.0]))
    assert checked_finite("f", "A", fine) is fine
    with pytest.raises(ValueError, match=r"^f: A must be finite, has NaN or infinity$"):
        checked_finite("f", "A", library.convert(np.array([1.0, bad])))
