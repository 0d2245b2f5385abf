"""What masks, scores and the settings of growth refuse, and that they name it."""

from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import AdaLoRA
from lora_ref.rank.allocation import (
    GrowthRule,
    Plateau,
    decomposed,
    grown,
    kept,
    masked,
    peft_mask,
    pruned,
    ranks,
    ridge_importance,
    top,
)
from lora_ref.shapes import ShapeError

NAN, INF = float("nan"), float("inf")
SCORES = {"q": np.array([0.5, 3.0]), "v": np.array([2.0])}


@pytest.mark.parametrize("mask", [top, peft_mask])
def test_scores_that_are_not_finite_have_no_order(mask):
    for value in (NAN, INF):
        with pytest.raises(ValueError, match=rf"{mask.__name__}: scores\['v'\] must be finite"):
            mask(SCORES | {"v": np.array([value])}, 1)
    with pytest.raises(ShapeError, match=r"scores\['v'\] must be \(r,\), got \(2, 1\)"):
        mask(SCORES | {"v": np.ones((2, 1))}, 1)
    with pytest.raises(ValueError, match=f"{mask.__name__}: scores must have a layer, got none"):
        mask({}, 0)
    with pytest.raises(ValueError, match=f"{mask.__name__}: budget must be an integer of at"):
        mask(SCORES, 1.5)


@pytest.fixture
def triplets(rng):
    return AdaLoRA(rng.standard_normal((7, 3)), np.ones(3), rng.standard_normal((3, 5)), 0.5)


def test_a_mask_has_one_flag_for_each_triplet(triplets):
    for flags in (np.array([True]), np.array([True, False]), np.ones(4, bool)):
        with pytest.raises(ShapeError, match=r"masked: mask\['q'\] must be \(r,\) with r = 3"):
            masked({"q": triplets}, {"q": flags})
        with pytest.raises(ShapeError, match=r"kept: mask must be \(r,\) with r = 3"):
            kept(triplets, flags)


def test_a_mask_holds_flags_and_no_numbers(triplets):
    for flags in (np.ones(3), np.ones(3, int)):
        with pytest.raises(TypeError, match=r"masked: mask\['q'\] must hold bool"):
            masked({"q": triplets}, {"q": flags})
        with pytest.raises(TypeError, match="kept: mask must hold bool"):
            kept(triplets, flags)
        with pytest.raises(TypeError, match=r"ranks: mask\['q'\] must hold bool"):
            ranks({"q": flags})


@pytest.mark.parametrize("layers", [(), ("v",), ("q", "v")])
def test_a_mask_is_of_the_same_layers(triplets, layers):
    mask = {name: np.ones(3, bool) for name in layers}
    with pytest.raises(ValueError, match=r"masked: mask must be of \['q'\], got "):
        masked({"q": triplets}, mask)


# Growth


@pytest.mark.parametrize("value", [NAN, INF])
def test_triplets_that_are_not_finite_are_not_decomposed(triplets, value):
    for name in ("P", "lam", "Q"):
        spoilt = getattr(triplets, name).copy()
        spoilt.flat[1] = value
        bad = replace(triplets, **{name: spoilt})
        with pytest.raises(ValueError, match=f"decomposed: adapter.{name} must be finite"):
            decomposed(bad)


@pytest.mark.parametrize("regulariser", [NAN, INF, "1"])
def test_a_regulariser_is_a_finite_number(triplets, regulariser):
    with pytest.raises(ValueError, match="ridge_importance: regulariser must be a finite number"):
        pruned(triplets, 0.5, regulariser)


def test_an_importance_is_of_finite_singular_values():
    with pytest.raises(ValueError, match="ridge_importance: sigma must be finite"):
        ridge_importance(np.array([NAN]), 1.0)
    small = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"ridge_importance: √regulariser must be from 1\.18e-38"):
        ridge_importance(small, 1e-100)


def test_the_settings_of_growth_are_counts_and_numbers(triplets, rng):
    fields = {"threshold": 0.5, "regulariser": 1.0, "prune_every": 2, "grow_every": 2}
    for name, value in (("prune_every", 1.5), ("grow_every", 2.0), ("count", -1), ("limit", 4.0)):
        with pytest.raises(ValueError, match=f"GrowthRule: {name} must be an integer of at least"):
            GrowthRule(**fields | {name: value})
    with pytest.raises(ValueError, match="Plateau: gain must be a finite number"):
        Plateau(1, gain=NAN)
    with pytest.raises(ValueError, match="grown: count must be an integer of at least 0"):
        grown(triplets, 1.0, rng)


@pytest.mark.parametrize("name", ["count", "limit"])
def test_a_count_or_a_limit_of_zero_grows_nothing(triplets, rng, name):
    fields = {"threshold": 0.5, "regulariser": 1.0, "prune_every": 2, "grow_every": 1, name: 0}
    assert GrowthRule(**fields).step({"q": triplets}, 1, rng)["q"].lam.shape == (3,)
