"""AdaLoRA's allocation: penalty, importance, budget, masks, both kinds of step, growth, history."""

import io

import numpy as np
import pytest

from lora_ref.adapters import AdaLoRA
from lora_ref.rank.allocation import (
    AllocationState,
    CubicSchedule,
    GrowthRule,
    Importance,
    Plateau,
    RankHistory,
    decomposed,
    grown,
    kept,
    live_ranks,
    magnitude_scores,
    masked,
    paper_step,
    peft_mask,
    peft_penalty,
    peft_step,
    penalty,
    pruned,
    ranks,
    ridge_importance,
    top,
    triplet_scores,
)
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import tree_map, zeros_like

SIZES = {"q": (7, 11, 4), "v": (6, 6, 4), "o": (5, 9, 3)}


def drawn(rng, m, n, rank, scale=5 / 3):
    sizes = ((m, rank), (rank,), (rank, n))
    return AdaLoRA(*(rng.standard_normal(size) for size in sizes), scale)


@pytest.fixture
def adapters(rng):
    return {name: drawn(rng, *sizes) for name, sizes in SIZES.items()}


def like(rng, adapters):
    return tree_map(lambda t: rng.standard_normal(t.shape), adapters)


def orthonormal(rng, m, n, rank):
    P, Q = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in (m, n))
    return AdaLoRA(P, rng.standard_normal(rank), Q.T, 5 / 3)


# The penalty


@pytest.mark.parametrize("measure", [penalty, peft_penalty])
def test_the_gradient_of_a_penalty_is_that_of_its_value(measure, adapters, rng):
    def of_all(q, v, o):
        R, backward = measure({"q": q, "v": v, "o": o})
        return R, lambda dR: tuple(backward(dR).values())

    gradcheck(of_all, [*adapters.values()], rng)


@pytest.mark.parametrize(
    ("measure", "expected"), [(penalty, 2 * 9 * 3), (peft_penalty, 3 * 3**0.5)]
)
def test_a_penalty_is_known_where_p_and_q_are_twice_orthonormal(measure, expected, rng):
    """G = 3 I at rank 3: the squares of its norm are 27, of P and of Q; the mean norm is √27."""
    a = orthonormal(rng, 7, 11, 3)
    twice = AdaLoRA(2 * a.P, a.lam, 2 * a.Q, a.scale)
    assert_close(measure({"q": twice})[0], np.asarray(float(expected)), "routes", "R")


def test_the_mean_of_several_layers_is_not_their_sum(adapters):
    alone = [peft_penalty({name: a})[0] for name, a in adapters.items()]
    assert_close(peft_penalty(adapters)[0], np.mean(alone), "routes", "R")
    alone = [penalty({name: a})[0] for name, a in adapters.items()]
    assert_close(penalty(adapters)[0], np.sum(alone), "routes", "R")


def test_near_orthonormal_factors_the_norm_still_has_its_gradient(rng):
    a = orthonormal(rng, 7, 11, 3)
    near = AdaLoRA(1.01 * a.P, a.lam, 0.99 * a.Q, a.scale)

    def of_one(q):
        R, backward = peft_penalty({"q": q})
        return R, lambda dR: backward(dR)["q"]

    gradcheck(of_one, [near], rng)


@pytest.mark.parametrize("measure", [penalty, peft_penalty])
def test_orthonormal_factors_have_no_penalty_and_no_gradient(measure):
    eye = AdaLoRA(np.eye(5, 3), np.ones(3), np.eye(3, 4), 1.0)
    R, backward = measure({"q": eye})
    assert R == 0
    assert_trees_close(backward(1.0), zeros_like({"q": eye}), "identical", "gradients")


def test_a_masked_triplet_is_penalised_like_all_others(adapters):
    mask = {name: np.arange(a.lam.shape[0]) > 0 for name, a in adapters.items()}
    for measure in (penalty, peft_penalty):
        assert measure(masked(adapters, mask))[0] == measure(adapters)[0]


