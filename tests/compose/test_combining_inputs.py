"""What combining refuses, with the argument's name, and the dtypes and NaN that it keeps."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lora_ref.adapters import DoRA, EmbeddingLoRA, LoRA
from lora_ref.compose.factors import cross_terms, linear, weighted_cat
from lora_ref.compose.prune import drop_and_match, drop_and_rescale, trim
from lora_ref.compose.task_arithmetic import weighted_mean, weighted_sum
from lora_ref.compose.ties import agreeing_mean, consensus_mean, consensus_sum, disjoint_mean, ties
from lora_ref.shapes import ShapeError
from lora_ref.trees import leaves, tree_map

MEANS = (weighted_sum, weighted_mean, agreeing_mean, consensus_sum, consensus_mean)
OF_PARTS = (linear, weighted_cat, cross_terms)
HALF = np.array([1.0, 0.5])


def drawn(rng, m=7, n=11, rank=3, scale=5 / 3):
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


def two(rng, merge):
    """What `merge` merges: adapters or arrays."""
    return [drawn(rng) if merge in OF_PARTS else rng.standard_normal((7, 11)) for _ in range(2)]


# Dtypes.


@pytest.mark.parametrize("merge", [*MEANS, *OF_PARTS], ids=lambda f: f.__name__)
def test_weights_of_numpy_leave_the_dtype_alone(rng, merge):
    parts = [tree_map(lambda t: t.astype(np.float32), part) for part in two(rng, merge)]
    found = merge(parts, HALF)
    assert {t.dtype for _, t in leaves(found)} == {np.dtype(np.float32)}
    plain = merge(parts, [1.0, 0.5])
    assert all(
        np.array_equal(a, b) for (_, a), (_, b) in zip(leaves(found), leaves(plain), strict=True)
    )


@pytest.mark.parametrize("merge", OF_PARTS[:2], ids=lambda f: f.__name__)
def test_a_scale_of_numpy_leaves_the_dtype_of_factors_alone(rng, merge):
    plain = tree_map(lambda t: t.astype(np.float32), drawn(rng))
    part = replace(plain, scale=np.float64(1.5))
    assert {t.dtype for _, t in leaves(merge([part], [2.0]))} == {np.dtype(np.float32)}


def test_a_density_and_a_scale_of_numpy_leave_the_dtype_alone():
    t, d = np.ones(4, np.float32), np.float64(0.5)
    assert drop_and_rescale(t, np.ones(4, bool), d).dtype == np.float32
    assert ties([t, t], d, scale=np.float64(2.0)).dtype == np.float32


@pytest.mark.parametrize("size", [1.0, 4e4])
def test_matching_in_float16_sums_beyond_float16(size):
    t, mask = np.full(100_000, size, np.float16), np.arange(100_000) % 3 > 0
    found = drop_and_match(t, mask)
    assert found.dtype == np.float16
    assert np.array_equal(found, drop_and_match(t.astype(np.float64), mask).astype(np.float16))


def test_matching_in_float16_multiplies_by_ratios_beyond_float16():
    t = np.ones(2000, np.float16)
    t[0] = 2.0**-7
    found = drop_and_match(t, np.arange(2000) == 0)  # a ratio of 255 873
    assert found[0] == 1999.0


# NaN.


@pytest.mark.parametrize(
    ("density", "rest"), [(0.0, [0, 0, 0]), (0.5, [0, -3, 2]), (1.0, [1, -3, 2])]
)
def test_trimming_keeps_nan_beside_the_largest(density, rest):
    t = np.array([1.0, np.nan, -3.0, 2.0])
    assert np.array_equal(trim(t, density), [rest[0], np.nan, *rest[1:]], equal_nan=True)


def test_a_mask_does_not_drop_nan():
    t, mask = np.array([1.0, np.nan, -3.0]), np.array([False, False, True])
    assert np.array_equal(drop_and_rescale(t, mask, 0.5), [0.0, np.nan, -6.0], equal_nan=True)
    assert np.all(np.isnan(drop_and_match(t, mask)))


@pytest.mark.parametrize("merge", [*MEANS, lambda tensors, _: ties(tensors, 0.5)])
def test_what_is_merged_from_nan_is_nan_in_its_place(merge):
    tensors = [np.array([1.0, np.nan, -3.0, 2.0]), np.array([4.0, 5.0, -1.0, 2.0])]
    found = merge([trim(t, 0.5) for t in tensors], [1.0, 0.5])
    assert np.array_equal(np.isnan(found), [False, True, False, False])


# Refusals.


@pytest.mark.parametrize("merge", [*MEANS, *OF_PARTS], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (["1", 1.0], r"weights\[0\] must be a finite number, got '1'"),
        ([1.0, None], r"weights\[1\] must be a finite number, got None"),
        ([1.0, np.nan], r"weights\[1\] must be a finite number, got nan"),
        (None, "weights must be a sequence of numbers, got NoneType"),
        (0.5, "weights must be a sequence of numbers, got float"),
    ],
)
def test_a_weight_that_is_no_number_is_named(rng, merge, weights, says):
    owner = "on_factors" if merge is linear else merge.__name__
    with pytest.raises((TypeError, ValueError), match=f"{owner}: {says}"):
        merge(two(rng, merge), weights)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: trim(t, "0.5"), "trim: density must be a finite number, got '0.5'"),
        (lambda t: drop_and_rescale(t, t > 0, None), "drop_and_rescale: density must be a finite"),
        (lambda t: ties([t], 0.5, None), "ties: scale must be a finite number, got None"),
    ],
)
def test_a_density_or_scale_that_is_no_number_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call(np.ones(3))


@pytest.mark.parametrize(
    ("prune", "density", "says"),
    [
        (trim, -0.1, r"trim: density must be in \[0, 1\], got -0.1"),
        (trim, 1.5, r"trim: density must be in \[0, 1\], got 1.5"),
        (partial(drop_and_rescale, mask=np.ones(3, bool)), 0.0, r"must be in \(0, 1\], got 0.0"),
        (partial(drop_and_rescale, mask=np.ones(3, bool)), 1.1, r"must be in \(0, 1\], got 1.1"),
    ],
)
def test_a_density_that_is_no_share_is_refused(prune, density, says):
    with pytest.raises(ValueError, match=says):
        prune(np.ones(3), density=density)


@pytest.mark.parametrize("merge", [*MEANS, *OF_PARTS], ids=lambda f: f.__name__)
def test_one_weight_for_each_part(rng, merge):
    with pytest.raises(ValueError, match="weights must be 2, one for each part, got 3"):
        merge(two(rng, merge), [0.7, -0.4, 1.3])


@pytest.mark.parametrize("merge", [*MEANS, *OF_PARTS, lambda parts, _: disjoint_mean(parts)])
def test_nothing_cannot_be_merged(merge):
    with pytest.raises(ValueError, match=r"(tensors|parts) must hold at least one.*, got none"):
        merge([], [])


@pytest.mark.parametrize("merge", [*MEANS, lambda parts, _: disjoint_mean(parts)])
def test_updates_of_different_weights_are_named(merge):
    says = r": tensors\[1\] must be \(\*axes,\) with \*axes = \(7, 11\) .*\[0\], got \(11, 7\)"
    with pytest.raises(ShapeError, match=says):
        merge([np.ones((7, 11)), np.ones((11, 7))], [1.0, 1.0])


def test_updates_that_are_no_arrays_are_named():
    with pytest.raises(TypeError, match=r"weighted_sum: tensors\[1\] must be an array, got list"):
        weighted_sum([np.ones(2), [1.0, 2.0]], [1.0, 1.0])


KINDS = {
    "linear": "LoRA or EmbeddingLoRA or ConvLoRA",
    "cross_terms": "LoRA",
    "weighted_cat": "LoRA",
}


@pytest.mark.parametrize("merge", OF_PARTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kinds", ["LoRA DoRA", "DoRA DoRA", "LoRA EmbeddingLoRA", "LoRA NoneType"])
def test_adapters_that_do_not_combine_are_named(rng, merge, kinds):
    lora = drawn(rng, m=11)
    every = {
        "LoRA": lora,
        "DoRA": DoRA(lora.A, lora.B, np.ones(11), 1.0),
        "EmbeddingLoRA": EmbeddingLoRA(lora.A, lora.B, 1.0),
        "NoneType": None,
    }
    owner = "on_factors" if merge is linear else merge.__name__
    wanted, got = KINDS[merge.__name__], kinds.split()[-1]
    says = rf"{owner}: parts\[\d\] must be {wanted}, all of one kind, got {got}"
    with pytest.raises(TypeError, match=says):
        merge([every[kind] for kind in kinds.split()], [1.0, 1.0])


@pytest.mark.parametrize("merge", [cross_terms, weighted_cat], ids=lambda f: f.__name__)
def test_embeddings_have_no_dense_update_here(rng, merge):
    lora = drawn(rng)
    with pytest.raises(TypeError, match=r"parts\[0\] must be LoRA, .* got EmbeddingLoRA"):
        merge([EmbeddingLoRA(lora.A, lora.B, 1.0)], [1.0])


@pytest.mark.parametrize(("merge", "owner"), [(linear, "on_factors"), (cross_terms, "cross_terms")])
@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"n": 12}, r"A must be .*\(3, 11\) from parts\[0\].A, got \(3, 12\)"),
        ({"m": 8}, r"B must be .*\(7, 3\) from parts\[0\].B, got \(8, 3\)"),
        ({"rank": 2}, r"A must be .*\(3, 11\) from parts\[0\].A, got \(2, 11\)"),
    ],
)
def test_factors_that_are_added_are_of_one_shape(rng, merge, owner, other, says):
    with pytest.raises(ShapeError, match=rf"{owner}: parts\[1\]\.{says}"):
        merge([drawn(rng), drawn(rng, **other)], [1.0, 1.0])


@pytest.mark.parametrize("merge", [*MEANS, *OF_PARTS], ids=lambda f: f.__name__)
def test_parts_of_two_array_libraries_are_named(rng, merge):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is in [test]")
    first, second = two(rng, merge)
    with pytest.raises(
        TypeError, match=r"\[1\].* of one library with .*\[0\].*numpy, got array_api"
    ):
        merge([first, tree_map(strict.asarray, second)], [1.0, 1.0])
