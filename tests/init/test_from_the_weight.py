"""PiSSA, OLoRA, MiCA and orthogonal factors: what each takes from the weight, and why."""

import numpy as np
import pytest

from lora_ref.init import mica, olora, orthogonal, pissa, pissa_randomized
from lora_ref.init.decomposition import qr, randomized_svd, svd
from lora_ref.testing.tolerance import assert_close

SHAPES = pytest.mark.parametrize("shape", [(11, 7), (7, 11), (6, 6)], ids=str)
S = 5 / 3


def spread(rng, shape, falling=0.3):
    """A matrix whose singular values fall by `falling` each."""
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return U * falling ** np.arange(min(shape)) @ Vt


@SHAPES
def test_pissa_leaves_the_trailing_singular_values_in_the_weight(shape, rng):
    W = rng.standard_normal(shape)
    lora, W_res = pissa(W, 3, S)
    lengths = np.linalg.svd(W, compute_uv=False)
    left = np.linalg.svd(W_res, compute_uv=False)
    assert_close(left[:-3], lengths[3:], "routes", "singular values of W_res")
    assert np.all(left[-3:] < 1e-14 * lengths[0])
    found = np.linalg.svd(lora.delta(), compute_uv=False)
    assert_close(found[:3], lengths[:3], "routes", "singular values of s B A")


@SHAPES
def test_pissa_gives_both_factors_the_same_size(shape, rng):
    W = rng.standard_normal(shape)
    lora, _ = pissa(W, 3, S)
    half = np.diag(np.linalg.svd(W, compute_uv=False)[:3] / S)
    assert_close(lora.A @ lora.A.T, half, "routes", "A Aᵀ")
    assert_close(lora.B.T @ lora.B, half, "routes", "Bᵀ B")


def test_pissa_takes_the_same_out_of_the_weight_at_every_scale(rng):
    W = rng.standard_normal((11, 7))
    assert_close(pissa(W, 3, 0.1)[1], pissa(W, 3, 7.0)[1], "routes", "W_res")


@SHAPES
def test_a_randomised_svd_of_falling_singular_values_is_the_svd(shape, rng):
    W = spread(rng, shape, 1e-2)
    exact, near = pissa(W, 2, S), pissa_randomized(W, 2, S, rng, iterations=3)
    assert_close(near[0].A, exact[0].A, "routes", "A")
    assert_close(near[0].B, exact[0].B, "routes", "B")


@SHAPES
def test_a_sketch_as_wide_as_the_weight_is_exact(shape, rng):
    W = rng.standard_normal(shape)
    exact = pissa(W, 2, S)
    near = pissa_randomized(W, 2, S, rng, iterations=0, oversampling=20)
    assert_close(near[0].A, exact[0].A, "routes", "A")
    assert_close(near[1], exact[1], "routes", "W_res")


def missed(W, iterations, oversampling):
    """The mean error of 20 sketches beyond the least that rank 3 allows."""
    best = np.linalg.norm(pissa(W, 3, S)[1])
    errors = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        U, lengths, Vt = randomized_svd("near", W, 3, rng, iterations, oversampling)
        assert U.shape == (31, 3)
        assert Vt.shape == (3, 23)
        errors.append(np.linalg.norm(W - U * lengths @ Vt) - best)
    return np.mean(errors)


def test_iterations_and_oversampling_both_bring_the_sketch_nearer(rng):
    W = spread(rng, (31, 23), 0.7)
    plain = missed(W, 0, 0)
    assert 0 < missed(W, 1, 0) < 0.3 * plain
    assert 0 < missed(W, 2, 0) < 0.6 * missed(W, 1, 0)
    assert 0 < missed(W, 0, 4) < 0.3 * plain


def test_a_sketch_has_the_rank_and_the_oversampling_for_columns(rng):
    sizes = []

    class Drawn:
        def standard_normal(self, size):
            sizes.append(tuple(size))
            return rng.standard_normal(size)

    W = rng.standard_normal((11, 7))
    pissa_randomized(W, 3, S, Drawn(), oversampling=2)
    pissa_randomized(W.T, 3, S, Drawn())
    pissa_randomized(W, 3, S, Drawn(), oversampling=9)
    assert sizes == [(7, 5), (7, 3), (7, 7)]


def test_four_iterations_are_the_default(rng):
    W = rng.standard_normal((11, 7))
    draws = rng.standard_normal((7, 3))

    class Same:
        def standard_normal(self, size):
            return draws

    expected = pissa_randomized(W, 3, S, Same(), iterations=4, oversampling=0)[0].A
    assert np.array_equal(pissa_randomized(W, 3, S, Same())[0].A, expected)