@pytest.mark.parametrize("measure", [penalty, peft_penalty])
def test_a_penalty_of_nothing_is_refused(measure):
    with pytest.raises(ValueError, match=f"{measure.__name__}: adapters must hold at least one"):
        measure({})


# Importance


def test_two_observations_smooth_as_the_paper_says(adapters, rng):
    w, first, second = (like(rng, adapters) for _ in range(3))
    seen = Importance.start(adapters).observe(w, first, beta1=0.7, beta2=0.9)
    seen = seen.observe(w, second, beta1=0.7, beta2=0.9)
    for name in adapters:
        i1, i2 = (abs(w[name].Q * d[name].Q) for d in (first, second))
        s1 = 0.3 * i1
        s2 = 0.7 * s1 + 0.3 * i2
        spread = 0.9 * 0.1 * abs(i1 - s1) + 0.1 * abs(i2 - s2)
        assert_close(seen.sensitivity[name].Q, s2, "routes", "Ī")
        assert_close(seen.uncertainty[name].Q, spread, "routes", "Ū")


def test_the_averages_of_peft_are_the_default(adapters, rng):
    w, d = like(rng, adapters), like(rng, adapters)
    start = Importance.start(adapters)
    stated = start.observe(w, d, beta1=0.85, beta2=0.85)
    assert_trees_close(start.observe(w, d).uncertainty, stated.uncertainty, "identical", "Ū")


def test_a_score_is_that_of_lambda_and_the_means_of_its_column_and_row(adapters):
    scores = triplet_scores(adapters)
    for name, a in adapters.items():
        for i in range(a.lam.shape[0]):
            expected = a.lam[i] + np.mean(a.P[:, i]) + np.mean(a.Q[i])
            assert_close(scores[name][i], expected, "routes", f"{name}, {i}")


def test_scores_are_of_the_product_of_both_averages(adapters, rng):
    seen = Importance(like(rng, adapters), like(rng, adapters))
    product = tree_map(np.multiply, seen.sensitivity, seen.uncertainty)
    assert_trees_close(seen.scores(), triplet_scores(product), "identical", "S")


def test_a_magnitude_has_no_sign(adapters):
    assert np.array_equal(magnitude_scores(adapters)["q"], np.abs(adapters["q"].lam))


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_an_average_that_forgets_all_or_nothing_is_refused(adapters, name, value):
    start = Importance.start(adapters)
    with pytest.raises(ValueError, match=rf"observe: {name} must be in \(0, 1\), got {value}"):
        start.observe(adapters, adapters, **{name: value})


# The schedule


def test_the_budget_falls_with_the_third_power_of_the_time_left():
    schedule = CubicSchedule(initial=144, target=96, total=100, warmup=10, final=30)
    found = [schedule.peft_budget(t) for t in (0, 10, 11, 40, 69, 70, 71, 100)]
    halfway = 96 + 48 / 8
    assert found == [144, 144, int(96 + 48 * (59 / 60) ** 3), int(halfway), 96, 96, 96, 96]


def test_the_printed_budget_jumps_above_the_first_and_drops_to_the_last():
    schedule = CubicSchedule(initial=144, target=96, total=100, warmup=10, final=30)
    assert [schedule.paper_budget(t) for t in (0, 9, 70, 100)] == [144, 144, 96, 96]
    assert schedule.paper_budget(10) == int(96 + 48 * 1.5**3)
    assert schedule.paper_budget(69) == int(96 + 48 * (31 / 60) ** 3)


def test_without_final_steps_both_budgets_are_one():
    schedule = CubicSchedule(initial=144, target=96, total=100, warmup=10)
    both = [(schedule.peft_budget(t), schedule.paper_budget(t)) for t in range(101)]
    assert all(a == b for a, b in both)


def test_without_warm_up_the_budget_falls_from_the_first_step():
    schedule = CubicSchedule(initial=12, target=4, total=30)
    assert (schedule.peft_budget(0), schedule.peft_budget(1)) == (12, 11)
    assert schedule.is_due(1)


