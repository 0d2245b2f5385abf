"""Updates near the ends of the floating range: right, or refused, and never NaN."""

from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import AdaLoRA, LoRA
from lora_ref.rank import distance, extracted, factored_svd, measures, spectrum, truncated
from lora_ref.rank.allocation import decomposed, ridge_importance
from lora_ref.testing.tolerance import TOLERANCE, assert_close
from lora_ref.trees import tree_map


def drawn(rng, m=11, n=7, rank=3, scale=5 / 3):
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


def sized(adapter, a, b, s=1.0):
    """The same update times a b s."""
    return LoRA(a * adapter.A, b * adapter.B, s * adapter.scale)


# Sizes of A, B and s whose product is 1, or not far from it, though that of two of them is not.
SIZES = [
    (1e200, 1e-200, 1.0),
    (1e-200, 1e-100, 1e300),
    (1e200, 1e150, 1e-300),
    (1e-300, 1.0, 1e250),
    (1.0, 1e300, 1e-300),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_a_spectrum_is_right_where_a_product_of_two_leaves_the_range(rng, sizes):
    adapter = drawn(rng)
    a, b, s = (float(v) for v in sizes)
    factor = np.prod([np.longdouble(v) for v in sizes])
    extreme = sized(adapter, a, b, s)
    assert_close(spectrum(extreme) / float(factor), spectrum(adapter), "libraries", "σ")
    assert measures(spectrum(extreme), (11, 7)).numerical == 3


@pytest.mark.parametrize("sizes", SIZES)
def test_a_truncation_is_right_there_too(rng, sizes):
    adapter, (a, b, s) = drawn(rng), sizes
    factor = float(np.prod([np.longdouble(v) for v in sizes]))
    cut, plain = truncated(sized(adapter, a, b, s), 2, factor), truncated(adapter, 2, 1.0)
    assert_close(cut.adapter.A, plain.adapter.A, "libraries", "A")
    assert_close(cut.adapter.B, plain.adapter.B, "libraries", "B")
    assert cut.error == pytest.approx(factor * plain.error, rel=TOLERANCE["libraries"])


def test_pairs_of_unlike_sizes_do_not_hide_each_other(rng):
    """‖B‖ ‖A‖ is 1e400 here, and the update no larger than that of the plain factors."""
    adapter, c = drawn(rng, rank=2), np.array([1e200, 1e-200])
    unlike = replace(adapter, A=adapter.A / c[:, None], B=adapter.B * c)
    assert_close(spectrum(unlike), spectrum(adapter), "libraries", "σ")


@pytest.mark.parametrize("size", [0.0, 1e-300])
@pytest.mark.parametrize("field", ["A", "B"])
def test_a_pair_that_is_next_to_nothing_leaves_the_others_alone(rng, field, size):
    adapter = drawn(rng)
    A, B = adapter.A.copy(), adapter.B.copy()
    A[1] *= size if field == "A" else 1e-300
    B[:, 1] *= size if field == "B" else 1e-300
    rest = LoRA(np.delete(A, 1, axis=0), np.delete(B, 1, axis=1), adapter.scale)
    assert_close(spectrum(replace(adapter, A=A, B=B))[:2], spectrum(rest), "libraries", "σ")


def test_the_largest_of_each_row_and_column_is_what_balances(rng):
    """Factors of which one entry alone is large: the rest of its pair must not vanish."""
    adapter = drawn(rng)
    A = adapter.A.copy()
    A[1, 2] = 1e250
    large = spectrum(replace(adapter, A=A))
    assert large[0] == pytest.approx(
        abs(adapter.scale) * np.linalg.norm(adapter.B[:, 1]) * 1e250, rel=TOLERANCE["libraries"]
    )


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_the_error_of_a_truncation_is_that_of_its_spectrum_whatever_its_size(rng, size):
    adapter = drawn(rng, rank=4)
    plain, cut = truncated(adapter, 2), truncated(sized(adapter, size, 1.0), 2)
    assert cut.error == pytest.approx(size * plain.error, rel=TOLERANCE["libraries"])


@pytest.mark.parametrize(
    ("a", "b", "s"), [(1e200, 1.0, 1.0), (1e-200, 1.0, 1.0), (1.0, 1.0, 1e250)]
)
def test_a_distance_is_right_whatever_the_sizes(rng, a, b, s):
    first, second = drawn(rng), drawn(rng, rank=2, scale=-0.7)
    apart = distance(sized(first, a, b, s), sized(second, a, b, s))
    assert apart == pytest.approx(a * b * s * distance(first, second), rel=TOLERANCE["libraries"])


@pytest.mark.parametrize("scales", [(0.3, 0.3), (0.3, -0.3), (-0.3, 0.3), (-0.3, -0.3)])
@pytest.mark.parametrize("size", [1.0, 1e-200])
def test_a_distance_knows_the_sign_of_each_scale(rng, scales, size):
    first, second = drawn(rng, scale=scales[0]), drawn(rng, scale=scales[1])
    apart = size * np.linalg.norm(first.delta() - second.delta())
    small = [sized(adapter, 1.0, 1.0, size) for adapter in (first, second)]
    assert distance(*small) == pytest.approx(apart, rel=TOLERANCE["routes"])


def test_the_distance_to_nothing_is_the_norm(rng):
    adapter = drawn(rng)
    nothing = replace(adapter, B=0 * adapter.B)
    norm = pytest.approx(np.linalg.norm(adapter.delta()), rel=TOLERANCE["routes"])
    assert distance(adapter, nothing) == norm
    assert distance(nothing, adapter) == norm
    assert distance(nothing, nothing) == 0.0


TOO_LARGE = {"A": (1e200, 1e200, 1.0), "scale": (1e10, 1e10, 1e300), "all": (1e300, 1e300, 1e300)}
TOO_SMALL = {"A": (1e-200, 1e-200, 1.0), "scale": (1e-10, 1e-10, 1e-300)}


@pytest.mark.parametrize("function", [spectrum, factored_svd, lambda a: truncated(a, 2)])
@pytest.mark.parametrize("sizes", [*TOO_LARGE.values(), *TOO_SMALL.values()])
def test_a_spectrum_that_no_number_holds_is_refused(rng, function, sizes):
    wanted = (
        r"σ₁ must be from 2.23e-308 to 1.8e\+308, the range of float64|the size of adapter must"
    )
    with pytest.raises(ValueError, match=wanted):
        function(sized(drawn(rng), *sizes))


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_a_single_number_that_no_number_holds_is_refused_too(size):
    with pytest.raises(ValueError, match="spectrum: σ₁ must be from"):
        spectrum(LoRA(np.full((1, 1), size), np.full((1, 1), size), 1.0))


def test_pairs_that_cancel_have_a_spectrum_of_zero():
    A, B = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, -1.0]])
    assert spectrum(LoRA(A, B, 0.5)).tolist() == [0.0]


