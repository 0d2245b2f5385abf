"""Moments, CorDA and EVA: what each takes from the activations, and what they promise for it."""

import numpy as np
import pytest

from lora_ref.adapters.lora import scaling
from lora_ref.init import (
    adjusted_alpha,
    components,
    components_of,
    corda_instruction,
    corda_knowledge,
    cosines,
    damped,
    eva,
    eva_from_covariance,
    moments,
    redistributed,
    sample_correlation,
    together,
    whitened,
    with_batch,
)
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close, relative_error, to_numpy

S = 5 / 3


def activations(rng, rows=29, n=7):
    """Rows with a mean and directions that differ in size."""
    turned = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return rng.standard_normal((rows, n)) * 0.7 ** np.arange(n) @ turned + rng.standard_normal(n)


def running(x):
    return moments(x[:5, :]).with_batch(x[5:6, :]).with_batch(x[6:, :])


def test_moments_of_batches_are_those_of_all_rows(library, rng):
    x = activations(rng)
    found = running(library.convert(x))
    assert found.count == 29
    assert_close(found.mean, np.mean(x, axis=0), "routes", "mean")
    assert_close(found.covariance(), np.cov(x, rowvar=False), "routes", "covariance")
    assert_close(found.correlation(), x.T @ x / 29, "routes", "correlation")


def test_moments_do_not_depend_on_the_order_of_the_batches(rng):
    x = activations(rng)
    a, b = moments(x[:11]), moments(x[11:])
    assert_close(together(a, b).scatter, together(b, a).scatter, "routes", "scatter")
    assert_close(together(a, b).mean, together(b, a).mean, "routes", "mean")


def test_moments_take_leading_axes_as_rows(rng):
    x = activations(rng, 24)
    found = moments(x.reshape(2, 3, 4, 7))
    assert np.array_equal(found.scatter, moments(x).scatter)


def test_a_large_mean_costs_the_covariance_no_digits(rng):
    """In float32 a mean of 1e4 would leave nothing of Σ x xᵀ / N − μ μᵀ."""
    x = np.round(rng.standard_normal((29, 7)), 2)
    shifted = (np.round(x, 2) + 4096).astype(np.float32)
    exact = np.cov(shifted.astype(np.float64), rowvar=False)
    assert relative_error(running(shifted).covariance(), exact) < 1e-4


def test_one_row_has_no_covariance(rng):
    with pytest.raises(ValueError, match=r"Moments.covariance: .* at least 2 rows, got 1"):
        moments(rng.standard_normal((1, 7))).covariance()
    two = moments(rng.standard_normal((2, 7)))
    assert np.linalg.matrix_rank(two.covariance()) == 1


def test_no_row_has_no_moments():
    with pytest.raises(ValueError, match=r"moments: x must not be empty, got \(0, 7\)"):
        moments(np.ones((0, 7)))


@pytest.fixture(params=[(11, 7), (7, 11)], ids=str)
def weighted(request, rng):
    """A weight and the damped correlation of its inputs."""
    m, n = request.param
    return rng.standard_normal((m, n)), damped(moments(activations(rng, n=n)).correlation())


def test_corda_for_instructions_takes_what_matters_most_to_the_inputs(weighted):
    W, C = weighted
    lora, W_res = corda_instruction(W, C, 3, S)
    lengths = np.linalg.svd(W @ C, compute_uv=False)
    taken = np.linalg.svd(lora.delta() @ C, compute_uv=False)
    assert_close(taken[:3], lengths[:3], "routes", "of s B A C")
    assert_close(np.linalg.norm(W_res @ C), np.linalg.norm(lengths[3:]), "routes", "‖W_res C‖")


def test_corda_for_knowledge_takes_what_matters_least(weighted):
    W, C = weighted
    lora, W_res = corda_knowledge(W, C, 3, S)
    lengths = np.linalg.svd(W @ C, compute_uv=False)
    assert_close(np.linalg.norm(lora.delta() @ C), np.linalg.norm(lengths[-3:]), "routes", "taken")
    assert_close(np.linalg.svd(W_res @ C, compute_uv=False)[:4], lengths[:4], "routes", "left")


