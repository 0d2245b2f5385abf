"""Several adapters as one: sums, means of what agrees, pruning, factors, truncation, swapping."""

import numpy as np
import pytest

from lora_ref.adapters import ConvLoRA, EmbeddingLoRA, LoRA, LoRASum
from lora_ref.adapters.lora import swap
from lora_ref.compose.factors import cross_terms, linear, on_factors, weighted_cat
from lora_ref.compose.prune import drawn_mask, drop_and_match, drop_and_rescale, trim
from lora_ref.compose.swap import swapped
from lora_ref.compose.task_arithmetic import weighted_mean, weighted_sum
from lora_ref.compose.ties import (
    agreeing_mean,
    by_count,
    by_total,
    consensus_mean,
    consensus_sum,
    disjoint_mean,
    ties,
)
from lora_ref.compose.truncated import clamped, truncated
from lora_ref.layers.convolution import Geometry
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import leaves, tree_map

WEIGHTS = (0.7, -0.4, 1.3)
MEANS = (weighted_sum, weighted_mean, agreeing_mean, consensus_sum, consensus_mean)


def drawn(rng, m=7, n=11, rank=3, scale=5 / 3):
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


def three(rng, **sizes):
    return [drawn(rng, **sizes, scale=s) for s in (5 / 3, 0.5, 2.0)]


def updates(rng, *shape):
    return [rng.standard_normal(shape or (7, 11)) for _ in WEIGHTS]


def meant(parts, weights=WEIGHTS):
    """Σ w_i ΔW_i."""
    return weighted_sum([part.delta() for part in parts], weights)


def entry_by_entry(f, tensors):
    """`f` of the numbers at each place."""
    return np.array([f(*ts) for ts in zip(*(t.ravel() for t in tensors), strict=True)]).reshape(
        tensors[0].shape
    )


# Sums.


def test_a_weighted_sum_of_updates_is_the_sum_of_adapters_with_scaled_scales(rng):
    parts, W = three(rng), rng.standard_normal((7, 11))
    scaled = [LoRA(p.A, p.B, w * p.scale) for p, w in zip(parts, WEIGHTS, strict=True)]
    assert_close(W + meant(parts), LoRASum(tuple(scaled)).merge(W), "routes", "W'")


def test_a_weighted_mean_divides_by_the_sum_of_the_weights(rng):
    tensors = updates(rng)
    mean = weighted_mean(tensors, WEIGHTS)
    assert_close(1.6 * mean, weighted_sum(tensors, WEIGHTS), "routes", "mean")


def test_weights_that_cancel_divide_by_nothing(rng):
    a, b = updates(rng)[:2]
    assert np.array_equal(weighted_mean([a, b], [2.0, -2.0]), weighted_sum([a, b], [2.0, -2.0]))
    assert_close(weighted_mean([a], [1e-8]), a, "routes", "the least that divides")
    tiny = weighted_mean([a, b], [1.0, 1e-7 - 1.0])
    assert_close(tiny * 1e-7, weighted_sum([a, b], [1.0, 1e-7 - 1.0]), "gradient", "tiny")


# Pruning.


def test_trimming_keeps_the_largest_whatever_their_sign():
    t = np.array([[-5.0, 1.0, 3.0], [-2.0, 4.0, 0.5]])
    assert np.array_equal(trim(t, 0.5), [[-5.0, 0.0, 3.0], [0.0, 4.0, 0.0]])


@pytest.mark.parametrize(("density", "kept"), [(0.0, 0), (0.29, 28), (0.3, 30), (1.0, 100)])
def test_the_number_kept_is_rounded_down_as_floats_do_it(rng, density, kept):
    assert np.count_nonzero(trim(rng.standard_normal((4, 25)), density)) == kept


def test_of_equal_entries_the_earlier_ones_stay():
    t = np.array([1.0, -1.0, 1.0, 2.0, -1.0, 1.0])
    assert np.array_equal(trim(t, 0.5), [1.0, -1.0, 0.0, 2.0, 0.0, 0.0])