@pytest.mark.parametrize("scale", [2.0**-126, (2 - 2.0**-23) * 2.0**127])
def test_both_ends_of_the_range_are_in_it(scale):
    ones = LoRA(np.ones((1, 4), np.float32), np.ones((5, 1), np.float32), 1.0)
    assert truncated(ones, 1, scale).adapter.scale == scale


def test_the_range_is_that_of_the_type(rng, library):
    small = LoRA(np.ones((1, 4), np.float32), np.ones((5, 1), np.float32), 1e-40)
    with pytest.raises(ValueError, match=r"spectrum: σ₁ must be from 1.18e-38 to 3.4e\+38"):
        spectrum(tree_map(library.convert, small))
    with pytest.raises(ValueError, match=r"truncated: \|scale\| must be from 1.18e-38 to 3.4e\+38"):
        truncated(tree_map(library.convert, replace(small, scale=1.0)), 1, 1e-40)


@pytest.mark.parametrize("sizes", TOO_LARGE.values())
def test_a_distance_that_no_number_holds_is_refused(rng, sizes):
    first = sized(drawn(rng), *sizes)
    with pytest.raises(ValueError, match=r"distance: .* must be in the range of float64"):
        distance(first, drawn(rng))


@pytest.mark.parametrize("large", [1e-200, 1.0, 1e300])
def test_factors_of_zero_have_a_spectrum_of_zeros_however_large_the_others(rng, large):
    adapter = drawn(rng)
    nothing = LoRA(large * adapter.A, 0 * adapter.B, 1e300)
    assert not spectrum(nothing).any()
    assert not spectrum(replace(sized(adapter, large, 1.0), scale=0.0)).any()
    U, S, Vt = factored_svd(nothing)
    assert np.isfinite(U).all()
    assert np.isfinite(Vt).all()
    assert not S.any()


@pytest.mark.parametrize(("m", "n", "rank"), [(0, 7, 3), (11, 0, 3), (11, 7, 0)])
def test_an_update_without_entries_has_no_singular_values(rng, m, n, rank):
    assert spectrum(drawn(rng, m, n, rank)).shape == (0,)


def test_a_difference_without_entries_is_made_up_by_zeros():
    cut = extracted(np.ones((0, 4)), np.ones((0, 4)), 1)
    assert (cut.adapter.B.shape, cut.adapter.A.tolist()) == ((0, 1), [[0.0] * 4])


def test_a_difference_that_no_number_holds_is_refused(rng):
    W = np.full((3, 2), 1.5e308)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="W_tuned − W must be finite"):
        extracted(W, -W, 1)
    with pytest.raises(ValueError, match="extracted: σ₁ must be from"):
        extracted(W, 0 * W, 1)
    assert extracted(W, W, 1).error == 0.0


def test_decomposing_triplets_of_extreme_sizes_is_right(rng):
    P, Q = rng.standard_normal((7, 3)), rng.standard_normal((3, 5))
    plain = decomposed(AdaLoRA(P, np.ones(3), Q, 0.5))
    extreme = decomposed(AdaLoRA(1e200 * P, np.full(3, 1e-150), 1e-50 * Q, 0.5))
    assert_close(extreme.lam, plain.lam, "libraries", "λ")


def test_no_importance_leaves_zero_to_one_however_large_the_singular_value():
    sigma = np.array([1e308, 1e200, 1.0, 1e-200, 0.0])
    assert ridge_importance(sigma, 1.0).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert ridge_importance(sigma, 1e-300).tolist() == pytest.approx([1.0, 1.0, 1.0, 1e-100, 0.0])
    assert ridge_importance(-sigma, 1.0).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