@pytest.mark.parametrize("mode", [corda_instruction, corda_knowledge])
def test_corda_weights_the_inputs_by_any_regular_matrix(mode, rng):
    """Symmetric or not."""
    W, C = rng.standard_normal((11, 7)), rng.standard_normal((7, 7))
    U, lengths, Vt = np.linalg.svd(W @ C, full_matrices=False)
    part = slice(0, 3) if mode is corda_instruction else slice(4, 7)
    taken = mode(W, C, 3, S)[0].delta() @ C
    assert_close(taken, U[:, part] * lengths[part] @ Vt[part], "routes", "s B A C")


@pytest.mark.parametrize("mode", [corda_instruction, corda_knowledge])
def test_cordas_B_has_orthogonal_columns_of_length_root_S_over_s(mode, weighted):
    W, C = weighted
    lora, _ = mode(W, C, 3, S)
    lengths = np.linalg.svd(W @ C, compute_uv=False)
    chosen = lengths[:3] if mode is corda_instruction else lengths[-3:]
    assert_close(lora.B.T @ lora.B, np.diag(chosen / S), "routes", "Bᵀ B")
    assert_close(lora.A @ C @ C @ lora.A.T, np.diag(chosen / S), "routes", "A C² Aᵀ")


def test_with_inputs_alike_in_all_directions_corda_is_pissa(rng):
    from lora_ref.init import pissa

    W = rng.standard_normal((11, 7))
    assert_close(corda_instruction(W, 4 * np.eye(7), 3, S)[1], pissa(W, 3, S)[1], "routes", "W_res")


def test_the_size_of_the_correlation_moves_corda_from_one_factor_to_the_other(weighted):
    W, C = weighted
    (one, W_res), (hundred, W_res_too) = (corda_instruction(W, c * C, 3, S) for c in (1, 100))
    assert_close(W_res_too, W_res, "routes", "W_res")
    assert_close(hundred.B, 10 * one.B, "routes", "B")
    assert_close(hundred.A, one.A / 10, "routes", "A")


def test_damping_adds_a_hundredth_of_the_mean_of_the_diagonal(library, rng):
    C = moments(activations(rng)).correlation()
    expected = C + 0.01 * np.mean(np.diag(C)) * np.eye(7)
    assert_close(damped(library.convert(C)), expected, "routes", "damped")


def test_damping_makes_a_correlation_of_few_inputs_regular(rng):
    C = moments(rng.standard_normal((2, 7))).correlation()
    assert np.linalg.matrix_rank(C) == 2
    assert np.linalg.cond(damped(C)) < 1e3


def test_damping_is_doubled_until_there_is_an_inverse(rng):
    """A matrix that a hundredth makes singular up to rounding."""
    turned = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    least = -0.06 / 7.01 + 5e-16  # plus 0.01 (6 + least)/7 is 5e-16
    C = turned * np.array([*[1.0] * 6, least]) @ turned.T
    expected = C + 0.02 * np.mean(np.diag(C)) * np.eye(7)
    assert_close(damped(C), expected, "routes", "damped twice")


def test_damping_reaches_to_the_end_of_the_range(library):
    """The trace of this matrix is beyond the range, the mean of its diagonal is not."""
    C = 3e307 * np.eye(7)
    assert_close(damped(library.convert(C)), 3.03e307 * np.eye(7), "routes", "damped")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_damping_ends_at_the_end_of_the_range(dtype, library):
    """What is added to such a matrix would make it infinite, however often it is doubled."""
    C = np.eye(2, dtype=dtype) * np.finfo(dtype).max
    with pytest.raises(ValueError, match=r"damped: C must be small enough .* in .*float"):
        damped(library.convert(C))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_correlation_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=f"damped: C must have a positive trace, .* {value}"):
        damped(np.full((3, 3), value))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_correlation_with_one_bad_element_is_refused(value, library):
    C = np.eye(3)
    C[0, 2] = value
    with pytest.raises(ValueError, match="damped: C must be finite"):
        damped(library.convert(C))