def test_masks_are_due_at_multiples_of_the_interval_between_warm_up_and_the_last_steps():
    schedule = CubicSchedule(initial=12, target=4, total=30, warmup=6, final=9, interval=3)
    assert [t for t in range(31) if schedule.is_due(t)] == [9, 12, 15, 18]
    assert schedule.last == 21


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": 13}, "target must be from 0 to initial = 12, got 13"),
        ({"target": -1}, "target must be an integer of at least 0, got -1"),
        ({"warmup": 25, "final": 5}, "warmup must be from 0 to below total − final = 25, got 25"),
        ({"warmup": -1}, "warmup must be an integer of at least 0, got -1"),
        ({"final": -1}, "final must be an integer of at least 0, got -1"),
        ({"interval": 0}, "interval must be an integer of at least 1, got 0"),
        ({"total": 30.0}, "total must be an integer of at least 0, got 30.0"),
    ],
)
def test_a_schedule_that_is_none_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"CubicSchedule: {message}"):
        CubicSchedule(**{"initial": 12, "target": 4, "total": 30, **fields})


def test_a_target_equal_to_the_start_and_one_of_zero_are_schedules():
    assert CubicSchedule(12, 12, 30).peft_budget(15) == 12
    assert CubicSchedule(12, 0, 30).peft_budget(30) == 0


# Masks

SCORES = {"q": np.array([0.5, 3.0, 0.25]), "v": np.array([2.0, 0.5]), "o": np.array([0.75])}


@pytest.mark.parametrize("mask", [top, peft_mask])
@pytest.mark.parametrize(
    ("budget", "expected"),
    [(5, [1, 1, 0, 1, 1, 1]), (3, [0, 1, 0, 1, 0, 1]), (1, [0, 1, 0, 0, 0, 0]), (0, [0] * 6)],
)
def test_the_largest_scores_of_all_layers_stay(mask, budget, expected):
    found = mask(SCORES, budget)
    assert [*np.concatenate([found[name] for name in SCORES])] == [bool(e) for e in expected]
    assert {name: stay.shape for name, stay in found.items()} == {
        name: s.shape for name, s in SCORES.items()
    }


def test_of_a_tie_the_first_stays_or_for_peft_none():
    assert sum(ranks(top(SCORES, 4)).values()) == 4
    assert [*top(SCORES, 4)["q"]] == [True, True, False]
    assert [*top(SCORES, 4)["v"]] == [True, False]
    assert ranks(peft_mask(SCORES, 4)) == {"q": 1, "v": 1, "o": 1}


def test_equal_scores_keep_the_budget_or_for_peft_nothing():
    equal = {"q": np.zeros(4), "v": np.zeros(3)}
    assert ranks(top(equal, 5)) == {"q": 4, "v": 1}
    assert ranks(peft_mask(equal, 5)) == {"q": 0, "v": 0}


def test_of_many_equal_scores_the_first_stay(rng):
    """So many that a sort which is not stable would mix them."""
    many = {"q": rng.integers(0, 3, 400) / 2, "v": rng.integers(0, 3, 400) / 2}
    found = np.concatenate([*top(many, 500).values()])
    joined = np.concatenate([*many.values()])
    order = sorted(range(800), key=lambda i: (-joined[i], i))
    assert {*np.flatnonzero(found)} == {*order[:500]}


def test_a_budget_for_all_masks_nothing_or_is_refused_as_peft_fails():
    assert ranks(top(SCORES, 6)) == ranks(top(SCORES, 60)) == {"q": 3, "v": 2, "o": 1}
    wanted = "peft_mask: budget must be from 0 to below the 6 triplets of scores.* got 6"
    with pytest.raises(ValueError, match=wanted):
        peft_mask(SCORES, 6)


@pytest.mark.parametrize("mask", [top, peft_mask])
def test_a_negative_budget_is_refused(mask):
    with pytest.raises(ValueError, match=r"budget must be .* got -1"):
        mask(SCORES, -1)


