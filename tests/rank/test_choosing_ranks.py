"""The suggestion of ranks, growing from a small one, and the picture of spectra."""

import io
from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import LoRA
from lora_ref.rank import (
    ScaleUp,
    ScaleUpState,
    effective_rank,
    retained,
    scale_up,
    spectrum,
    suggested,
    use,
    widened,
    widened_moments,
)
from lora_ref.rank.allocation import Plateau
from lora_ref.rank.picture import NAMED, spectra_figure
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import tree_map

SPECTRA = {
    "small": np.array([1.0, 0.1, 0.1]),
    "flat": np.array([2.0, 2.0, 2.0, 2.0]),
    "steep": np.array([10.0, 1.0]),
}


def drawn(rng, m=11, n=7, rank=3, scale=5 / 3):
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.95, 0.99, 1.0])
def test_the_uniform_rank_is_the_least_that_keeps_the_share_of_all_layers(share):
    squares = {n: s**2 for n, s in SPECTRA.items()}
    total = sum(v.sum() for v in squares.values())
    enough = [r for r in range(1, 5) if sum(v[:r].sum() for v in squares.values()) >= share * total]
    advice = suggested(SPECTRA, share)
    assert advice.uniform == min(enough)
    assert advice.places == sum(min(len(s), advice.uniform) for s in SPECTRA.values())
    name, kept = advice.least
    assert kept == min(retained(s, advice.uniform) for s in SPECTRA.values())
    assert kept == retained(SPECTRA[name], advice.uniform)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.999])
def test_no_fewer_directions_keep_the_share(share):
    advice = suggested(SPECTRA, share)
    pool = np.sort(np.concatenate([s**2 for s in SPECTRA.values()]))[::-1]
    least = min(k for k in range(1, 10) if pool[:k].sum() >= share * pool.sum())
    kept = sum((SPECTRA[n][:r] ** 2).sum() for n, r in advice.ranks.items())
    assert kept >= share * pool.sum()
    empty = sum(r == 1 and SPECTRA[n][0] ** 2 < pool[least - 1] for n, r in advice.ranks.items())
    assert advice.directions == least + empty


def test_a_layer_that_needs_all_it_has_is_called_full():
    assert suggested(SPECTRA, 0.99).full == ("flat",)
    assert suggested(SPECTRA, 0.9925).full == ("small", "flat", "steep")
    assert any("in no spectrum" in line for line in suggested(SPECTRA).reasons())


def test_the_reasons_name_the_figures():
    advice = suggested(SPECTRA, 0.9)
    text = "\n".join(advice.reasons())
    assert f"rank {advice.uniform} keeps 90%" in text
    assert f"{advice.directions} directions" in text
    assert f"{advice.places}, at most {advice.uniform} a layer" in text
    assert advice.least[0] in text


def test_updates_that_are_zero_need_rank_one_because_peft_has_no_less():
    advice = suggested({"q": np.zeros(3), "v": np.zeros(2)})
    assert advice.ranks == {"q": 1, "v": 1}
    assert advice.uniform == 1
    assert advice.full == ()