@pytest.mark.parametrize("mode", [corda_instruction, corda_knowledge])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_correlation_of_fewer_inputs_than_axes_is_refused_until_it_is_damped(
    mode, dtype, library, rng
):
    W, x = (rng.standard_normal(shape).astype(dtype) for shape in ((11, 7), (5, 7)))
    C = library.convert(moments(x).correlation())
    with pytest.raises(ValueError, match=rf"{mode.__name__}: C must be regular in .*`damped`"):
        mode(library.convert(W), C, 3, S)
    W_res = mode(library.convert(W), damped(C), 3, S)[1]
    assert np.linalg.norm(to_numpy(W_res)) < 2 * np.linalg.norm(W)


@pytest.mark.parametrize("mode", [corda_instruction, corda_knowledge])
@pytest.mark.parametrize(
    ("least", "said"), [(0.0, "is infinite"), (1e-15, r"is 1\.0e\+15"), (1e-14, None)]
)
def test_a_correlation_is_regular_up_to_a_condition_of_one_over_n_epsilon(mode, least, said, rng):
    """1/(7 · 2⁻⁵²) is 6.4e14."""
    W, C = rng.standard_normal((11, 7)), np.diag([1.0] * 6 + [least])
    if said is None:
        assert np.all(np.isfinite(mode(W, C, 3, S)[1]))
        return
    with pytest.raises(ValueError, match=f"its condition {said}; `damped` makes it so"):
        mode(W, C, 3, S)


def test_a_correlation_of_zeros_is_refused():
    with pytest.raises(ValueError, match="corda_instruction: C must be regular"):
        corda_instruction(np.ones((11, 7)), np.zeros((7, 7)), 3, S)


@pytest.mark.parametrize("mode", [corda_instruction, corda_knowledge])
def test_a_correlation_of_another_type_than_the_weight_is_refused(mode, weighted, library):
    W, C = map(library.convert, (weighted[0].astype(np.float32), weighted[1]))
    with pytest.raises(TypeError, match=r"C must be of the type \S*float32 .*, got \S*float64"):
        mode(W, C, 3, S)


def test_in_16_bits_the_correlation_may_be_of_32():
    W, C = np.arange(77, dtype=np.float16).reshape(11, 7), np.eye(7, dtype=np.float32)
    assert corda_instruction(W, C, 3, S)[0].A.dtype == np.float32


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy says so too
def test_a_weight_and_a_correlation_whose_product_is_not_finite_are_refused():
    with pytest.raises(ValueError, match="corda_instruction: W C must be finite"):
        corda_instruction(np.full((11, 7), 1e200), 1e200 * np.eye(7), 3, S)


def test_a_sample_counts_once_whatever_its_size(library, rng):
    x = [np.abs(activations(rng, rows)) * size for rows, size in ((5, 1e3), (8, 1e-3))]
    expected = sum((t / t.max()).T @ (t / t.max()) for t in x) / 2
    assert_close(sample_correlation(map(library.convert, x)), expected, "routes", "correlation")


def test_a_sample_is_divided_by_its_largest_element_not_by_its_largest_size():
    x = np.array([[-4.0, 1.0], [2.0, -8.0]])
    assert_close(sample_correlation([x]), x.T @ x / 4, "routes", "correlation")
    assert_close(sample_correlation([-x]), x.T @ x / 64, "routes", "correlation")


