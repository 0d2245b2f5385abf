"""What a diagnosis is called where several explanations, or none, fit."""

import ml_dtypes
import numpy as np
import pytest

from lora_ref.verdict.grids import grid_of
from lora_ref.verify import Status
from lora_ref.verify.catalogue import Surroundings
from lora_ref.verify.judge import judge
from lora_ref.verify.measure import Pair
from lora_ref.verify.updates import Conventions, LowRank, Part

M, N, R, ALPHA = 40, 56, 4, 8.0
S = ALPHA / R


def made(dtype=np.float32, seed=0, conventions=None):
    """W in `dtype`, A, B and the update of size 5 %."""
    rng = np.random.default_rng(seed)
    W = (0.05 * rng.standard_normal((M, N))).astype(dtype)
    A = rng.standard_normal((R, N)).astype(np.float32)
    B = (0.0006 * rng.standard_normal((M, R))).astype(np.float32)
    conventions = conventions or Conventions(ALPHA, R, False, ALPHA, R)
    part = Part(0, B.astype(float), A.astype(float))
    return W, A, B, LowRank("w", "w", (M, N), (part,), S, conventions)


def names(W, merged, update):
    pair = Pair(W, merged, grid_of(W.dtype), grid_of(merged.dtype))
    around = Surroundings({"w": W.shape}, lambda name: W, {"w": update})
    verdict = judge("w", pair, update, around, np.random.default_rng(0))
    assert verdict.status == Status.BUG, verdict.text
    return [d.name for d in verdict.diagnoses]


def test_two_conventions_that_give_one_number_are_both_named():
    W, A, B, update = made()
    found = names(W, W + np.float32(ALPHA / R**0.5) * (B @ A), update)[0]
    assert "applied twice" in found
    assert "α/√r where the adapter says α/r" in found


def test_one_formula_in_two_notations_is_named_once():
    W, A, B, update = made(conventions=Conventions(7.0, R, False, 7.0, R))
    update = update.with_scale(7 / R)
    assert names(W, W + np.float32(7.0) * (B @ A), update) == ["α not divided by the rank"]


def test_inputs_given_in_the_wrong_order_are_said_to_be_exchanged():
    W, A, B, update = made()
    merged = W + np.float32(S) * (B @ A)
    assert names(merged, W, update) == ["BASE and MERGED exchanged"]


def test_a_base_that_was_rounded_after_the_merge_is_called_rounded():
    W, A, B, update = made()
    merged = W + np.float32(S) * (B @ A)
    assert names(W.astype(ml_dtypes.bfloat16), merged, update) == ["BASE is rounded"]


@pytest.mark.parametrize("noise", [1e-4, 1e-3, 1e-2])
def test_noise_beside_a_right_update_is_no_other_adapter(noise):
    W, A, B, update = made()
    rng = np.random.default_rng(1)
    wrong = W + np.float32(S) * (B @ A) + noise * rng.standard_normal(W.shape)
    assert names(W, wrong.astype(np.float32), update) == ["another base"]


def test_errors_in_a_row_of_zeros_are_no_rounding():
    W, A, B, update = made(ml_dtypes.bfloat16)
    W[5] = 0
    B[5] = 0
    part = Part(0, B.astype(float), A.astype(float))
    update = LowRank("w", "w", (M, N), (part,), S, update.conventions)
    merged = (W.astype(np.float32) + np.float32(S) * (B @ A)).astype(W.dtype)
    merged[5] = (3e-4 * np.random.default_rng(2).standard_normal(N)).astype(W.dtype)
    assert names(W, merged, update) == ["some elements overwritten"]


@pytest.mark.parametrize("low", ["bfloat16", "float16"])
def test_an_update_formed_in_16_bits_and_added_in_float32_has_a_recipe(low):
    W, A, B, update = made()
    dtype = np.dtype(getattr(ml_dtypes, low, low))
    delta = (np.float32(S) * (B @ A)).astype(dtype).astype(np.float32)
    pair = Pair(W, W + delta, grid_of(W.dtype), grid_of(W.dtype))
    around = Surroundings({"w": W.shape}, lambda name: W, {"w": update})
    verdict = judge("w", pair, update, around, np.random.default_rng(0))
    assert verdict.recipe == f"delta rounded first, update in {low}: bit for bit"