def test_the_earlier_ones_stay_of_many_too():
    """More than a sorting algorithm puts in order by insertion, which is stable anyway."""
    t = np.resize(np.array([2.0, -1.0, 1.0, -2.0]), 1000)
    kept = np.abs(t) == 2.0
    kept[:500] = True
    assert np.array_equal(np.flatnonzero(trim(t, 0.75)), np.flatnonzero(kept))


def test_dropping_keeps_the_mean_over_masks(rng):
    t, density = rng.standard_normal((2, 3)), 0.25
    masks = [np.array(list(f"{i:06b}")).reshape(2, 3) == "1" for i in range(64)]
    chances = [density ** m.sum() * (1 - density) ** (6 - m.sum()) for m in masks]
    mean = sum(p * drop_and_rescale(t, m, density) for p, m in zip(chances, masks, strict=True))
    assert_close(mean, t, "routes", "mean over all masks")


def test_matching_keeps_the_sum_of_magnitudes_and_the_ratios(rng):
    t, mask = rng.standard_normal((7, 11)), drawn_mask((7, 11), 0.4, rng)
    kept = drop_and_match(t, mask)
    assert abs(np.abs(kept).sum() - np.abs(t).sum()) < 1e-12 * np.abs(t).sum()
    assert_close(kept / kept[mask][0], np.where(mask, t, 0.0) / t[mask][0], "routes", "ratios")


@pytest.mark.parametrize("t", [np.zeros((2, 3)), np.full((2, 3), 1e-9)])
def test_what_has_no_norm_is_not_rescaled(t):
    mask = np.array([[True, False, True], [False, False, False]])
    assert np.array_equal(drop_and_match(t, mask), np.where(mask, t, 0.0))


def test_a_mask_that_keeps_nothing_gives_zeros(rng):
    none = np.zeros((7, 11), dtype=bool)
    assert not np.any(drop_and_match(rng.standard_normal((7, 11)), none))


def test_the_least_norm_is_rescaled():
    t = np.array([1e-7, 1e-7])
    assert_close(drop_and_match(t, np.array([True, False])), np.array([2e-7, 0.0]), "routes", "t")


def test_a_drawn_mask_has_its_density_and_its_seed():
    mask = drawn_mask((200, 200), 0.3, np.random.default_rng(0))
    assert abs(mask.mean() - 0.3) < 0.01
    assert np.array_equal(mask, drawn_mask((200, 200), 0.3, np.random.default_rng(0)))


def test_a_draw_that_is_the_density_is_dropped():
    draws = np.random.default_rng(0).random(5)
    assert np.array_equal(drawn_mask((5,), draws[2], np.random.default_rng(0)), draws < draws[2])


def test_density_one_keeps_everything(rng):
    t, every = rng.standard_normal((7, 11)), np.ones((7, 11), bool)
    assert np.array_equal(trim(t, 1.0), t)
    assert np.array_equal(drop_and_rescale(t, every, 1.0), t)


# TIES.


def test_the_papers_mean_entry_by_entry(rng):
    def mean(*ts):
        total = sum(ts)
        agreeing = [t for t in ts if t * total > 0]
        return sum(agreeing) / len(agreeing) if agreeing else 0.0

    tensors = [trim(t, 0.6) for t in updates(rng)]
    assert_close(disjoint_mean(tensors), entry_by_entry(mean, tensors), "routes", "mean")


def elected(total):
    return 1 if total >= 0 else -1


@pytest.mark.parametrize("elect", [by_total, by_count])
def test_pefts_mean_entry_by_entry(rng, elect):
    def mean(*ts):
        votes = sum(ts) if elect is by_total else sum(np.sign(ts))
        agreeing = [(w, t) for w, t in zip(WEIGHTS, ts, strict=True) if t * elected(votes) > 0]
        return sum(w * t for w, t in agreeing) / max(len(agreeing), 1)

    tensors = [trim(t, 0.6) for t in updates(rng)]
    expected = entry_by_entry(mean, tensors)
    assert_close(agreeing_mean(tensors, WEIGHTS, elect), expected, "routes", "mean")