def test_samples_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="largest element of sample 1 must not be zero"):
        sample_correlation([np.ones((2, 3)), np.array([[0.0, -1.0, -2.0]])])
    with pytest.raises(ValueError, match="samples must hold at least one sample, got none"):
        sample_correlation([])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused(value, library):
    x = np.ones((2, 3))
    x[1, 2] = value
    with pytest.raises(ValueError, match="sample_correlation: sample 1 must be finite"):
        sample_correlation(map(library.convert, (np.ones((2, 3)), x)))


def test_a_sample_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"sample 1 must not be empty, got \(0, 3\)"):
        sample_correlation([np.ones((2, 3)), np.ones((0, 3))])


def test_samples_of_several_widths_are_refused():
    with pytest.raises(ShapeError, match=r"sample 1 must be .* n = 3 from sample 0, got \(4, 2\)"):
        sample_correlation([np.ones((2, 3)), np.ones((4, 2))])


def test_batches_of_several_widths_are_refused(rng):
    three, four = rng.standard_normal((5, 3)), rng.standard_normal((5, 4))
    with pytest.raises(ShapeError, match=r"together: b.mean .* n = 3 from a.mean, got \(4,\)"):
        together(moments(three), moments(four))
    with pytest.raises(ShapeError, match=r"Moments.with_batch: x .* n = 3 from .*got \(5, 4\)"):
        moments(three).with_batch(four)
    with pytest.raises(ShapeError, match=r"with_batch: X .* n = 3 from seen.V, got \(5, 4\)"):
        with_batch(components(three, 2), four)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(value, library, rng):
    x = activations(rng)
    seen = components(library.convert(x), 3)
    x[2, 1] = value
    bad = library.convert(x)
    with pytest.raises(ValueError, match="moments: x must be finite, has NaN or infinity"):
        moments(bad)
    with pytest.raises(ValueError, match="components: X must be finite, has NaN or infinity"):
        components(bad, 3)
    with pytest.raises(ValueError, match="with_batch: X must be finite, has NaN or infinity"):
        with_batch(seen, bad)


def test_activations_without_rows_are_refused(rng):
    none, seen = np.ones((2, 0, 7)), components(activations(rng), 3)
    with pytest.raises(ValueError, match=r"eva: x must not be empty, got \(2, 0, 7\)"):
        eva(np.ones((11, 7)), none, 3, S)
    with pytest.raises(ValueError, match=r"components: X must not be empty"):
        components(none, 3)
    with pytest.raises(ValueError, match=r"with_batch: X must not be empty"):
        with_batch(seen, none)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # NumPy says so too
def test_activations_that_are_finite_only_with_their_mean_are_refused():
    x = np.array([[1.5e308, 0.0], [-1.5e308, 1.0], [-1.5e308, 2.0]])
    with pytest.raises(ValueError, match="eva: x less its mean must be finite"):
        eva(np.ones((11, 2)), x, 1, S)
    with pytest.raises(ValueError, match="components: X less its mean must be finite"):
        components(x, 1)


def test_eva_keeps_as_much_of_the_activations_as_rank_allows(rng):
    x, W = activations(rng), rng.standard_normal((11, 7))
    A = eva(W, x, 3, S)[0].A
    X = x - np.mean(x, axis=0)
    lengths = np.linalg.svd(X, compute_uv=False)
    assert_close(A @ A.T, np.eye(3), "routes", "A Aᵀ")
    assert_close(np.linalg.norm(X - X @ A.T @ A), np.linalg.norm(lengths[3:]), "routes", "missed")


def test_eva_from_the_running_covariance_is_eva(rng):
    x, W = activations(rng), rng.standard_normal((11, 7))
    expected = eva(W, x.reshape(1, 29, 7), 3, S)[0].A
    found = eva_from_covariance(W, running(x).covariance(), 3, S)[0]
    assert_close(found.A, expected, "routes", "A")
    assert not found.B.any()
    assert found.B.shape == (11, 3)


