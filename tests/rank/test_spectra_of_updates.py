"""Spectra from factors, the five ranks, the echelon form, the nearest update of a lower rank."""

from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import LoRA
from lora_ref.rank import (
    default_tolerance,
    distance,
    echelon,
    echelon_rank,
    effective_rank,
    energy_rank,
    extracted,
    factored_svd,
    measures,
    numerical_rank,
    rationals,
    retained,
    spectrum,
    stable_rank,
    truncated,
)
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import TOLERANCE, assert_close, to_numpy
from lora_ref.trees import tree_map

SIZES = [(11, 7, 3), (7, 11, 4), (6, 6, 2), (3, 8, 5), (8, 3, 5)]


def drawn(rng, m, n, rank, scale=5 / 3):
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [5 / 3, 0.6, -0.4])
def test_the_spectrum_from_the_factors_is_that_of_the_product(rng, sizes, scale):
    adapter = drawn(rng, *sizes, scale)
    dense = np.linalg.svd(adapter.delta(), compute_uv=False)
    sigma = spectrum(adapter)
    assert sigma.shape == (min(sizes),)
    assert_close(sigma, dense[: min(sizes)], "routes", "σ")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [5 / 3, 0.6, -0.4])
def test_the_factored_decomposition_gives_the_update_back(rng, sizes, scale):
    adapter = drawn(rng, *sizes, scale)
    U, S, Vt = factored_svd(adapter)
    assert_close((U * S) @ Vt, adapter.delta(), "routes", "ΔW")
    assert_close(U.T @ U, np.eye(len(S)), "routes", "UᵀU")
    assert_close(Vt @ Vt.T, np.eye(len(S)), "routes", "VᵀV")
    assert_close(S, spectrum(adapter), "routes", "σ")
    assert (np.diff(S) <= 0).all()
    assert (S >= 0).all()


def test_spectrum_and_truncation_are_the_same_in_every_array_library(rng, library):
    adapter = drawn(rng, 11, 7, 3)
    theirs = tree_map(library.convert, adapter)
    assert_close(spectrum(theirs), spectrum(adapter), "libraries", "σ")
    cut = truncated(theirs, 2)
    assert_close(
        cut.adapter.delta(), to_numpy(truncated(adapter, 2).adapter.delta()), "libraries", "ΔW₂"
    )
    assert cut.error == pytest.approx(truncated(adapter, 2).error, rel=TOLERANCE["libraries"])
    ours, mine = measures(spectrum(theirs), (11, 7)), measures(spectrum(adapter), (11, 7))
    assert (ours.numerical, ours.energy90, ours.energy99) == (
        mine.numerical, mine.energy90, mine.energy99
    )  # fmt: skip
    assert ours.effective == pytest.approx(mine.effective, rel=TOLERANCE["libraries"])
    assert retained(spectrum(theirs), 2) == pytest.approx(cut.retained, rel=TOLERANCE["libraries"])


def test_the_distance_of_two_updates_is_that_of_their_products(rng):
    first, second = drawn(rng, 11, 7, 3), drawn(rng, 11, 7, 2, -0.7)
    assert distance(first, second) == pytest.approx(
        np.linalg.norm(first.delta() - second.delta()), rel=TOLERANCE["routes"]
    )
    assert distance(first, replace(first, A=2 * first.A, B=first.B / 2)) < 1e-13


# Of 3, 2, 1: squares 9, 4, 1 of 14; shares 1/2, 1/3, 1/6.
SIGMA = np.array([3.0, 2.0, 1.0])


