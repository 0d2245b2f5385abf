"""What is special to AdaLoRA: triplets, scales, masks, the recorded numbers of PEFT."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lora_ref.adapters import AdaConvLoRA, AdaLoRA, FanInFanOut, LoRA, apply_merged
from lora_ref.adapters.adalora import peft_scaling
from lora_ref.adapters.adalora_conv import flat
from lora_ref.checkpoint import SafetensorsFile
from lora_ref.layers.convolution import Geometry
from lora_ref.layers.linear import adapted_linear
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.gradient_check import random_like
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import leaves

VECTORS = Path(__file__).parent.parent / "vectors"
CASES = json.loads((VECTORS / "peft_adalora.json").read_text())["cases"]
module = importlib.import_module("lora_ref.adapters.adalora")


def drawn(rng, m=7, n=11, rank=3, scale=5 / 3):
    sizes = ((m, rank), (rank,), (rank, n))
    return AdaLoRA(*(rng.standard_normal(size) for size in sizes), scale)


def test_the_update_is_the_sum_of_its_triplets(rng):
    a, W = drawn(rng), rng.standard_normal((7, 11))
    triplets = [a.lam[i] * np.outer(a.P[:, i], a.Q[i]) for i in range(3)]
    assert_close(a.merge(W), W + 5 / 3 * sum(triplets), "routes", "W'")


def test_orthonormal_factors_make_it_a_singular_value_decomposition(rng):
    P, Q = (np.linalg.qr(rng.standard_normal((size, 3)))[0] for size in (7, 11))
    a = AdaLoRA(P, np.array([3.0, 2.0, 0.5]), Q.T, 0.4)
    found = np.linalg.svd(a.merge(np.zeros((7, 11))), compute_uv=False)[:3]
    assert_close(found, 0.4 * a.lam, "routes", "singular values")


def test_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((110, 70))
    a = AdaLoRA.init(W, rank=30, alpha=50, rng=rng)
    assert np.array_equal(a.merge(W), W)
    assert a.scale == 50 / 30
    for t in (a.P, a.Q):
        assert 0.018 < np.std(t) < 0.022
        assert abs(np.mean(t)) < 0.002
    assert (a.P.shape, a.lam.shape, a.Q.shape) == ((110, 30), (30,), (30, 70))


def test_a_masked_triplet_has_a_gradient_and_can_come_back(rng):
    a = drawn(rng)
    a, x = replace(a, lam=a.lam * np.array([1, 0, 1])), rng.standard_normal((5, 11))
    y, backward = a.apply(x, rng.standard_normal((7, 11)))
    d = backward(random_like(y, rng))[1]
    assert d.lam[1] != 0
    assert np.all(d.P[:, 1] == 0)
    assert np.all(d.Q[1] == 0)


def test_as_a_lora_it_is_the_same_update(rng):
    a, W = drawn(rng), rng.standard_normal((7, 11))
    assert isinstance(a.lora(), LoRA)
    assert_close(a.lora().merge(W), a.merge(W), "libraries", "W'")


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(5, 5 / 3.00001), (0.5, 0.5 / 3.00001), (0, 3 / 3.00001), (-2, 3 / 3.00001)],
)
def test_pefts_scale_divides_by_a_little_more_than_the_rank(alpha, expected):
    assert peft_scaling(alpha, 3) == expected


@pytest.mark.parametrize("choice", [0, 1])
@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
def test_code_that_takes_one_form_throughout_gets_the_same(rng, monkeypatch, choice, square):
    case = adapter_example(AdaLoRA, rng, square)
    y, backward = apply_merged(case.target, *case.args)
    dy = random_like(y, rng)
    expected = y, backward(dy)
    monkeypatch.setattr(module, "either", lambda xp, *forms: forms[choice]())
    y, backward = case.target.apply(*case.args)
    assert_trees_close((y, backward(dy)), expected, "routes", f"form {choice}")


def test_singular_values_of_another_rank_are_refused():
    wanted = r"AdaLoRA: AdaLoRA.lam must be \(r,\) with r = 3 from AdaLoRA.P, got \(4,\)"
    with pytest.raises(ShapeError, match=wanted):
        AdaLoRA(np.ones((7, 3)), np.ones(4), np.ones((3, 11)), 1.0)


def test_a_rank_below_one_is_refused(rng):
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        AdaLoRA.init(np.ones((7, 11)), rank=0, alpha=5, rng=rng)


def test_a_layer_may_be_left_with_no_triplet(rng):
    a, W = drawn(rng, rank=0), rng.standard_normal((7, 11))
    x = rng.standard_normal((2, 11))
    y, backward = a.apply(x, W)
    assert np.array_equal(y, x @ W.T)
    assert backward(y)[1].P.shape == (7, 0)


def test_one_group_of_a_convolution_is_the_matrix_of_its_kernel(rng):
    W = rng.standard_normal((5, 3, 2, 4))
    conv = AdaConvLoRA(drawn(rng, 5, 24), Geometry.uniform(2))
    assert_close(flat(conv.merge(W)), conv.inner.merge(flat(W)), "identical", "W'")


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 3, 2, 2), (4, 3, 2, 4)])
def test_a_kernel_that_does_not_fit_is_refused(rng, shape):
    conv = AdaConvLoRA(drawn(rng, 5, 24), Geometry.uniform(2))
    wanted = "W must have 4 axes from geometry, 5 outputs from P and 24 numbers in each from Q, got"
    for call in (conv.weight, lambda W: conv.apply(rng.standard_normal((1, 3, 6, 6)), W)):
        with pytest.raises(ShapeError, match=wanted):
            call(np.ones(shape))


class Recorded:
    """One recorded case: arrays by name, those of the adapter by letter."""

    def __init__(self, name):
        self.name, self.fields = name, CASES[name]
        self.file = SafetensorsFile.open(VECTORS / "peft_adalora.safetensors")

    def __getitem__(self, key):
        return self.file.tensor(f"{self.name}/{key}")

    def adapter(self, prefix="adapter"):
        A, E, B = (self[f"{prefix}/base_model.model.layer.lora_{x}"] for x in "AEB")
        config = self.fields["config"]
        return AdaLoRA(B, E[:, 0], A, peft_scaling(config["lora_alpha"], config["init_r"]))

    def expect(self, kind, actual):
        assert_close(actual, self[kind], "golden", f"{self.name}, {kind}")


def adapted(case):
    """The adapter in the layout of its base, and how to take its inner one out."""
    inner = case.adapter()
    if case.fields["layer"] == "Conv1D":
        return FanInFanOut(inner)
    if case.fields["layer"] == "Conv2d":
        given = case.fields["geometry"]
        each = {k: v for k, v in given.items() if isinstance(v, list)}
        padding = tuple((p, p) for p in each.get("padding", (0, 0)))
        stride, dilation = (tuple(each.get(k, (1, 1))) for k in ("stride", "dilation"))
        return AdaConvLoRA(inner, Geometry(stride, padding, dilation))
    return inner


@pytest.mark.parametrize("name", CASES)
def test_a_layer_gives_the_recorded_numbers(name):
    case = Recorded(name)
    adapter, W, b = adapted(case), case["base/weight"], case["base/bias"]
    if isinstance(adapter, AdaConvLoRA):
        y, backward = adapter.apply(case["x"], W)
        y = y + b[:, None, None]
    else:
        y, backward = adapted_linear(case["x"], W, adapter, b)
    dx, d, *_ = backward(case["dy"])
    case.expect("y", y)
    case.expect("dx", dx)
    case.expect("merged/weight", adapter.merge(W))
    expected = case.adapter("d_adapter")
    assert_trees_close(getattr(d, "inner", d), expected, "golden", f"{name}, gradients")
    merged_gradient = apply_merged(adapter, case["x"], W)[1](case["dy"])[1]
    found = getattr(merged_gradient, "inner", merged_gradient)
    assert_trees_close(found, expected, "golden", f"{name}, gradients of the definition")
    assert len(list(leaves(expected))) == 3