@pytest.mark.parametrize("share", [0.0, 1.01, -1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="suggested: share must be in"):
        suggested(SPECTRA, share)


def test_no_layers_have_no_rank():
    with pytest.raises(ValueError, match="suggested: spectra must have a layer"):
        suggested({})
    with pytest.raises(ValueError, match="every spectrum must have a value, got none of q"):
        suggested({"q": np.zeros(0)})


@pytest.mark.parametrize("scale", [None, 0.3, -2.0])
def test_widening_changes_no_output(rng, library, scale):
    adapter = tree_map(library.convert, drawn(rng))
    wide = widened(adapter, 5, np.random.default_rng(1), scale)
    assert (wide.A.shape, wide.B.shape) == ((5, 7), (11, 5))
    assert wide.scale == (adapter.scale if scale is None else scale)
    assert_close(wide.delta(), adapter.delta(), "libraries", "ΔW")


def test_new_rows_are_drawn_within_the_bound_of_init_and_their_columns_are_zero(rng):
    adapter = drawn(rng)
    wide = widened(adapter, 103, rng)
    fresh = wide.A[3:]
    assert np.abs(fresh).max() <= 7**-0.5
    assert np.abs(fresh).max() > 0.9 * 7**-0.5
    assert fresh.min() < -0.9 * 7**-0.5
    assert (wide.B[:, 3:] == 0).all()
    assert np.array_equal(wide.A[:3], adapter.A)
    assert np.array_equal(wide.B[:, :3], adapter.B)


def test_new_rows_have_the_type_of_the_old_ones(rng):
    adapter = drawn(rng)
    wide = widened(replace(adapter, A=adapter.A.astype(np.float32)), 5, rng)
    assert (wide.A.dtype, wide.B.dtype) == (np.float32, np.float64)


def test_the_new_columns_have_a_gradient_at_once(rng):
    adapter, W, x = (
        widened(drawn(rng), 5, rng),
        rng.standard_normal((11, 7)),
        rng.normal(size=(4, 7)),
    )
    y, backward = adapter.apply(x, W)
    assert np.abs(backward(y)[1].B[:, 3:]).min() > 0


def test_moments_follow_with_zeros(rng):
    moments = drawn(rng)
    wide = widened_moments(moments, 5)
    assert np.array_equal(wide.A[:3], moments.A)
    assert np.array_equal(wide.B[:, :3], moments.B)
    assert (wide.A[3:] == 0).all()
    assert (wide.B[:, 3:] == 0).all()
    assert (wide.A.shape, wide.B.shape) == ((5, 7), (11, 5))


def test_a_rank_cannot_be_widened_to_a_smaller_one(rng):
    with pytest.raises(
        ValueError, match="widened: rank must be an integer of at least 3, that of A, got 2"
    ):
        widened(drawn(rng), 2, rng)
    with pytest.raises(ValueError, match="widened_moments: rank must be an integer of at least 3"):
        widened_moments(drawn(rng), 1)
    with pytest.raises(ValueError, match="widened: scale must not be zero"):
        widened(drawn(rng), 4, rng, 0.0)


def flat(rank, m=11, n=7):
    """An update whose singular values are equal, so that all of its rank is in use."""
    return LoRA(np.eye(rank, n), np.eye(m, rank), 0.5)


def steep(rank, m=11, n=7):
    return LoRA(np.eye(rank, n), np.eye(m, rank) * 10.0 ** -np.arange(2.0, 2 + 3 * rank, 3), 0.5)


def run(adapters, losses, rule, patience=2):
    state, rng = ScaleUpState(Plateau(patience)), np.random.default_rng(2)
    for loss in losses:
        state, adapters = scale_up(state, adapters, loss, rng, rule)
    return state, adapters


def test_use_is_the_effective_rank_over_the_rank(rng):
    adapter = drawn(rng)
    assert use(adapter) == effective_rank(spectrum(adapter)) / 3
    assert use(flat(4)) == pytest.approx(1.0)
    assert use(replace(adapter, B=0 * adapter.B)) == 0.0


def test_layers_that_use_their_rank_grow_on_a_plateau_and_the_others_stay():
    before = {"full": flat(2), "idle": steep(3)}
    state, after = run(before, [1.0, 1.0, 1.1], ScaleUp(limit=16))
    assert state.grown == ("full",)
    assert after["full"].A.shape == (4, 7)
    assert after["idle"] is before["idle"]
    assert_close(after["full"].delta(), before["full"].delta(), "identical", "ΔW")


def test_nothing_grows_while_the_loss_falls():
    state, after = run({"q": flat(2)}, [1.0, 0.9, 0.8, 0.7, 0.6], ScaleUp(limit=16))
    assert (state.grown, after["q"].A.shape[0]) == ((), 2)


def test_what_grew_is_named_in_the_call_that_it_grew_in_only():
    state, after = run({"q": flat(2)}, [1.0, 1.0, 1.1, 0.5], ScaleUp(limit=16))
    assert (state.grown, after["q"].A.shape[0]) == ((), 4)


@pytest.mark.parametrize(
    ("rank", "rule", "grown"),
    [
        (2, ScaleUp(limit=3), 3),
        (2, ScaleUp(limit=16, factor=3), 6),
        (4, ScaleUp(limit=16), 7),
        (4, ScaleUp(limit=4), 4),
        (5, ScaleUp(limit=4), 5),
    ],
)
def test_a_rank_grows_by_its_factor_up_to_the_limit_and_the_sizes(rank, rule, grown):
    state, after = run({"q": flat(rank)}, [1.0, 1.0, 1.0], rule)
    assert after["q"].A.shape[0] == grown
    assert state.grown == (("q",) if grown > rank else ())


def test_a_rank_grows_up_to_the_outputs_too():
    _, after = run({"q": flat(3, m=5, n=9)}, [1.0, 1.0, 1.0], ScaleUp(limit=16))
    assert after["q"].A.shape[0] == 5


def test_the_use_from_which_a_layer_grows_is_a_setting():
    half = LoRA(np.eye(2, 7), np.eye(11, 2) * [1.0, 1e-9], 1.0)
    for used, rank in ((0.5, 4), (0.6, 2)):
        _, after = run({"q": half}, [1.0, 1.0, 1.0], ScaleUp(limit=16, used=used))
        assert after["q"].A.shape[0] == rank


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"limit": 0}, "limit must be an integer of at least 1, got 0"),
        ({"limit": float("nan")}, "limit must be an integer of at least 1, got nan"),
        ({"limit": 4, "factor": 1}, "factor must be an integer of at least 2, got 1"),
        ({"limit": 4, "factor": 2.5}, "factor must be an integer of at least 2, got 2.5"),
        ({"limit": 4, "used": 1.5}, "used must be in"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(ValueError, match=f"ScaleUp: {said}"):
        ScaleUp(**fields)


def test_a_picture_has_a_line_for_each_spectrum_relative_to_its_first():
    pytest.importorskip("matplotlib", reason="matplotlib is in the [plot] extra")
    spectra = SPECTRA | {"cut": np.array([4.0, 1.0, 0.0]), "none": np.zeros(3)}
    [axes] = spectra_figure(spectra).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == list(spectra)
    assert lines["steep"].get_ydata().tolist() == [1.0, 0.1]
    assert lines["cut"].get_xdata().tolist() == [1, 2]
    assert lines["cut"].get_ydata().tolist() == [1.0, 0.25]
    assert lines["none"].get_ydata().size == 0
    assert axes.get_yscale() == "log"
    assert axes.get_legend() is not None
    [crowded] = spectra_figure({f"l{i}": SPECTRA["flat"] for i in range(NAMED + 1)}).axes
    assert crowded.get_legend() is None


def test_no_name_of_a_layer_is_taken_for_mathematics_or_moves_a_cursor():
    pytest.importorskip("matplotlib", reason="matplotlib is in the [plot] extra")
    names = ["l.$q_{$", "l.\x1b[31mq", "l.\\$q$\nk", "l.$q"]
    figure = spectra_figure(dict.fromkeys(names, SPECTRA["flat"]))
    figure.savefig(io.BytesIO(), format="svg")
    assert [line.get_label() for line in figure.axes[0].lines] == [
        r"l.\$q_{\$", r"l.\x1b[31mq", r"l.\\$q\$\nk", r"l.\$q"
    ]  # fmt: skip


def test_names_that_begin_with_an_underscore_are_in_the_legend():
    pytest.importorskip("matplotlib", reason="matplotlib is in the [plot] extra")
    [axes] = spectra_figure({"_q": SPECTRA["flat"], "v": SPECTRA["flat"]}).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["_q", "v"]


def test_there_is_no_picture_of_nothing():
    with pytest.raises(ValueError, match="spectra_figure: spectra must have a layer"):
        spectra_figure({})


def test_the_suggestion_does_not_depend_on_the_size_of_the_updates():
    # Squares of these leave the range of float64, and one layer has nothing.
    huge = {name: 1e200 * s for name, s in SPECTRA.items()}
    huge |= {"nothing": np.zeros(2), "one": np.array([1e200, 0.0])}
    plain = SPECTRA | {"nothing": np.zeros(2), "one": np.array([1.0, 0.0])}
    assert suggested(huge, 0.95).ranks == suggested(plain, 0.95).ranks
    lone = suggested({"one": np.array([1e200, 0.0])})
    assert (lone.uniform, lone.ranks) == (1, {"one": 1})


def test_the_bounds_of_a_rule_are_allowed():
    assert ScaleUp(limit=1, used=0.0).used == 0.0
    assert ScaleUp(limit=1, used=1.0).limit == 1


def test_a_layer_whose_use_is_just_enough_grows():
    _, after = run({"q": flat(1)}, [1.0, 1.0, 1.0], ScaleUp(limit=16, used=1.0))
    assert after["q"].A.shape[0] == 2


def test_widening_to_the_same_rank_is_nothing(rng):
    adapter = drawn(rng)
    assert_close(widened(adapter, 3, rng).A, adapter.A, "identical", "A")


def test_new_rows_reach_both_ends_of_the_interval(rng):
    fresh = widened(drawn(rng), 103, rng).A[3:]
    assert fresh.max() > 0.9 * 7**-0.5
    assert fresh.min() < -0.9 * 7**-0.5