def test_the_measures_of_a_spectrum_counted_by_hand():
    assert numerical_rank(SIGMA, 0.5) == 2
    assert numerical_rank(np.array([1.0, 0.5]), 0.5) == 1
    assert numerical_rank(SIGMA, 1 / 3 - 1e-9) == 3
    assert stable_rank(SIGMA) == pytest.approx(14 / 9, rel=1e-14)
    entropy = np.log(2) / 2 + np.log(3) / 3 + np.log(6) / 6
    assert effective_rank(SIGMA) == pytest.approx(np.exp(entropy), rel=1e-14)
    assert [retained(SIGMA, r) for r in range(5)] == pytest.approx([0, 9 / 14, 13 / 14, 1, 1])
    shares = (0, 0.5, 9 / 14 - 1e-9, 9 / 14 + 1e-9, 0.93, 1)
    assert [energy_rank(SIGMA, s) for s in shares] == [0, 1, 1, 2, 3, 3]


def test_a_spectrum_of_one_value_has_rank_one():
    found = measures(np.array([0.3]), (11, 1))
    assert (found.numerical, found.effective, found.stable) == (1, 1.0, 1.0)
    assert (found.energy90, found.energy99) == (1, 1)
    assert (retained(np.array([0.3]), 0), retained(np.array([0.3]), 1)) == (0.0, 1.0)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_k_equal_singular_values_have_rank_k_by_every_measure(k):
    sigma = np.concatenate([np.full(k, 0.3), np.zeros(3)])
    found = measures(sigma, (11, 10))
    assert found.numerical == k
    assert found.effective == pytest.approx(k, rel=1e-14)
    assert found.stable == pytest.approx(k, rel=1e-14)
    assert (found.energy90, found.energy99) == (int(np.ceil(0.9 * k)), k)


@pytest.mark.parametrize("sigma", [np.zeros(3), np.zeros(0)])
def test_of_no_update_every_rank_is_zero_and_every_rank_keeps_all(sigma):
    found = measures(sigma, (11, 7))
    assert (found.numerical, found.effective, found.stable) == (0, 0.0, 0.0)
    assert (found.energy90, found.energy99) == (0, 0)
    assert [retained(sigma, r) for r in (0, 2)] == [1.0, 1.0]


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_no_measure_depends_on_the_size_of_the_update(size):
    scaled, plain = measures(size * SIGMA, (5, 9)), measures(SIGMA, (5, 9))
    assert (scaled.effective, scaled.stable) == pytest.approx((plain.effective, plain.stable))
    assert (scaled.numerical, scaled.energy90) == (plain.numerical, plain.energy90)
    assert retained(size * SIGMA, 1) == pytest.approx(9 / 14)


def test_the_default_tolerance_is_numpys(rng):
    M = rng.standard_normal((11, 3)) @ rng.standard_normal((3, 7))
    M = M + 1e-15 * rng.standard_normal((11, 7))
    sigma = np.linalg.svd(M, compute_uv=False)
    assert default_tolerance(sigma, M.shape) == 11 * np.finfo(np.float64).eps
    assert default_tolerance(sigma.astype("float32"), M.shape) == 11 * np.finfo(np.float32).eps
    assert numerical_rank(sigma, default_tolerance(sigma, M.shape)) == np.linalg.matrix_rank(M) == 3


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_of_zero_to_one_is_refused(share):
    with pytest.raises(ValueError, match="energy_rank: share must be in"):
        energy_rank(SIGMA, share)


def test_a_negative_rank_keeps_nothing_that_can_be_said():
    with pytest.raises(ValueError, match="retained: rank must be an integer of at least 0, got -1"):
        retained(SIGMA, -1)


@pytest.mark.parametrize(
    ("rows", "rank"),
    [
        ([[1, 2, 3], [2, 4, 6], [3, 6, 9]], 1),
        ([[1, 0, 1], [0, 1, 1], [1, 1, 2]], 2),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 10]], 3),
        ([[0, 0, 2, 1], [0, 0, 4, 3]], 2),
        ([[0, 0], [0, 0], [0, 0]], 0),
    ],
)
def test_the_echelon_form_finds_the_rank_of_small_matrices(rows, rank):
    M = np.array(rows)
    assert echelon_rank(M) == echelon_rank(rationals(M)) == np.linalg.matrix_rank(M) == rank


