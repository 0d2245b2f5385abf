"""What is special to MiSS: tiles that may be cut off, and a block repeated over the outputs."""

import numpy as np
import pytest

from lora_ref.adapters import LoRA, MiSS, apply_merged
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import ADAPTER_CHECKS, assert_trees_close
from lora_ref.testing.examples import Case
from lora_ref.testing.tolerance import assert_close

# r, p, n, m: r divides n or not, is as large or larger; p is m, divides it, is 1
SIZES = [(3, 10, 12, 10), (3, 10, 11, 10), (5, 2, 11, 10), (4, 1, 6, 3), (7, 6, 7, 6), (9, 5, 7, 5)]


def drawn(rng, sizes):
    r, p, n, m = sizes
    args = rng.standard_normal((2, 4, n)), rng.standard_normal((m, n))
    return Case(MiSS(rng.standard_normal((r, p))), args)


@pytest.mark.parametrize("sizes", SIZES)
def test_every_element_gets_that_of_the_block_below_which_it_lies(rng, sizes):
    case = drawn(rng, sizes)
    (r, p, n, m), W = sizes, case.args[1]
    expected = [[W[o, i] + case.target.D[i % r, o % p] for i in range(n)] for o in range(m)]
    assert_close(case.target.merge(W), np.array(expected), "routes", "W'")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
def test_every_way_to_cut_passes_every_check(rng, sizes, check):
    check(lambda rng: drawn(rng, sizes), rng)


@pytest.mark.parametrize("lead", [(), (4,), (2, 1, 3)])
def test_the_inputs_may_have_any_leading_axes(rng, lead):
    case = drawn(rng, (3, 5, 11, 10))
    x, dy = rng.standard_normal((*lead, 11)), rng.standard_normal((*lead, 10))
    y, backward = case.target.apply(x, case.args[1])
    expected, merged_backward = apply_merged(case.target, x, case.args[1])
    assert_trees_close((y, backward(dy)), (expected, merged_backward(dy)), "routes", "apply")


def test_it_is_a_lora_whose_A_sums_the_inputs(rng):
    case = drawn(rng, (3, 10, 11, 10))
    A = np.array([[float(i % 3 == k) for i in range(11)] for k in range(3)])
    lora = LoRA(A, case.target.D.T, 1.0)
    assert_close(case.target.merge(case.args[1]), lora.merge(case.args[1]), "routes", "W'")


def test_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((10, 11))
    assert np.array_equal(MiSS.init(W, rank=3).merge(W), W)
    assert MiSS.init(W, rank=3).D.shape == (3, 10)
    assert MiSS.init(W, rank=3, outputs=5).D.shape == (3, 5)
    assert MiSS.init(W, rank=1, outputs=1).D.shape == (1, 1)


@pytest.mark.parametrize(("rank", "outputs"), [(0, None), (3, 0), (-1, 5)])
def test_a_block_of_no_size_is_refused(rank, outputs):
    with pytest.raises(ValueError, match="MiSS: rank and outputs must be at least 1, got"):
        MiSS.init(np.ones((10, 11)), rank, outputs)


@pytest.mark.parametrize("method", ["apply", "weight"])
def test_a_block_that_does_not_fit_below_itself_is_refused(method):
    args = (np.ones((4, 11)), np.ones((10, 11)))[method == "weight" :]
    with pytest.raises(ShapeError, match=rf"MiSS.{method}: .* a divisor of m = 10 from W, got"):
        getattr(MiSS(np.ones((3, 4))), method)(*args)
