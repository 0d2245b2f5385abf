"""What is special to softmax: masks, rows without entries, IEEE values, PyTorch's numbers."""

import numpy as np
import pytest

from lora_ref.arrays import norm
from lora_ref.layers import log_softmax, softmax
from lora_ref.layers.softmax import softmax_weights
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close

INF = np.inf


@pytest.fixture
def z(rng):
    return rng.standard_normal((4, 5, 7))


def test_rows_add_up_to_one(z):
    assert_close(softmax(z)[0].sum(axis=-1), np.ones((4, 5)), "libraries", "sums")


def test_a_constant_added_to_a_row_changes_nothing(z):
    assert_close(softmax(z + 700.0)[0], softmax(z)[0], "routes", "softmax(z + 700)")


@pytest.mark.parametrize("size", [1e4, 1e30, 1e300])
def test_large_scores_do_not_overflow(size):
    np.testing.assert_array_equal(softmax(np.array([size, -size, size]))[0], [0.5, 0.0, 0.5])


def test_masking_an_entry_is_leaving_it_out(z):
    mask = np.arange(7) != 3
    p = softmax(z, mask=mask)[0]
    assert_close(p[..., mask], softmax(z[..., mask])[0], "libraries", "without entry 3")
    assert np.all(p[..., 3] == 0)


def test_a_boolean_mask_is_an_additive_mask_of_minus_infinity(z, rng):
    mask = rng.random((5, 7)) < 0.5
    additive = np.where(mask, 0.0, -INF)
    np.testing.assert_array_equal(softmax(z, mask=mask)[0], softmax(z, mask=additive)[0])


@pytest.mark.parametrize("mask", [np.zeros(7, dtype=bool), np.full(7, -INF)])
def test_a_fully_masked_row_is_zero_and_so_is_its_gradient(z, mask):
    p, backward = softmax(z, mask=mask)
    assert np.all(p == 0)
    assert np.all(backward(np.ones_like(z)) == 0)


def test_a_row_of_minus_infinity_is_fully_masked():
    np.testing.assert_array_equal(
        softmax(np.array([[-INF, -INF], [0.0, 0.0]]))[0], [[0, 0], [0.5] * 2]
    )


def test_no_entries_give_no_probabilities():
    assert softmax(np.ones((3, 0)))[0].shape == (3, 0)


def test_nan_stays_in_its_row():
    p = softmax(np.array([[np.nan, 0.0], [0.0, 0.0]]))[0]
    np.testing.assert_array_equal(p, [[np.nan, np.nan], [0.5, 0.5]])


def test_nan_that_a_boolean_mask_excludes_does_not_matter():
    p = softmax(np.array([np.nan, 1.0, 1.0]), mask=np.array([False, True, True]))[0]
    np.testing.assert_array_equal(p, [0, 0.5, 0.5])


def test_plus_infinity_gives_nan_as_ieee_says():
    with np.errstate(invalid="ignore"):
        assert np.all(np.isnan(softmax(np.array([INF, 0.0]))[0]))


def test_integer_masks_are_refused_because_they_are_ambiguous(z):
    with pytest.raises(TypeError, match=r"softmax: mask must be boolean .*, got int64"):
        softmax(z, mask=np.ones(7, dtype=np.int64))


def test_additive_masks_of_another_dtype_are_refused(z):
    with pytest.raises(TypeError, match="additive in the scores' dtype, float32, got float64"):
        softmax(z.astype(np.float32), mask=np.zeros(7))


@pytest.mark.parametrize("shape", [(6,), (3, 5, 7), (1, 4, 5, 7), (2, 4, 5, 7)])
def test_masks_that_do_not_broadcast_to_the_scores_are_refused(z, shape):
    with pytest.raises(ShapeError, match=r"softmax: mask must broadcast to the scores \(4, 5, 7\)"):
        softmax(z, mask=np.ones(shape, dtype=bool))


def test_log_softmax_is_the_logarithm_of_softmax(z):
    assert_close(np.exp(log_softmax(z)[0]), softmax(z)[0], "routes", "exp of the logarithm")


def test_log_softmax_keeps_what_softmax_underflows():
    assert log_softmax(np.array([0.0, -1e4]))[0][1] == -1e4


class Reading:
    """An array of a reading that has its own softmax."""

    shape, ndim, dtype = (2, 3), 2, None

    def __array_namespace__(self, api_version=None):
        return type("namespace", (), {"is_reading": True, "softmax": lambda *args: args})


def test_a_reading_is_asked_for_its_own_softmax():
    z, mask = Reading(), np.ones((2, 3), dtype=bool)
    assert softmax_weights(z, mask) == (z, mask)


@pytest.mark.peers
def test_torchs_functions_of_the_same_names_are_not_taken_for_a_readings(z):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    assert_close(softmax_weights(torch.tensor(z)), softmax_weights(z), "libraries", "softmax")
    assert_close(norm(torch.tensor(z), axis=1), norm(z, axis=1), "libraries", "norm")


@pytest.mark.peers
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_values_and_gradients_are_pytorchs(z, rng, name):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    ours = {"softmax": softmax, "log_softmax": log_softmax}[name]
    dy = rng.standard_normal(z.shape)
    z_torch = torch.tensor(z, requires_grad=True)
    y = getattr(torch, name)(z_torch, dim=-1)
    y.backward(torch.tensor(dy))
    value, backward = ours(z)
    assert_close(value, y, "golden", "value")
    assert_close(backward(dy), z_torch.grad, "golden", "gradient")
