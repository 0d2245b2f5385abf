"""What spectra, measures, truncations and eliminations refuse, and that they name it."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from lora_ref.adapters import LoRA
from lora_ref.rank import (
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
    suggested,
    truncated,
    widened,
)
from lora_ref.shapes import ShapeError
from lora_ref.trees import tree_map

NAN, INF = float("nan"), float("inf")


def drawn(rng, m=11, n=7, rank=3, scale=5 / 3):
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


def spoilt(t, value):
    t = t.copy()
    t.flat[1] = value
    return t


def cut(adapter):
    return truncated(adapter, 2)


# Factors


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("field", ["A", "B"])
@pytest.mark.parametrize(
    ("function", "owner"), [(spectrum, "spectrum"), (factored_svd, "factored_svd"), (cut, "trunc")]
)
def test_factors_that_are_not_finite_never_reach_lapack(rng, function, owner, field, value):
    adapter = drawn(rng)
    bad = replace(adapter, **{field: spoilt(getattr(adapter, field), value)})
    with pytest.raises(ValueError, match=rf"{owner}.*: adapter.{field} must be finite, has NaN"):
        function(bad)


def test_a_distance_says_which_of_the_two_is_not_finite(rng):
    adapter = drawn(rng)
    bad = replace(adapter, B=spoilt(adapter.B, INF))
    with pytest.raises(ValueError, match=r"distance: first.B must be finite"):
        distance(bad, adapter)
    with pytest.raises(ValueError, match=r"distance: second.B must be finite"):
        distance(adapter, bad)


def test_two_updates_of_other_sizes_have_no_distance(rng):
    with pytest.raises(ShapeError, match=r"second must be of \(11, 7\), the .* got \(11, 6\)"):
        distance(drawn(rng), drawn(rng, n=6))


@pytest.mark.parametrize("scale", [NAN, INF, "1", None])
def test_a_scale_that_is_no_finite_number_is_refused(rng, scale):
    with pytest.raises(ValueError, match=r"spectrum: adapter.scale must be a finite number"):
        spectrum(drawn(rng, scale=scale))


@pytest.mark.parametrize("function", [spectrum, factored_svd, cut])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_factors_of_16_bits_must_be_converted_first(rng, function, dtype):
    half = tree_map(lambda t: t.astype(dtype), drawn(rng))
    with pytest.raises(TypeError, match=r"adapter\.A must be float32 or float64 to be"):
        function(half)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("name", ["W_tuned", "W"])
def test_weights_that_are_not_finite_have_no_difference(rng, name, value):
    given = {"W_tuned": np.ones((5, 4)), "W": rng.standard_normal((5, 4))}
    given[name] = spoilt(given[name], value)
    with pytest.raises(ValueError, match=f"extracted: {name} must be finite"):
        extracted(**given, rank=1)


def test_weights_of_16_bits_must_be_converted_first():
    W = np.ones((5, 4), np.float16)
    with pytest.raises(TypeError, match="extracted: W_tuned must be float32 or float64 to be"):
        extracted(W, W, 1)


# Ranks and scales


@pytest.mark.parametrize("rank", [2.0, "2", None, True])
def test_a_rank_is_an_integer(rng, rank):
    adapter, W = drawn(rng), np.ones((5, 4))
    for owner, function in (
        ("truncated", lambda: truncated(adapter, rank)),
        ("extracted", lambda: extracted(W, W, rank)),
        ("widened", lambda: widened(adapter, rank, rng)),
        ("retained", lambda: retained(np.ones(3), rank)),
    ):
        with pytest.raises(ValueError, match=f"{owner}: rank must be an integer of at least"):
            function()


@pytest.mark.parametrize("scale", [NAN, INF, "1"])
def test_a_new_scale_is_a_finite_number(rng, scale):
    adapter, W = drawn(rng), np.ones((5, 4))
    for owner, function in (
        ("truncated", lambda: truncated(adapter, 2, scale)),
        ("extracted", lambda: extracted(W, W, 1, scale)),
        ("widened", lambda: widened(adapter, 4, rng, scale)),
    ):
        with pytest.raises(ValueError, match=f"{owner}: scale must be a finite number"):
            function()


def test_a_scale_of_numpy_does_not_change_the_type_of_the_factors(rng):
    adapter = tree_map(lambda t: t.astype(np.float32), drawn(rng))
    wide = widened(adapter, 4, rng, np.float64(0.5))
    small = truncated(adapter, 2, np.float64(0.5)).adapter
    found = spectrum(replace(adapter, scale=np.float64(0.5)))
    assert {t.dtype for t in (wide.A, wide.B, small.A, small.B, found)} == {np.dtype("float32")}


# Measures and suggestions


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    ("owner", "function"),
    [
        ("measures", lambda s: measures(s, (3, 4))),
        ("numerical_rank", lambda s: numerical_rank(s, 0.1)),
        ("effective_rank", effective_rank),
        ("stable_rank", stable_rank),
        ("energy_rank", lambda s: energy_rank(s, 0.9)),
        ("retained", lambda s: retained(s, 1)),
    ],
)
def test_a_spectrum_that_is_not_finite_has_no_rank(owner, function, value):
    with pytest.raises(ValueError, match=f"^{owner}: sigma must be finite, has NaN or infinity"):
        function(np.array([2.0, value, 1.0]))
    with pytest.raises(ShapeError, match=rf"^{owner}: sigma must be \(k,\), got \(2, 2\)"):
        function(np.ones((2, 2)))


@pytest.mark.parametrize("tolerance", [NAN, INF, "1"])
def test_a_tolerance_is_a_finite_number(tolerance):
    with pytest.raises(ValueError, match="numerical_rank: tolerance must be a finite number"):
        numerical_rank(np.ones(3), tolerance)
    with pytest.raises(ValueError, match="echelon: tolerance must be a finite number"):
        echelon(np.eye(3), tolerance)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_suggestion_names_the_layer_that_is_not_finite(value):
    spectra = {"q": np.ones(2), "v": np.array([1.0, value])}
    with pytest.raises(ValueError, match=r"suggested: spectra\['v'\] must be finite"):
        suggested(spectra)


# Elimination


@pytest.mark.parametrize("function", [echelon, echelon_rank, rationals])
def test_elimination_is_of_numpys_real_arrays(function):
    with pytest.raises(TypeError, match=r": M must be a NumPy array, got list"):
        function([[1.0, 2.0]])
    with pytest.raises(TypeError, match=r": M must hold real numbers, got dtype complex128"):
        function(np.array([[1.0, 1j]]))
    with pytest.raises(TypeError, match=r": M must hold real numbers, got dtype <U1"):
        function(np.array([["1", "2"]]))


@pytest.mark.parametrize("value", [NAN, INF, 1j, None])
@pytest.mark.parametrize("function", [echelon, rationals])
def test_objects_that_are_no_finite_numbers_are_refused(function, value):
    M = np.array([[1, 2], [3, value]], dtype=object)
    with pytest.raises(ValueError, match=r"M must hold finite real numbers, got .* at \(1, 1\)"):
        function(M)


def test_a_stated_tolerance_lets_no_nan_pass():
    with pytest.raises(ValueError, match="echelon: M must be finite"):
        echelon(np.array([[NAN, 1.0]]), 0.1)
    with pytest.raises(ValueError, match=r"echelon: tolerance must be at least 0, got -0.1"):
        echelon(np.eye(2), -0.1)


def test_integers_as_objects_are_eliminated_exactly():
    M = np.array([[3, 1], [1, 7]], dtype=object)
    assert echelon(M)[0].tolist() == echelon(rationals(M.astype(int)))[0].tolist()
