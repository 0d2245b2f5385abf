"""What is special to LoKr: the Kronecker product, its factors, and two algorithms."""

import importlib

import numpy as np
import pytest

from lora_ref.adapters import LoKr, apply_merged
from lora_ref.adapters.lokr import LowRank, factorization
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import ADAPTER_CHECKS, assert_trees_close
from lora_ref.testing.examples import SCALE, Case
from lora_ref.testing.gradient_check import random_like
from lora_ref.testing.tolerance import assert_close

module = importlib.import_module("lora_ref.adapters.lokr")
FORMS = ["whole", "C", "D", "both"]


def drawn(rng, form):
    """C (2, 3) and D (5, 4), either of them a product."""
    C, D = rng.standard_normal((2, 3)), rng.standard_normal((5, 4))
    if form in ("C", "both"):
        C = LowRank(rng.standard_normal((6, 3)), rng.standard_normal((2, 6)))
    if form in ("D", "both"):
        D = LowRank(rng.standard_normal((1, 4)), rng.standard_normal((5, 1)))
    args = rng.standard_normal((2, 7, 12)), rng.standard_normal((10, 12))
    return Case(LoKr(C, D, SCALE), args)


def whole(factor):
    return factor.B @ factor.A if isinstance(factor, LowRank) else factor


@pytest.mark.parametrize("form", FORMS)
def test_the_update_is_the_kronecker_product(rng, form):
    case = drawn(rng, form)
    lokr, W = case.target, case.args[1]
    expected = W + lokr.scale * np.kron(whole(lokr.C), whole(lokr.D))
    assert_close(lokr.merge(W), expected, "routes", "W'")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
def test_any_of_the_factors_may_be_a_product(rng, form, check):
    check(lambda rng: drawn(rng, form), rng)


def test_all_forms_of_each_quantity_agree(rng, monkeypatch):
    counts = []

    def either(xp, *alternatives):
        first, *others = [alternative() for alternative in alternatives]
        counts.append(len(alternatives))
        for other in others:
            assert_close(other, first, "libraries", f"either {len(counts)}")
        return first

    monkeypatch.setattr(module, "either", either)
    case = drawn(rng, "both")
    y, backward = case.target.apply(*case.args)
    backward(random_like(y, rng))
    assert counts == [2, 2, 2, 2]  # y, dx, dC, dD


@pytest.mark.parametrize("choice", [0, 1])
def test_code_that_takes_one_form_throughout_gets_the_same(rng, monkeypatch, choice):
    case = drawn(rng, "D")
    dy = rng.standard_normal((2, 7, 10))
    y, backward = apply_merged(case.target, *case.args)
    expected = y, backward(dy)
    monkeypatch.setattr(module, "either", lambda xp, *forms: forms[choice]())
    y, backward = case.target.apply(*case.args)
    assert_trees_close((y, backward(dy)), expected, "routes", f"form {choice}")


def test_the_rank_is_the_product_of_the_ranks(rng):
    C = LowRank(rng.standard_normal((2, 6)), rng.standard_normal((6, 2)))
    D = LowRank(rng.standard_normal((3, 5)), rng.standard_normal((5, 3)))
    assert np.linalg.matrix_rank(LoKr(C, D, SCALE).merge(np.zeros((30, 30)))) == 6


@pytest.mark.parametrize(
    ("size", "near", "expected"),
    [
        (128, None, (8, 16)),
        (127, None, (1, 127)),
        (36, None, (6, 6)),
        (1, None, (1, 1)),
        (2, None, (1, 2)),
        (128, 4, (4, 32)),
        (12, 6, (6, 2)),
        (12, 12, (12, 1)),
        (10, 4, (2, 5)),
        (90, 7, (6, 15)),
        (127, 5, (1, 127)),
        (12, 1, (1, 12)),
        (12, 0, (1, 12)),
    ],
)
def test_a_size_is_cut_as_lycoris_and_peft_cut_it(size, near, expected):
    assert factorization(size, near) == expected


@pytest.mark.peers
def test_pefts_function_cuts_every_size_in_the_same_way():
    reason = "PEFT is in the [peers] extra"
    layer = pytest.importorskip("peft.tuners.lokr.layer", reason=reason)
    for size in range(1, 200):
        assert factorization(size) == layer.factorization(size)
        for near in range(1, 24):
            assert factorization(size, near) == layer.factorization(size, near)


@pytest.mark.parametrize(("rank", "is_whole"), [(2, False), (3, True)])
def test_training_starts_at_the_base_model(rng, rank, is_whole):
    """D (5, 4) is whole from rank 2.5 on."""
    W = rng.standard_normal((10, 12))
    lokr = LoKr.init(W, rank=rank, alpha=5, rng=rng)
    assert np.array_equal(lokr.merge(W), W)
    assert lokr.scale == 5 / rank
    assert lokr.C.shape == (2, 3)
    assert not np.any(lokr.C)
    parts = [(lokr.D, (5, 4))] if is_whole else [(lokr.D.A, (rank, 4)), (lokr.D.B, (5, rank))]
    for part, shape in parts:
        assert part.shape == shape
        assert 0.4 < np.max(part) * shape[1] ** 0.5 <= 1
        assert -1 <= np.min(part) * shape[1] ** 0.5 < -0.4


def test_a_whole_second_factor_is_uniform_in_both_directions_from_zero(rng):
    D = LoKr.init(np.ones((400, 900)), rank=20, alpha=5, rng=rng).D
    assert D.shape == (20, 30)
    assert 0.97 < np.max(D) * 30**0.5 <= 1
    assert 0.97 < -np.min(D) * 30**0.5 <= 1


def test_half_the_larger_side_is_no_rank_for_a_product(rng):
    assert isinstance(LoKr.init(np.ones((16, 16)), rank=1, alpha=5, rng=rng).D, LowRank)
    assert LoKr.init(np.ones((16, 16)), rank=2, alpha=5, rng=rng).D.shape == (4, 4)


def test_a_size_is_cut_near_the_number_given(rng):
    lokr = LoKr.init(np.ones((10, 12)), rank=1, alpha=5, rng=rng, near=4)
    assert lokr.C.shape == (2, 4)
    assert (lokr.D.B.shape, lokr.D.A.shape) == ((5, 1), (1, 3))


def test_a_rank_below_one_is_refused(rng):
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        LoKr.init(np.ones((10, 12)), rank=0, alpha=5, rng=rng)


@pytest.mark.parametrize("method", ["apply", "weight"])
def test_a_weight_of_another_size_is_refused(rng, method):
    case = drawn(rng, "D")
    args = (np.ones((4, 20)), np.ones((6, 20)))
    with pytest.raises(ShapeError, match=rf"LoKr.{method}: W must be .* = \(10, 12\) from"):
        getattr(case.target, method)(*args[method == "weight" :])


@pytest.mark.parametrize("name", ["C", "D"])
def test_a_factor_that_is_no_matrix_is_refused(name):
    factors = {"C": np.ones((2, 3)), "D": np.ones((5, 4)), name: np.ones((2, 3, 4))}
    with pytest.raises(ShapeError, match=rf"LoKr: LoKr.{name} must be a matrix .*\(2, 3, 4\)"):
        LoKr(**factors, scale=1.0)


def test_a_product_of_two_ranks_is_refused():
    with pytest.raises(ShapeError, match=r"LowRank.B must be \(m, r\) with r = 3 from LowRank.A"):
        LowRank(np.ones((3, 4)), np.ones((5, 2)))
