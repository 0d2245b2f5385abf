"""What is special to the loss: rows that do not count, targets out of range, PyTorch's numbers."""

import math

import numpy as np
import pytest

from lora_ref.layers import cross_entropy
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close


@pytest.fixture
def case(rng):
    return rng.standard_normal((4, 5, 7)), rng.integers(0, 7, size=(4, 5))


def test_equal_logits_cost_the_logarithm_of_the_classes_in_nats():
    loss, _ = cross_entropy(np.zeros((3, 7)), np.array([0, 4, 6]))
    assert_close(loss, np.array(math.log(7)), "libraries", "log 7")


def test_a_gradient_has_no_sum_along_the_classes(case):
    dz = cross_entropy(*case)[1](1.0)
    assert np.max(np.abs(dz.sum(axis=-1))) < 1e-16


def test_rows_that_do_not_count_are_as_if_absent(case):
    z, targets = case
    where = np.arange(20).reshape(4, 5) % 3 != 1
    loss, backward = cross_entropy(z, targets, where=where)
    expected, expected_backward = cross_entropy(z[where], targets[where])
    assert_close(loss, expected, "libraries", "loss")
    assert_close(backward(1.0)[where], expected_backward(1.0), "libraries", "dz")
    assert np.all(backward(1.0)[~where] == 0)


def test_rows_that_do_not_count_may_hold_anything(case):
    z, targets = case
    where = np.ones((4, 5), dtype=bool)
    where[1] = False
    z[1], targets[1] = np.nan, -100
    loss, backward = cross_entropy(z, targets, where=where)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(backward(1.0)))


def test_large_logits_do_not_overflow():
    loss, _ = cross_entropy(np.array([[1e300, 0.0]]), np.array([1]))
    assert loss == 1e300


def test_the_mean_of_no_rows_is_refused(case):
    with pytest.raises(ValueError, match="at least one row must count, got none"):
        cross_entropy(*case, where=np.zeros((4, 5), dtype=bool))


@pytest.mark.parametrize("bad", [-100, 7])
def test_targets_out_of_range_are_refused(case, bad):
    z, targets = case
    targets[2, 3] = bad
    with pytest.raises(IndexError, match=r"cross_entropy: targets must be integers in \[0, 7\)"):
        cross_entropy(z, targets)


@pytest.mark.parametrize("where", [np.ones((5,), dtype=bool), np.ones((4, 5))])
def test_where_must_hold_one_boolean_for_each_row(case, where):
    with pytest.raises(ShapeError, match=r"where must hold booleans \(4, 5\) from targets"):
        cross_entropy(*case, where=where)


@pytest.mark.peers
@pytest.mark.parametrize("ignored", [0, 6])
def test_values_and_gradients_are_pytorchs(case, ignored):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    z, targets = case
    targets.reshape(-1)[:ignored] = -100
    z_torch = torch.tensor(z, requires_grad=True)
    loss_torch = torch.nn.functional.cross_entropy(
        z_torch.reshape(-1, 7), torch.tensor(targets.reshape(-1)), ignore_index=-100
    )
    (3 * loss_torch).backward()
    loss, backward = cross_entropy(z, targets, where=targets != -100)
    assert_close(loss, loss_torch, "golden", "loss")
    assert_close(backward(3.0), z_torch.grad, "golden", "gradient")