@pytest.mark.parametrize("shape", [(5, 7, 3), (7, 5, 2), (6, 6, 6), (4, 9, 4)])
def test_in_an_echelon_form_each_row_starts_further_right_and_spans_the_same(shape):
    rng = np.random.default_rng(3)
    m, n, rank = shape
    M = rng.integers(-3, 4, (m, rank)) @ rng.integers(-3, 4, (rank, n))
    E, pivots = echelon(rationals(M))
    assert len(pivots) == np.linalg.matrix_rank(M)
    for i, row in enumerate(E):
        start = pivots[i] if i < len(pivots) else n
        assert all(value == 0 for value in row[:start])
        assert start == n or row[start] != 0
    both = np.concatenate([M, E.astype(float)])
    assert np.linalg.matrix_rank(both) == np.linalg.matrix_rank(M)


def test_echelon_form_and_svd_agree_on_the_rank_of_an_update(rng):
    for m, n, rank in SIZES:
        delta = drawn(rng, m, n, rank).delta()
        assert echelon_rank(delta) == np.linalg.matrix_rank(delta) == min(m, n, rank)


def test_elimination_pivots_on_the_largest_entry_and_is_not_misled_by_a_tiny_one():
    M = np.array([[1e-20, 1.0], [1.0, 1.0]])
    E, pivots = echelon(M)
    assert pivots == (0, 1)
    assert E.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_the_tolerance_decides_what_is_zero():
    M = np.array([[1.0, 0.0], [0.0, 1e-9]])
    assert (echelon_rank(M), echelon_rank(M, 1e-9), echelon_rank(M, 1e-10)) == (2, 1, 2)
    assert echelon_rank(1e-30 * M) == 2
    assert (echelon_rank(np.diag([1.0, 1e-300])), echelon_rank(np.diag([1.0, 1e-300]), 0)) == (1, 2)


def test_pivots_do_not_see_what_the_svd_sees():
    triangle = np.eye(60) - np.triu(np.ones((60, 60)), 1)
    assert echelon_rank(triangle) == 60
    assert np.linalg.matrix_rank(triangle) == 59
    assert echelon_rank(rationals(triangle.astype(int))) == 60


def test_a_matrix_of_one_axis_or_with_nan_is_refused():
    with pytest.raises(ShapeError, match=r"echelon: M must be \(m, n\), got \(3,\)"):
        echelon(np.ones(3))
    with pytest.raises(ValueError, match="echelon: M must be finite"):
        echelon(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"rationals: M must hold finite real numbers, got .*inf"):
        rationals(np.array([[np.inf]]))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [None, 0.6, -2.5])
def test_a_truncation_is_the_first_terms_of_the_dense_svd(rng, sizes, scale):
    adapter = drawn(rng, *sizes, -0.4)
    U, S, Vt = np.linalg.svd(adapter.delta())
    cut = truncated(adapter, 2, scale)
    assert cut.adapter.scale == (-0.4 if scale is None else scale)
    assert_close(cut.adapter.delta(), (U[:, :2] * S[:2]) @ Vt[:2], "routes", "ΔW₂")
    assert cut.rank == cut.adapter.B.shape[1] == 2


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_the_errors_of_a_truncation_are_the_norms_of_what_is_missing(rng, rank):
    adapter = drawn(rng, 11, 7, 4)
    cut = truncated(adapter, rank)
    missing, whole = adapter.delta() - cut.adapter.delta(), np.linalg.norm(adapter.delta())
    assert cut.error == pytest.approx(np.linalg.norm(missing), rel=1e-10, abs=1e-12)
    assert cut.spectral_error == pytest.approx(np.linalg.norm(missing, 2), rel=1e-10, abs=1e-12)
    assert cut.retained == pytest.approx(1 - (np.linalg.norm(missing) / whole) ** 2, rel=1e-10)


def test_no_other_update_of_the_rank_is_nearer(rng):
    adapter = drawn(rng, 11, 7, 4)
    cut = truncated(adapter, 2)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            other = tree_map(lambda t: t + size * rng.standard_normal(t.shape), cut.adapter)  # noqa: B023
            assert distance(adapter, other) > cut.error


