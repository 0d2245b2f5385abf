"""What is special to the embedding: integers that repeat, are absent, or are out of range."""

import numpy as np
import pytest

from lora_ref.layers import embedding
from lora_ref.testing.tolerance import assert_close


@pytest.fixture
def E(rng):
    return rng.standard_normal((7, 3))


def test_an_integer_takes_its_row(E):
    np.testing.assert_array_equal(embedding(np.array([[4, 0]]), E)[0], [[E[4], E[0]]])


def test_integers_that_repeat_add_up_and_absent_ones_get_zero(E):
    dE = embedding(np.array([2, 5, 2]), E)[1](np.array([[1.0] * 3, [2.0] * 3, [4.0] * 3]))
    np.testing.assert_array_equal(dE[:, 0], [0, 0, 5, 0, 0, 2, 0])


def test_no_integers_give_no_rows(E):
    y, backward = embedding(np.zeros((2, 0), dtype=np.int64), E)
    assert y.shape == (2, 0, 3)
    np.testing.assert_array_equal(backward(y), np.zeros((7, 3)))


@pytest.mark.parametrize("ids", [[0, 7], [-1, 3]])
def test_integers_out_of_range_are_refused(E, ids):
    with pytest.raises(IndexError, match=r"embedding: ids must be integers in \[0, 7\), got"):
        embedding(np.array(ids), E)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_any_integers_will_do(E, dtype):
    np.testing.assert_array_equal(embedding(np.array([3], dtype=dtype), E)[0], [E[3]])


@pytest.mark.peers
def test_values_and_gradients_are_pytorchs(E, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    ids, dy = rng.integers(0, 7, size=(4, 5)), rng.standard_normal((4, 5, 3))
    E_torch = torch.tensor(E, requires_grad=True)
    y_torch = torch.nn.functional.embedding(torch.tensor(ids), E_torch)
    y_torch.backward(torch.tensor(dy))
    y, backward = embedding(ids, E)
    assert_close(y, y_torch, "golden", "value")
    assert_close(backward(dy), E_torch.grad, "golden", "gradient")