@pytest.mark.parametrize("elect", [by_total, by_count])
@pytest.mark.parametrize("merge", [consensus_sum, consensus_mean])
def test_mergekits_consensus_entry_by_entry(rng, merge, elect):
    def consensus(*ts):
        weighted = [w * t for w, t in zip(WEIGHTS, ts, strict=True)]
        votes = sum(weighted) if elect is by_total else sum(np.sign(weighted))
        agrees = [v * elected(votes) > 0 for v in weighted]
        share = sum(w for w, a in zip(WEIGHTS, agrees, strict=True) if a) or 1.0
        total = sum(v for v, a in zip(weighted, agrees, strict=True) if a)
        return total / (share if merge is consensus_mean else 1.0)

    tensors = [trim(t, 0.6) for t in updates(rng)]
    expected = entry_by_entry(consensus, tensors)
    assert_close(merge(tensors, WEIGHTS, elect), expected, "routes", "consensus")


def test_ties_is_trim_elect_and_mean_with_a_scale(rng):
    tensors = updates(rng)
    steps = disjoint_mean([trim(t, 0.4) for t in tensors])
    assert_close(ties(tensors, 0.4, scale=1.7), 1.7 * steps, "routes", "ties")
    assert np.array_equal(ties(tensors, 0.4), steps)


def test_at_weights_one_the_three_means_are_one(rng):
    tensors = [trim(t, 0.6) for t in updates(rng)]
    for merge in (agreeing_mean, consensus_mean):
        assert_close(merge(tensors, [1.0] * 3), disjoint_mean(tensors), "routes", merge.__name__)


def test_votes_that_are_even_go_to_plus_except_in_the_paper():
    tensors = [np.array([2.0]), np.array([-2.0])]
    assert disjoint_mean(tensors) == 0.0
    assert agreeing_mean(tensors, [1.0, 1.0]) == 2.0
    assert consensus_mean(tensors, [1.0, 1.0]) == 2.0
    assert agreeing_mean([np.array([1.0]), np.array([-5.0])], [1.0, 1.0], by_count) == 1.0


def test_a_negative_weight_elects_with_mergekit_and_not_with_peft():
    tensors, weights = [np.array([3.0]), np.array([1.0])], [1.0, -1.0]
    assert agreeing_mean(tensors, weights) == (3.0 - 1.0) / 2
    assert consensus_sum(tensors, weights) == 3.0
    assert consensus_mean(tensors, [-1.0, 1.0]) == -3.0 / -1.0


def test_ties_without_conflict_is_a_mean_and_no_sum(rng):
    tensors = [np.abs(t) for t in updates(rng)]
    assert_close(ties(tensors, 1.0), sum(tensors) / 3, "routes", "mean")


def test_where_everything_is_trimmed_there_is_zero():
    tensors = [np.zeros(3)] * 2
    for merge in (agreeing_mean, consensus_sum, consensus_mean):
        assert np.array_equal(merge(tensors, [1.0, 2.0]), np.zeros(3))
    assert np.array_equal(disjoint_mean(tensors), np.zeros(3))


# Factors.


def test_the_cross_terms_are_what_linear_has_too_much(rng):
    parts = three(rng)
    extra = linear(parts, WEIGHTS).delta() - meant(parts)
    assert_close(extra, cross_terms(parts, WEIGHTS), "routes", "cross terms")
    assert np.linalg.norm(extra) > 0.3 * np.linalg.norm(meant(parts))


@pytest.mark.parametrize("weight", [0.7, -0.4])
def test_linear_of_one_adapter_has_no_cross_terms(rng, weight):
    part = drawn(rng)
    assert_close(linear([part], [weight]).delta(), weight * part.delta(), "routes", "linear")
    assert not np.any(cross_terms([part], [weight]))