def test_a_mask_zeroes_lambda_and_resizing_drops_the_same_update(adapters, rng):
    mask = top(magnitude_scores(adapters), 6)
    small = {name: kept(a, mask[name]) for name, a in adapters.items()}
    for name, a in masked(adapters, mask).items():
        m, n, _ = SIZES[name]
        W = rng.standard_normal((m, n))
        assert np.array_equal(a.lam, np.where(mask[name], adapters[name].lam, 0))
        assert np.array_equal(a.P, adapters[name].P)
        assert np.array_equal(a.Q, adapters[name].Q)
        assert_close(small[name].merge(W), a.merge(W), "libraries", name)
        assert small[name].scale == a.scale
    assert live_ranks(masked(adapters, mask)) == ranks(mask)
    assert {name: a.lam.shape[0] for name, a in small.items()} == ranks(mask)


def test_every_library_masks_the_same_triplets(library, adapters, rng):
    """Penalties, statistics, scores and masks are elementwise, sums and sorts: no library's own."""
    grads = like(rng, adapters)

    def run(convert):
        a, d = (tree_map(convert, tree) for tree in (adapters, grads))
        seen = Importance.start(a).observe(a, d)
        stay = (top(seen.scores(), 5), peft_mask(seen.scores(), 5))
        return (
            [masked(a, mask) for mask in stay],
            [kept(a[name], stay[0][name]) for name in a],
            [measure(a)[1](1.0) for measure in (penalty, peft_penalty)],
            [ranks(mask) for mask in stay],
        )

    assert_trees_close(run(library.convert), run(np.asarray), "libraries", "allocation")


# Steps

SCHEDULE = CubicSchedule(initial=11, target=4, total=20, warmup=3, final=5, interval=2)


def stepped(adapters, rng, steps, kind):
    """Steps of a made-up training; yields what went in and what came out."""
    state = AllocationState.start(adapters)
    for t in steps:
        gradients = like(rng, adapters)
        after = tree_map(lambda w, d: w - 0.1 * d, adapters, gradients)
        given = (adapters, gradients, after) if kind is paper_step else (after, gradients)
        state, out = kind(state, *given, t, SCHEDULE)
        yield t, after, state, out
        adapters = out


@pytest.mark.parametrize("kind", [paper_step, peft_step])
def test_warm_up_and_steps_between_masks_leave_the_adapters_alone(adapters, rng, kind):
    quiet = {1, 2, 3, 5, 7, 9, 11, 13}
    if kind is paper_step:
        quiet |= {4, 6, 8}  # the printed budget is still above the first one
    for t, after, _, out in stepped(adapters, rng, range(1, 15), kind):
        is_same = all(np.array_equal(out[n].lam, after[n].lam) for n in after)
        assert is_same == (t in quiet)
        assert all(np.array_equal(out[n].P, after[n].P) for n in after)


@pytest.mark.parametrize("kind", [paper_step, peft_step])
def test_the_last_mask_has_the_target_and_stays(adapters, rng, kind):
    last = [state for t, _, state, _ in stepped(adapters, rng, range(1, 21), kind) if t >= 15]
    assert all(state.is_final for state in last)
    assert sum(ranks(last[0].mask).values()) == 4
    for state in last:
        assert_trees_close(state.mask, last[0].mask, "identical", "mask")


@pytest.mark.parametrize("kind", [paper_step, peft_step])
def test_after_the_last_mask_every_step_is_masked(adapters, rng, kind):
    for t, _, _, out in stepped(adapters, rng, range(1, 21), kind):
        if t >= 15:
            assert sum(live_ranks(out).values()) == 4


def test_the_paper_measures_the_weights_that_the_gradient_was_taken_at(adapters, rng):
    gradients, after = like(rng, adapters), like(rng, adapters)
    start = AllocationState.start(adapters)
    paper, _ = paper_step(start, adapters, gradients, after, 1, SCHEDULE)
    peft, _ = peft_step(start, after, gradients, 1, SCHEDULE)
    before = Importance.start(adapters).observe(adapters, gradients)
    changed = Importance.start(adapters).observe(after, gradients)
    assert_trees_close(paper.importance.sensitivity, before.sensitivity, "identical", "paper")
    assert_trees_close(peft.importance.sensitivity, changed.sensitivity, "identical", "PEFT")