def test_the_factors_of_a_truncation_share_the_singular_values(rng):
    cut = truncated(drawn(rng, 11, 7, 4), 2, -0.6)
    expected = np.diag(cut.spectrum[:2] / 0.6)
    assert_close(cut.adapter.A @ cut.adapter.A.T, expected, "routes", "A Aᵀ")
    assert_close(cut.adapter.B.T @ cut.adapter.B, expected, "routes", "Bᵀ B")


def test_a_rank_beyond_the_directions_is_made_up_by_zeros(rng):
    adapter = drawn(rng, 3, 8, 6)
    cut = truncated(adapter, 5)
    assert cut.adapter.A.shape == (5, 8)
    assert cut.adapter.B.shape == (3, 5)
    assert_close(cut.adapter.delta(), adapter.delta(), "routes", "ΔW")
    assert (cut.error, cut.spectral_error, cut.retained) == (0.0, 0.0, 1.0)
    assert (cut.adapter.A[3:] == 0).all()
    assert (cut.adapter.B[:, 3:] == 0).all()


@pytest.mark.parametrize("size", [(11, 7), (7, 11), (6, 6)])
def test_what_was_tuned_with_a_lora_is_extracted_exactly(rng, size):
    adapter, W = drawn(rng, *size, 3), rng.standard_normal(size)
    cut = extracted(adapter.merge(W), W, 3)
    assert cut.adapter.scale == 1.0
    assert_close(cut.adapter.delta(), adapter.delta(), "routes", "ΔW")
    assert cut.spectrum.shape == (min(size),)
    assert_close(
        extracted(adapter.merge(W), W, 3, 0.3).adapter.delta(), adapter.delta(), "routes", "ΔW"
    )


def test_ranks_and_scales_that_cannot_be_are_refused(rng):
    adapter = drawn(rng, 11, 7, 3)
    with pytest.raises(ValueError, match="truncated: rank must be an integer of at least 1, got 0"):
        truncated(adapter, 0)
    with pytest.raises(ValueError, match="truncated: scale must not be zero"):
        truncated(adapter, 2, 0.0)
    with pytest.raises(
        ValueError, match="extracted: rank must be an integer of at least 1, got -1"
    ):
        extracted(np.ones((3, 2)), np.ones((3, 2)), -1)
    with pytest.raises(ShapeError, match="extracted: W must be"):
        extracted(np.ones((3, 2)), np.ones((2, 3)), 1)


def test_what_is_below_a_pivot_or_the_tolerance_is_exactly_zero(rng):
    E, pivots = echelon(rng.standard_normal((40, 30)))  # many, since most differences are zero
    assert pivots == tuple(range(30))
    assert not np.tril(E, -1).any()
    assert echelon(np.array([[1.0, 2.0], [0.0, 1e-9]]), 1e-8)[0].tolist() == [[1, 2], [0, 0]]


def test_the_default_tolerance_of_a_pivot_grows_with_the_longer_side():
    M = np.zeros((9, 2))
    M[0, 0], M[1, 1] = 1.0, 5 * np.finfo(np.float64).eps
    assert echelon_rank(M) == 1
    assert echelon_rank(M[:2]) == 2


def test_a_matrix_without_rows_has_rank_zero():
    assert echelon_rank(np.zeros((0, 3))) == echelon_rank(np.zeros((3, 0))) == 0


@pytest.mark.parametrize("size", [(8, 3), (3, 8)])
def test_zeros_fill_the_right_sides(rng, size):
    adapter, W = drawn(rng, *size, 6), rng.standard_normal(size)
    for cut in (truncated(adapter, 5), extracted(adapter.merge(W), W, 5)):
        assert (cut.adapter.B.shape, cut.adapter.A.shape) == ((size[0], 5), (5, size[1]))
        assert_close(cut.adapter.delta(), adapter.delta(), "routes", "ΔW")