def test_linear_puts_the_sign_on_A_and_the_root_of_the_size_on_both(rng):
    part = drawn(rng, scale=2.0)
    merged = linear([part], [-2.0])
    assert_close(merged.A, -2.0 * part.A, "routes", "A")
    assert_close(merged.B, 2.0 * part.B, "routes", "B")
    assert merged.scale == 1.0


def test_a_weighted_cat_is_exact_at_unequal_ranks(rng):
    parts = [drawn(rng, rank=r, scale=r / 2) for r in (3, 2, 5)]
    joined = weighted_cat(parts, WEIGHTS)
    assert joined.A.shape == (10, 11)
    assert_close(joined.delta(), meant(parts), "routes", "cat")


def test_combining_factors_of_an_embedding_keeps_its_kind(rng):
    parts = [EmbeddingLoRA(p.A, p.B, p.scale) for p in three(rng)]
    merged = linear(parts, WEIGHTS)
    assert type(merged) is EmbeddingLoRA
    assert_close(merged.A, linear(three_again(parts), WEIGHTS).A, "routes", "A")


def three_again(parts):
    return [LoRA(p.A, p.B, p.scale) for p in parts]


def test_combining_factors_of_a_convolution_keeps_its_geometry(rng):
    geometry = Geometry.uniform(2, stride=2)
    shapes = ((3, 4, 2, 2), (5, 3, 1, 1))
    A, B = ([rng.standard_normal(shape) for _ in range(2)] for shape in shapes)
    parts = [ConvLoRA(a, b, 4.0, geometry) for a, b in zip(A, B, strict=True)]
    merged = on_factors(parts, [1.0, 0.25], weighted_sum)
    assert merged.geometry == geometry
    assert_close(merged.A, 2.0 * A[0] + A[1], "routes", "A")
    assert_close(merged.B, 2.0 * B[0] + B[1], "routes", "B")


def test_ties_of_factors_is_not_ties_of_the_update(rng):
    parts = [tree_map(lambda t: trim(t, 0.5), part) for part in three(rng)]
    ones = [1.0] * 3
    by_factors = on_factors(parts, ones, agreeing_mean).delta()
    by_updates = agreeing_mean([trim(part.delta(), 0.5) for part in parts], ones)
    assert np.linalg.norm(by_factors - by_updates) > 0.5 * np.linalg.norm(by_updates)


# Truncation.


@pytest.mark.parametrize("m", [7, 11])
def test_truncation_at_the_rank_of_the_update_is_exact(rng, m):
    delta = meant([drawn(rng, m=m, rank=2), drawn(rng, m=m)], [1.0, -0.5])
    lora = truncated(delta, 5)
    assert (lora.A.shape, lora.B.shape, lora.scale) == ((5, 11), (m, 5), 1.0)
    assert_close(lora.delta(), delta, "routes", "svd")


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_truncation_loses_the_singular_values_that_it_drops(rng, rank):
    delta = rng.standard_normal((7, 11))
    lost = np.linalg.norm(delta - truncated(delta, rank).delta())
    due = np.linalg.norm(np.linalg.svd(delta)[1][rank:])
    assert abs(lost - due) < 1e-12 * np.linalg.norm(delta)


def test_A_is_orthonormal_and_B_has_the_sizes(rng):
    delta = rng.standard_normal((7, 11))
    lora = truncated(delta, 4)
    assert_close(lora.A @ lora.A.T, np.eye(4), "routes", "A Aᵀ")
    sizes = np.linalg.svd(delta)[1][:4]
    assert_close(lora.B.T @ lora.B, np.diag(sizes**2), "routes", "Bᵀ B")


@pytest.mark.parametrize("rank", [0, 8])
def test_a_rank_that_the_weight_cannot_have_is_refused(rng, rank):
    with pytest.raises(ValueError, match=rf"rank must be from 1 to 7, .* \(7, 11\), got {rank}"):
        truncated(rng.standard_normal((7, 11)), rank)


