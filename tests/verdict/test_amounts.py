"""What wrong elements have in common in size is told after where they are."""

import numpy as np
import pytest

from lora_ref.verdict.locate import locate

VALUES = np.random.default_rng(5).standard_normal((12, 17))
LAST = np.where(np.arange(12)[:, None] > 7, 3.0, 0.3) * np.ones((12, 17))


def mask_of(shape, *index):
    mask = np.zeros(shape, dtype=bool)
    mask[index] = True
    return mask


@pytest.mark.parametrize(
    ("actual", "told"),
    [
        (0.95 * VALUES, "there the values are 0.95 times the expected ones"),
        (1.001 * VALUES, "there the values are 1.001 times the expected ones"),
        (2 * VALUES, "there the values are 2 times the expected ones"),
        (2048 * VALUES, "there the values are 2,048 times the expected ones"),
        (-VALUES, "there the values have the opposite sign"),
        (0 * VALUES, "there the values are exactly 0"),
        (VALUES + 0.1 + 0.01 * VALUES**2, "there all values are too large"),
        (np.where(VALUES < 9, np.nan, VALUES), "there the errors are NaN or infinite"),
    ],
)
def test_what_the_errors_have_in_common_is_told(actual, told):
    assert locate(LAST, None, actual - VALUES, VALUES)[1:] == (told,)


def test_what_they_have_in_common_comes_before_a_third_place(rng):
    mask = mask_of((100, 100), 7) | mask_of((100, 100), ..., 9) | (rng.random((100, 100)) < 0.02)
    values = rng.standard_normal(mask.shape)
    sentences = locate(np.where(mask, 3.0, 0.3), None, -2 * values * mask, values)
    assert len(sentences) == 3
    assert sentences[-1] == "there the values have the opposite sign"


def test_errors_of_any_size_and_sign_have_nothing_in_common(rng):
    assert len(locate(LAST, None, rng.standard_normal(LAST.shape), VALUES)) == 1


def test_a_factor_is_told_beside_a_nan_and_near_the_end_of_the_range():
    error = -0.05 * VALUES * 1e300
    error[9, 2] = np.nan
    expected = "there the values are 0.95 times the expected ones; NaN or infinite at 1 of them"
    assert locate(LAST, None, error, VALUES * 1e300)[1] == expected


def test_a_sign_needs_no_expected_values():
    assert locate(LAST, None, -np.abs(VALUES))[1] == "there all values are too small"