def test_eva_does_not_see_the_mean_and_from_a_correlation_it_does(rng):
    x, W = activations(rng), rng.standard_normal((11, 7))
    shift = 5 * rng.standard_normal(7)
    assert_close(eva(W, x + shift, 3, S)[0].A, eva(W, x, 3, S)[0].A, "routes", "A")
    about_zero = eva_from_covariance(W, moments(x + shift).correlation(), 1, S)[0].A
    mean = np.mean(x + shift, axis=0)
    assert abs(about_zero @ mean)[0] > 0.99 * np.linalg.norm(mean)


def test_fewer_rows_than_ranks_are_refused(rng):
    W = rng.standard_normal((11, 7))
    with pytest.raises(
        ValueError, match=r"eva: rank must be an integer from 1 to 3, for x \(4, 7\), got 4"
    ):
        eva(W, rng.standard_normal((4, 7)), 4, S)
    assert eva(W, rng.standard_normal((4, 7)), 3, S)[0].A.shape == (3, 7)


def test_inputs_of_another_width_are_refused(rng):
    with pytest.raises(
        ShapeError, match=r"x must be \(\.\.\., n\) with n = 7 from W, got \(4, 6\)"
    ):
        eva(np.ones((11, 7)), np.ones((4, 6)), 2, S)


def test_whitened_by_variances_the_bottleneck_has_variance_one(rng):
    x = activations(rng)
    seen = components(x, 3)
    u = x @ whitened(seen.V, seen.variances()).T
    assert_close(np.cov(u, rowvar=False), np.eye(3), "routes", "cov u")


def test_whitened_by_lengths_as_peft_does_it_has_not(rng):
    x = activations(rng)
    seen = components(x, 3)
    u = x @ whitened(seen.V, seen.lengths).T
    assert_close(np.cov(u, rowvar=False), np.diag(seen.lengths) / 28, "routes", "cov u")


def test_all_components_batch_by_batch_are_those_of_all_rows(library, rng):
    x = activations(rng, 40, 4)
    parts = [library.convert(t) for t in (x[:9], x[9:14], x[14:])]
    seen = components(parts[0], 4)
    for part in parts[1:]:
        seen = with_batch(seen, part)
    X = x - np.mean(x, axis=0)
    assert_close(seen.lengths, np.linalg.svd(X, compute_uv=False), "routes", "lengths")
    assert_close(seen.mean, np.mean(x, axis=0), "routes", "mean")
    assert seen.count == 40
    assert abs(seen.total - np.sum(X**2)) < 1e-10 * np.sum(X**2)
    cov = np.cov(x, rowvar=False)
    V = to_numpy(seen.V)
    assert_close(V @ cov @ V.T, np.diag(to_numpy(seen.variances())), "routes", "V C Vᵀ")
    assert abs(np.sum(to_numpy(seen.ratios())) - 1) < 1e-12


def test_few_components_of_inputs_of_that_rank_are_exact(rng):
    x = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 7))
    seen = with_batch(with_batch(components(x[:9], 2), x[9:14]), x[14:])
    X = x - np.mean(x, axis=0)
    assert_close(seen.lengths, np.linalg.svd(X, compute_uv=False)[:2], "routes", "lengths")
    assert_close(X @ seen.V.T @ seen.V, X, "routes", "X")


def test_a_batch_with_fewer_rows_than_components_is_refused(rng):
    seen = components(rng.standard_normal((9, 7)), 3)
    with pytest.raises(
        ValueError, match=r"with_batch: rank must be an integer from 1 to 2, for X \(2, 7\)"
    ):
        with_batch(seen, rng.standard_normal((2, 7)))
    with pytest.raises(
        ValueError, match=r"components: rank must be an integer from 1 to 2, for X \(2, 7\)"
    ):
        components(rng.standard_normal((2, 7)), 3)


def test_cosines_are_of_directions(rng):
    V = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    before = np.array([[3.0, 0.0], [5.0, 0.0], [0.0, -4.0]])
    assert_close(cosines(V, before), np.array([1.0, 0.0, -(0.5**0.5)]), "routes", "cosines")