@pytest.mark.parametrize("quantile", [0.55, 0.9, 0.987, 1.0])
def test_clamping_is_at_the_quantile_of_both_factors_together(rng, quantile):
    lora = drawn(rng)
    limit = np.quantile(np.concatenate([lora.A.ravel(), lora.B.ravel()]), quantile)
    found = clamped(lora, quantile)
    assert_close(found.A, np.clip(lora.A, -limit, limit), "routes", "A")
    assert_close(found.B, np.clip(lora.B, -limit, limit), "routes", "B")
    assert found.scale == lora.scale


def test_what_clamping_does_depends_on_free_signs(rng):
    lora = truncated(rng.standard_normal((7, 11)), 3)
    flipped = LoRA(lora.A * [[-1.0], [1.0], [1.0]], lora.B * [-1.0, 1.0, 1.0], 1.0)
    assert_close(flipped.delta(), lora.delta(), "routes", "the same update")
    apart = clamped(flipped, 0.9).delta() - clamped(lora, 0.9).delta()
    assert np.linalg.norm(apart) > 1e-3 * np.linalg.norm(lora.delta())


def test_the_least_entry_is_a_quantile_too():
    found = clamped(LoRA(np.array([[3.0, 2.0]]), np.array([[4.0], [1.0]]), 1.0), 0.0)
    assert np.array_equal(found.A, [[1.0, 1.0]])
    assert np.array_equal(found.B, [[1.0], [1.0]])


def test_zero_is_a_limit_and_a_negative_number_is_none(rng):
    lora = LoRA(np.array([[0.0, -2.0]]), np.array([[4.0], [-1.0]]), 1.0)
    assert not np.any(clamped(lora, 2 / 3).A)
    with pytest.raises(ValueError, match=r"quantile must be that of no negative entry, got 0\.1"):
        clamped(drawn(rng), 0.1)


@pytest.mark.parametrize("quantile", [-0.1, 1.1])
def test_a_quantile_is_a_share(rng, quantile):
    with pytest.raises(ValueError, match=rf"clamped: quantile must be in \[0, 1\], got {quantile}"):
        clamped(drawn(rng), quantile)


# Swapping.


def test_swapping_is_a_fresh_merge_up_to_rounding(rng):
    W, old, new = rng.standard_normal((7, 11)), drawn(rng), drawn(rng, rank=2, scale=0.5)
    assert_close(swapped(old.merge(W), old, new), new.merge(W), "routes", "swapped")
    assert_close(swapped(W, None, new), new.merge(W), "routes", "put on")
    assert_close(swapped(old.merge(W), old, None), W, "routes", "taken off")
    assert swapped(W, None, None) is W
    assert_close(swapped(old.merge(W), old, new), swap(old.merge(W), old, new), "routes", "swap")


# Other libraries.


def every_merge(parts, mask):
    """All of it, as a tree: the functions are written for any array library."""
    deltas = [part.delta() for part in parts]
    pruned = [trim(t, 0.6) for t in deltas]
    return {
        "sums": [f(pruned, WEIGHTS) for f in MEANS],
        "count": agreeing_mean(pruned, WEIGHTS, by_count),
        "ties": ties(deltas, 0.6, 1.5),
        "dropped": [drop_and_rescale(deltas[0], mask, 0.5), drop_and_match(deltas[0], mask)],
        "linear": linear(parts, WEIGHTS),
        "crossed": cross_terms(parts, WEIGHTS),
        "cat": weighted_cat(parts, WEIGHTS),
        "svd": truncated(deltas[0], 3).delta(),
        "clamped": clamped(parts[0], 0.9),
        "swapped": swapped(deltas[0], parts[0], parts[1]),
    }


def test_every_library_gives_the_numbers_of_numpy(library, rng):
    parts, mask = three(rng), drawn_mask((7, 11), 0.5, rng)
    there = every_merge(tree_map(library.convert, parts), library.convert(mask))
    expected = every_merge(parts, mask)
    found, wanted = dict(leaves(there)), dict(leaves(expected))
    assert found.keys() == wanted.keys()
    assert {type(leaf) for leaf in found.values()} == {type(library.convert(np.ones(1)))}
    for path, leaf in found.items():
        assert_close(leaf, wanted[path], "libraries", path)