def test_pefts_last_mask_forgets_what_was_seen_and_is_made_of_what_came_before(adapters, rng):
    seen = Importance(*(tree_map(np.abs, like(rng, adapters)) for _ in range(2)))
    state = AllocationState(seen)
    state, _ = peft_step(state, adapters, like(rng, adapters), 15, SCHEDULE)
    assert_trees_close(state.mask, peft_mask(seen.scores(), 4), "identical", "mask")
    nothing = zeros_like(adapters)
    assert_trees_close(state.importance.uncertainty, nothing, "identical", "Ū")
    assert_trees_close(state.importance.sensitivity, nothing, "identical", "Ī")


def test_the_papers_masks_follow_its_own_budget_and_averages(adapters, rng):
    state, gradients = AllocationState.start(adapters), like(rng, adapters)
    found, out = paper_step(
        state, adapters, gradients, adapters, 12, SCHEDULE, beta1=0.4, beta2=0.6
    )
    seen = Importance.start(adapters).observe(adapters, gradients, beta1=0.4, beta2=0.6)
    assert SCHEDULE.paper_budget(12) == 6 != SCHEDULE.peft_budget(12)
    expected = top(seen.scores(), 6)
    assert_trees_close(found.mask, expected, "identical", "mask")
    assert_trees_close(out, masked(adapters, expected), "identical", "adapters")
    assert not found.is_final


def test_a_step_after_the_last_mask_needs_a_mask(adapters, rng):
    with pytest.raises(ValueError, match="must be there after the last allocation, step 15"):
        peft_step(AllocationState.start(adapters), adapters, adapters, 16, SCHEDULE)


def test_the_states_that_go_in_do_not_change(adapters, rng):
    state, gradients = AllocationState.start(adapters), like(rng, adapters)
    for kind, given in ((peft_step, (adapters, gradients)), (paper_step, (adapters,) * 3)):
        kind(state, *given, 12, SCHEDULE)
        assert state.mask is None
        assert all(np.all(a.lam == 0) for a in state.importance.sensitivity.values())
        assert sum(live_ranks(adapters).values()) == 11


# Growth


def test_decomposing_changes_the_factors_and_not_the_update(rng):
    a = drawn(rng, 7, 11, 4)
    d, nothing = decomposed(a), np.zeros((7, 11))
    assert_close(d.merge(nothing), a.merge(nothing), "routes", "ΔW")
    assert_close(d.P.T @ d.P, np.eye(4), "routes", "PᵀP")
    assert_close(d.Q @ d.Q.T, np.eye(4), "routes", "Q Qᵀ")
    sigma = np.linalg.svd(a.merge(nothing), compute_uv=False)[:4]
    assert_close(d.scale * d.lam, sigma, "routes", "σ")


def test_a_rank_above_the_sizes_comes_back_as_what_they_allow(rng):
    a, nothing = drawn(rng, 4, 6, 9), np.zeros((4, 6))
    assert decomposed(a).lam.shape == (4,)
    assert_close(decomposed(a).merge(nothing), a.merge(nothing), "routes", "ΔW")


def test_importance_is_one_half_at_the_root_of_the_regulariser():
    assert ridge_importance(np.array([0.3]), 0.09) == pytest.approx(0.5, abs=1e-15)
    with pytest.raises(ValueError, match="regulariser must be above 0, got 0"):
        ridge_importance(np.ones(2), 0)


def test_pruning_removes_singular_values_below_the_threshold(rng):
    """The scale counts: σ is that of ΔW, here −0.5 λ; at ρ = 1 the threshold 1/2 is σ ≥ 1."""
    a = orthonormal(rng, 7, 11, 3)
    a = AdaLoRA(a.P, np.array([1.9, -4.0, 2.1]), a.Q, -0.5)
    small = pruned(a, 0.5, 1.0)
    assert_close(small.lam, np.array([4.0, 2.1]), "routes", "λ")
    assert small.scale == -0.5
    stay = kept(a, np.array([False, True, True]))
    nothing = np.zeros((7, 11))
    assert_close(small.merge(nothing), stay.merge(nothing), "routes", "ΔW")
    assert pruned(a, 0.0, 1.0).lam.shape == (3,)