def test_ranks_go_where_a_component_explains_most():
    ratios = {"a": [0.5, 0.2, 0.1, 0.05], "b": [0.3, 0.15, 0.01, 0.0], "c": [0.09, 0.08, 0.0, 0.0]}
    assert redistributed(ratios, {"a": 2, "b": 2, "c": 2}) == {"a": 3, "b": 2, "c": 1}
    assert redistributed(ratios, {"a": 2, "b": 2, "c": 2}, rho=1.0) == {"a": 2, "b": 2, "c": 2}
    assert redistributed(ratios, {"a": 1, "b": 2, "c": 0}, rho=2.0) == {"a": 2, "b": 1, "c": 0}


def test_all_ranks_together_stay_as_many(rng):
    ratios = {name: np.sort(rng.random(8))[::-1] for name in "abcd"}
    ranks = {"a": 4, "b": 1, "c": 3, "d": 2}
    assert sum(redistributed(ratios, ranks).values()) == 10


def test_of_layers_with_the_same_inputs_the_first_has_the_highest_rank():
    ratios = {"q": [0.5, 0.3], "k": [0.5, 0.3], "v": [0.5, 0.3], "o": [0.2, 0.1]}
    ranks = dict.fromkeys(ratios, 1)
    assert redistributed(ratios, ranks) == {"q": 2, "k": 1, "v": 1, "o": 0}


def test_a_layer_enters_with_rho_times_its_rank():
    assert [components_of(3, rho) for rho in (1.0, 1.2, 1.5, 2.0)] == [3, 4, 4, 6]
    with pytest.raises(ValueError, match=r"components_of: rho must be at least 1, got 0.9"):
        components_of(3, 0.9)


@pytest.mark.parametrize("rho", [np.nan, np.inf, "2"])
def test_a_rho_that_is_no_finite_number_is_refused(rho):
    with pytest.raises(ValueError, match=f"components_of: rho must be a finite .* got {rho!r}"):
        components_of(3, rho)


@pytest.mark.parametrize("ratio", [np.nan, np.inf])
def test_ratios_that_cannot_be_compared_are_refused(ratio):
    with pytest.raises(ValueError, match=f"each ratio of 'b' must be a finite .* got {ratio}"):
        redistributed({"a": [0.5], "b": [0.5, ratio]}, {"a": 1, "b": 1})


@pytest.mark.parametrize("rank", [1.0, True, "1"])
def test_ranks_that_are_no_integers_are_refused(rank):
    with pytest.raises(ValueError, match=f"rank of 'a' must be an integer .* got {rank!r}"):
        redistributed({"a": [0.5]}, {"a": rank})
    with pytest.raises(ValueError, match=f"components_of: rank must be an .* got {rank!r}"):
        components_of(rank, 2.0)


def test_the_scale_stays_when_alpha_grows_with_the_rank():
    assert scaling(adjusted_alpha(5, 3, 7), 7) == pytest.approx(scaling(5, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((8, 0, 3), "rank must be an integer of at least 1, got 0"),
        ((8, 2.0, 3), "rank must be an integer of at least 1, got 2.0"),
        ((8, 2, -1), "new_rank must be an integer of at least 0, got -1"),
        ((np.nan, 2, 3), "alpha must be a finite number, got nan"),
    ],
)
def test_an_alpha_without_a_scale_is_refused(given, message):
    with pytest.raises(ValueError, match=f"adjusted_alpha: {message}"):
        adjusted_alpha(*given)


def test_ratios_and_ranks_must_name_the_same_layers():
    with pytest.raises(ValueError, match=r"same layers, got \['a'\] and \['b'\]"):
        redistributed({"a": [0.5]}, {"b": 1})
    with pytest.raises(ValueError, match=r"the rank of 'a' must be an integer of .* got -1"):
        redistributed({"a": [0.5]}, {"a": -1})
