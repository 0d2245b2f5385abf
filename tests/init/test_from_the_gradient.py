"""LoRA-GA: the first step of training is that of the full weight, as near as rank 2r comes."""

import numpy as np
import pytest

from lora_ref.init import (
    Parts,
    alternating,
    drawn_parts,
    leading_to_A,
    leading_to_B,
    lora_ga,
    lora_ga_peft,
    pissa,
    stable_gain,
    weight_gain,
)
from lora_ref.testing.tolerance import assert_close, relative_error

S, R, GAIN = 5 / 3, 3, 0.7
PARTS = [leading_to_A(R), leading_to_B(R), alternating(R), drawn_parts(R, np.random.default_rng(1))]
SHAPES = pytest.mark.parametrize("shape", [(11, 7), (7, 11), (6, 6)], ids=str)


def drawn(rng, shape=(11, 7)):
    return rng.standard_normal(shape), rng.standard_normal(shape)


def best(G, rank):
    """The best approximation of that rank."""
    U, lengths, Vt = np.linalg.svd(G)
    return U[:, :rank] * lengths[:rank] @ Vt[:rank]


def first_step(lora, W_res, G):
    """Minus what a small step of gradient descent moves s B A by, in units of the step."""
    d = lora.weight(W_res)[1](G)
    return lora.scale * (lora.B @ d.A + d.B @ lora.A)


@SHAPES
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_the_first_step_is_that_of_the_full_weight_in_rank_2r(shape, parts, rng):
    W, G = drawn(rng, shape)
    lora, W_res = lora_ga(W, G, R, S, gain=GAIN, parts=parts)
    step = first_step(lora, W_res, G)
    assert_close(step, S**2 * GAIN**2 * best(G, 2 * R), "routes", "the first step")


def test_with_the_singular_values_in_B_it_is_another_direction(rng):
    W, G = drawn(rng)
    step = first_step(*lora_ga_peft(W, G, R, S), G)
    full = best(G, 2 * R)
    assert abs(np.sum(step * full)) < 0.97 * np.linalg.norm(step) * np.linalg.norm(full)


def test_both_factors_have_orthonormal_vectors_times_the_gain(rng):
    lora, _ = lora_ga(*drawn(rng), R, S, gain=GAIN)
    assert_close(lora.A @ lora.A.T, GAIN**2 * np.eye(R), "routes", "A Aᵀ")
    assert_close(lora.B.T @ lora.B, GAIN**2 * np.eye(R), "routes", "Bᵀ B")


def test_pefts_factors_have_their_own_gains_and_B_the_singular_values(rng):
    W, G = drawn(rng)
    parts = Parts((1, 4), (5, 0))
    lora, _ = lora_ga_peft(W, G, 2, S, gain_A=0.3, gain_B=0.6, parts=parts)
    U, lengths, Vt = np.linalg.svd(G)
    assert_close(np.abs(lora.A), 0.3 * np.abs(Vt[[1, 4]]), "routes", "|A|")
    assert_close(np.abs(lora.B), 0.6 * np.abs(U[:, [5, 0]]) * lengths[[5, 0]], "routes", "|B|")


def test_pefts_gains_are_one_by_default(rng):
    W, G = drawn(rng)
    found, expected = lora_ga_peft(W, G, R, S)[0], lora_ga_peft(W, G, R, S, gain_A=1, gain_B=1)[0]
    assert np.array_equal(found.B, expected.B)
    assert_close(found.A @ found.A.T, np.eye(R), "routes", "A Aᵀ")


def test_the_sign_and_the_size_of_the_gradient_do_not_matter(rng):
    W, G = drawn(rng)
    found, expected = (lora_ga(W, t, R, S, gain=GAIN)[0] for t in (-7 * G, G))
    assert_close(found.A, expected.A, "routes", "A")
    assert_close(np.abs(found.B), np.abs(expected.B), "routes", "|B|")


def test_the_leading_components_go_to_A_by_default(rng):
    W, G = drawn(rng)
    for start in (
        lambda **p: lora_ga(W, G, R, S, gain=GAIN, **p),
        lambda **p: lora_ga_peft(W, G, R, S, **p),
    ):
        assert np.array_equal(start()[0].B, start(parts=leading_to_A(R))[0].B)
        assert relative_error(start()[0].A, start(parts=leading_to_B(R))[0].A) > 0.1


def test_the_parts_are_those_that_have_names():
    assert leading_to_A(3) == Parts((0, 1, 2), (3, 4, 5))
    assert leading_to_B(3) == Parts((3, 4, 5), (0, 1, 2))
    assert alternating(3) == Parts((1, 3, 5), (0, 2, 4))


def test_drawn_parts_share_nothing_and_leave_nothing_out():
    found = [drawn_parts(3, np.random.default_rng(seed)) for seed in range(5)]
    assert all(sorted((*p.A, *p.B)) == [0, 1, 2, 3, 4, 5] for p in found)
    assert all(len(p.A) == 3 for p in found)
    assert len({p.A for p in found}) > 1


def test_the_stable_gain_is_the_fourth_root_of_the_outputs_over_the_root_of_gamma():
    assert stable_gain(81, 9.0) == pytest.approx(1.0)
    assert stable_gain(16) == pytest.approx(0.5)
    assert stable_gain(16, 0.25) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="stable_gain: gamma must be positive, got 0"):
        stable_gain(16, 0)


def test_the_weights_gain_is_the_mean_size_of_pissas_factors(library, rng):
    W = rng.standard_normal((11, 7))
    sizes = np.linalg.norm(pissa(W, R, S)[0].A, axis=1)
    assert weight_gain(library.convert(W), R, S) == pytest.approx(np.mean(sizes))
    with pytest.raises(ValueError, match="weight_gain: scale must be positive"):
        weight_gain(W, R, 0.0)


@pytest.mark.parametrize("gain", [np.nan, -np.inf, "1", None, True])
def test_a_gain_that_is_no_finite_number_is_refused(gain, rng):
    W, G = drawn(rng)
    calls = {
        "lora_ga: gain": lambda: lora_ga(W, G, R, S, gain=gain),
        "lora_ga_peft: gain_A": lambda: lora_ga_peft(W, G, R, S, gain_A=gain),
        "lora_ga_peft: gain_B": lambda: lora_ga_peft(W, G, R, S, gain_B=gain),
        "stable_gain: gamma": lambda: stable_gain(11, gain),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} must be a finite number, got {gain!r}"):
            call()


@pytest.mark.parametrize("start", [lora_ga_peft, lambda *a: lora_ga(*a, gain=1.0)])
def test_twice_the_rank_must_be_in_the_gradient(start, rng):
    with pytest.raises(
        ValueError, match=r"rank must be an integer from 1 to 3, for G \(11, 7\), got 4"
    ):
        start(*drawn(rng), 4, S)