def test_an_importance_at_the_threshold_is_kept():
    a = AdaLoRA(np.eye(5, 3), np.array([2.0, 1.0, 0.5]), np.eye(3, 4), 1.0)
    assert pruned(a, 0.5, 1.0).lam.shape == (2,)


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_that_keeps_all_or_nothing_is_refused(rng, threshold):
    with pytest.raises(
        ValueError, match=rf"pruned: threshold must be in \[0, 1\), got {threshold}"
    ):
        pruned(drawn(rng, 7, 11, 3), threshold, 1.0)


def test_growing_changes_no_output_and_adds_orthonormal_directions(rng):
    a, W = drawn(rng, 7, 11, 3), rng.standard_normal((7, 11))
    more = grown(a, 2, rng)
    assert_close(more.merge(W), a.merge(W), "libraries", "W'")
    assert np.array_equal(more.lam, [*a.lam, 0, 0])
    new_P, new_Q = more.P[:, 3:], more.Q[3:]
    assert_close(new_P.T @ new_P, np.eye(2), "routes", "PᵀP")
    assert_close(new_Q @ new_Q.T, np.eye(2), "routes", "Q Qᵀ")
    assert np.max(np.abs(a.P.T @ new_P)) < 1e-12
    assert np.max(np.abs(a.Q @ new_Q.T)) < 1e-12
    assert np.array_equal(more.P[:, :3], a.P)
    assert np.array_equal(more.Q[:3], a.Q)


def test_a_rank_can_grow_to_the_smaller_size_and_no_further(rng):
    a = drawn(rng, 7, 11, 3)
    assert grown(a, 4, rng).lam.shape == (7,)
    assert grown(a, 0, rng).lam.shape == (3,)
    with pytest.raises(ValueError, match=r"from 0 to min\(m, n\) − r = 4, got 5"):
        grown(a, 5, rng)
    with pytest.raises(ValueError, match="grown: count must be an integer of at least 0, got -1"):
        grown(a, -1, rng)


def test_a_plateau_is_reached_after_so_many_losses_without_gain():
    plateau, found = Plateau(patience=2, gain=0.1), []
    for loss in (1.0, 0.95, 0.8, 0.75, 0.71, 0.72, 0.9, 0.1):
        plateau = plateau.observe(loss)
        found.append((plateau.waited, plateau.is_reached))
    assert [waited for waited, _ in found] == [0, 1, 0, 1, 2, 1, 2, 0]
    assert [at for at, (_, is_reached) in enumerate(found) if is_reached] == [4, 6]
    assert plateau.best == 0.1


def test_any_gain_counts_unless_one_is_stated_and_nothing_is_reached_before_a_loss():
    assert not Plateau(patience=1).is_reached
    assert Plateau(patience=1).observe(1.0).observe(0.9).waited == 0
    assert Plateau(patience=1).observe(1.0).observe(1.0).is_reached


def test_a_patience_below_one_is_refused():
    with pytest.raises(
        ValueError, match="Plateau: patience must be an integer of at least 1, got 0"
    ):
        Plateau(0)


RULE = GrowthRule(threshold=0.5, regulariser=1.0, prune_every=10, grow_every=4, count=2, limit=5)


def sizes_after(step, adapters, rng, plateau=None, rule=RULE):
    moved = rule.step(adapters, step, rng, plateau)
    return {name: a.lam.shape[0] for name, a in moved.items()}


def test_ranks_grow_at_their_interval_up_to_the_limit(adapters, rng):
    assert sizes_after(4, adapters, rng) == {"q": 5, "v": 5, "o": 5}
    assert sizes_after(3, adapters, rng) == {"q": 4, "v": 4, "o": 3}


