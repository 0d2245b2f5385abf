"""The comparison: what counts as an error, how large, and what the message says."""

import numpy as np
import pytest

from lora_ref.testing import TOLERANCE, Mismatch, assert_close, assert_trees_close, relative_error

NAN, INF = np.nan, np.inf


def test_the_error_is_relative_to_the_norm_of_what_is_expected():
    assert relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_the_error_does_not_depend_on_the_unit(size):
    a, b = size * np.array([3.0, 4.5]), size * np.array([3.0, 4.0])
    assert relative_error(a, b) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ([NAN, 1.0], [1.0, 1.0]),
        ([1.0, 1.0], [NAN, 1.0]),
        ([INF, 1.0], [1.0, 1.0]),
        ([1.0, 1.0], [INF, 1.0]),
        ([INF, 1.0], [-INF, 1.0]),
        ([NAN, 1.0], [INF, 1.0]),
        ([1.0], [0.0]),
        ([1.0, 1.0], [1.0]),
    ],
)
def test_what_cannot_be_measured_is_infinitely_wrong(actual, expected):
    assert relative_error(np.array(actual), np.array(expected)) == INF


@pytest.mark.parametrize("values", [[NAN, 1.0], [INF, -INF, 2.0], [0.0, 0.0], []])
def test_equal_values_have_no_error_whatever_they_are(values):
    assert relative_error(np.array(values), np.array(values)) == 0


def test_equal_infinities_do_not_hide_an_error_elsewhere():
    assert relative_error(np.array([INF, 1.1]), np.array([INF, 1.0])) == pytest.approx(0.1)


def test_the_message_says_what_how_far_and_where():
    with pytest.raises(Mismatch) as error:
        assert_close(
            np.array([[1.0, 2.0], [3.0, 4.5]]), np.arange(1.0, 5).reshape(2, 2), "routes", "y"
        )
    message = str(error.value)
    assert message.startswith("y: relative error 0.0913, allowed 1e-10 (routes); worst at (1, 1)")
    assert "4.5" in message
    assert "4.0" in message


def test_the_worst_element_is_the_one_that_cannot_be_measured():
    with pytest.raises(Mismatch, match=r"worst at \(1,\)"):
        assert_close(np.array([9.0, NAN]), np.array([1.0, 1.0]), "float32", "y")


def test_two_shapes_are_told_apart_by_name():
    with pytest.raises(Mismatch, match=r"y: shape \(2,\), expected \(1, 2\)"):
        assert_close(np.ones(2), np.ones((1, 2)), "routes", "y")


def test_a_comparison_of_trees_names_the_leaf():
    with pytest.raises(Mismatch, match=r"adapter, B: relative error"):
        assert_trees_close(
            {"A": np.ones(2), "B": np.ones(2)},
            {"A": np.ones(2), "B": np.zeros(2)},
            "routes",
            "adapter",
        )


def test_a_comparison_of_trees_misses_no_leaf():
    with pytest.raises(Mismatch, match=r"leaves \['A'\], expected \['A', 'B'\]"):
        assert_trees_close({"A": np.ones(2)}, {"A": np.ones(2), "B": np.ones(2)}, "routes", "t")


def test_the_tolerances_leave_room_for_rounding_and_for_nothing_else():
    eps = np.finfo(np.float64).eps
    assert TOLERANCE["identical"] == 0
    assert all(
        eps < t <= 1e-10 for k, t in TOLERANCE.items() if k in ("routes", "libraries", "golden")
    )
    assert TOLERANCE["gradient"] <= 1e-7
    assert np.finfo(np.float32).eps < TOLERANCE["float32"] <= 1e-4