@SHAPES
def test_the_largest_element_of_each_right_singular_vector_is_positive(shape, rng):
    W, of = rng.standard_normal(shape), ("svd", "W")
    for U, lengths, Vt in (svd(*of, W), svd(*of, -W), randomized_svd("near", W, 3, rng, 1)):
        largest = np.take_along_axis(Vt, np.argmax(np.abs(Vt), axis=1)[:, None], axis=1)
        assert np.all(largest > 0)
        assert U.shape[1] == lengths.shape[0]
    U, lengths, Vt = svd(*of, W)
    assert_close(U * lengths @ Vt, W, "routes", "W")


def test_a_vector_of_two_opposite_elements_has_a_sign():
    U, lengths, Vt = svd("svd", "W", np.array([[1.0, -1.0], [0.0, 0.0]]))
    assert_close(U * lengths @ Vt, np.array([[1.0, -1.0], [0.0, 0.0]]), "routes", "W")


@SHAPES
def test_olora_is_the_qr_decomposition_with_a_positive_diagonal(shape, rng):
    W = rng.standard_normal(shape)
    lora, _ = olora(W, 3, S)
    assert_close(lora.B.T @ lora.B, np.eye(3), "routes", "Bᵀ B")
    assert np.all(np.tril(lora.A, -1) == 0)
    assert np.all(np.diag(lora.A) > 0)
    Q, R = qr("qr", "W", W)
    assert_close(Q @ R, W, "routes", "Q R")


@SHAPES
def test_olora_takes_out_the_projection_on_the_first_columns_s_times(shape, rng):
    W = rng.standard_normal(shape)
    lora, W_res = olora(W, 3, S)
    first = W[:, :3]
    projected = first @ np.linalg.lstsq(first, W, rcond=None)[0]
    assert_close(lora.delta(), S * projected, "routes", "s B A")
    assert_close(W_res[:, :3], (1 - S) * first, "routes", "the first columns of W_res")


@SHAPES
def test_micas_B_is_orthonormal_and_reached_least_by_the_weight(shape, rng):
    W = rng.standard_normal(shape)
    lora, _ = mica(W, 3, S)
    assert_close(lora.B.T @ lora.B, np.eye(3), "routes", "Bᵀ B")
    reached = np.linalg.svd(lora.B.T @ W, compute_uv=False)
    assert_close(reached, np.linalg.svd(W, compute_uv=False)[-3:], "routes", "‖Bᵀ W‖")
    assert not lora.A.any()
    assert lora.A.shape == (3, shape[1])


def test_what_mica_learns_in_A_stays_in_the_span_of_B(rng):
    W = rng.standard_normal((11, 7))
    lora, _ = mica(W, 3, S)
    dy, x = rng.standard_normal((5, 11)), rng.standard_normal((5, 7))
    d = lora.apply(x, W)[1](dy)[1]
    assert d.A.any()
    assert not d.B.any()


@pytest.mark.parametrize("shape", [(11, 7), (7, 11)], ids=str)
def test_orthogonal_factors_have_a_product_of_zero_and_are_not_zero(shape, rng):
    lora, _ = orthogonal(rng.standard_normal(shape), 4, S, rng)
    assert np.max(np.abs(lora.B @ lora.A)) < 1e-15
    lengths = [np.linalg.svd(t, compute_uv=False) for t in (lora.A, lora.B)]
    assert all(np.all(t[:2] > 0.05) and np.all(t[2:] < 1e-15) for t in lengths)


def test_the_elements_of_orthogonal_factors_have_the_size_that_peft_gives_them():
    """Rows of Q₀ are r/2 unit vectors of r numbers: the variance is (1/10)² · 1/2."""
    rng = np.random.default_rng(0)
    lora, _ = orthogonal(np.zeros((400, 300)), 8, S, rng)
    for t in (lora.A, lora.B):
        assert 0.95 < np.std(t) / (0.1 * 0.5**0.5) < 1.05


@pytest.mark.parametrize("rank", [1, 3])
def test_an_odd_rank_has_no_orthogonal_factors(rank, rng):
    with pytest.raises(ValueError, match=f"orthogonal: rank must be even, .* got {rank}"):
        orthogonal(np.ones((11, 7)), rank, S, rng)


@pytest.mark.parametrize("start", [pissa, mica])
def test_a_finite_weight_whose_singular_values_are_not_is_refused(start):
    """With entries near the end of the range the largest singular value is beyond it."""
    W = np.full((5, 4), 1e308)
    with pytest.raises(ValueError, match=r"the singular values of W must be finite, has NaN or"):
        start(W, 2, S)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # NumPy says so too
def test_a_finite_weight_whose_sketch_is_not_finite_is_refused(rng):
    with pytest.raises(ValueError, match="pissa_randomized: the sketch Qᵀ W must be finite"):
        pissa_randomized(np.full((5, 4), 1e308), 2, S, rng)


@pytest.mark.parametrize("start", [pissa, olora, mica, orthogonal])
def test_a_weight_without_rows_has_no_rank(start, rng):
    given = (rng,) if start is orthogonal else ()
    with pytest.raises(ValueError, match=r"rank must be .* from 1 to 0, for W \(0, 6\), got 2"):
        start(np.ones((0, 6)), 2, S, *given)