def test_ranks_grow_when_the_loss_stays(adapters, rng):
    waiting = Plateau(patience=1).observe(1.0)
    assert sizes_after(3, adapters, rng, waiting) == {"q": 4, "v": 4, "o": 3}
    assert sizes_after(3, adapters, rng, waiting.observe(1.0)) == {"q": 5, "v": 5, "o": 5}


def test_pruning_comes_before_growth(rng):
    a = orthonormal(rng, 7, 11, 3)
    layer = {"q": AdaLoRA(a.P, np.array([4.0, 0.1, 0.2]), a.Q, 1.0)}
    assert sizes_after(10, layer, rng) == {"q": 1}
    assert sizes_after(20, layer, rng) == {"q": 3}


def test_a_layer_above_the_limit_does_not_grow(rng):
    layer = {"q": drawn(rng, 7, 11, 6)}
    assert sizes_after(4, layer, rng) == {"q": 6}


def test_a_rule_grows_by_one_up_to_64_unless_it_says_else(rng):
    rule = GrowthRule(threshold=0.5, regulariser=1.0, prune_every=1000, grow_every=1)
    layers = {"q": drawn(rng, 70, 80, 63), "v": drawn(rng, 70, 80, 64)}
    assert sizes_after(1, layers, rng, rule=rule) == {"q": 64, "v": 64}
    assert sizes_after(1, {"q": drawn(rng, 70, 80, 3)}, rng, rule=rule) == {"q": 4}


@pytest.mark.parametrize("name", ["prune_every", "grow_every"])
def test_an_interval_below_one_step_is_refused(name):
    with pytest.raises(ValueError, match=f"GrowthRule: {name} must be an integer of at least 1"):
        GrowthRule(
            **{"threshold": 0.5, "regulariser": 1, "prune_every": 2, "grow_every": 2, name: 0}
        )


# The record


def test_a_history_has_every_step_that_was_recorded():
    history = RankHistory().record(0, {"q": 4, "v": 4}).record(10, {"v": 3, "q": 1})
    assert history.steps == (0, 10)
    assert history.ranks == {"q": (4, 1), "v": (4, 3)}


def test_the_table_has_a_line_for_each_layer_and_their_sum():
    history = RankHistory().record(0, {"q": 4, "v": 4}).record(10, {"q": 1, "v": 3})
    assert history.table().splitlines() == [
        "step  0  10",
        "q     4   1",
        "v     4   3",
        "all   8   4",
    ]
    assert RankHistory().table().splitlines() == ["step", "all "]


def test_nothing_recorded_has_no_picture():
    with pytest.raises(ValueError, match=r"RankHistory.plot: there must be a recorded step, got"):
        RankHistory().plot()


def test_a_step_back_and_other_layers_are_refused():
    history = RankHistory().record(3, {"q": 4})
    with pytest.raises(ValueError, match="step must be after 3, the last one, got 3"):
        history.record(3, {"q": 4})
    with pytest.raises(ValueError, match=r"ranks must be of \['q'\], got \['v'\]"):
        history.record(4, {"v": 4})


def test_the_picture_has_a_row_for_each_layer_and_a_column_for_each_step():
    pytest.importorskip("matplotlib", reason="matplotlib is in the [plot] extra")
    history = RankHistory()
    for step in range(25):
        history = history.record(10 * step, {"q": 4 + step, "v": 4})
    axes = history.plot().axes[0]
    assert np.array_equal(axes.images[0].get_array(), [[*range(4, 29)], [4] * 25])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["q", "v"]
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["0", "20", "40"]
    assert axes.get_xlabel() == "step"
    assert axes.images[0].get_clim() == (0, 28)


def test_no_name_in_the_picture_is_taken_for_mathematics():
    pytest.importorskip("matplotlib", reason="matplotlib is in the [plot] extra")
    figure = RankHistory().record(0, {"l.$q_{$": 4, "l.\x1bq": 1}).plot()
    figure.savefig(io.BytesIO(), format="svg")
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [r"l.\$q_{\$", r"l.\x1bq"]
