"""Oracles from the arrays of any library, and what they refuse."""

import numpy as np
import pytest
from mistake_cases import oracles

from lora_ref.adapters import DoRA, LoRA
from lora_ref.layers.attention import causal_mask, grouped_query_attention
from lora_ref.layers.normalization import rms_norm
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close
from lora_ref.verdict.grids import FLOAT32
from lora_ref.verdict.oracles import (
    Rotation,
    attention,
    dora_linear,
    lora_linear,
    lora_merged,
    oracle_of,
)

RNG = np.random.default_rng(0)
X, W, A, B = (RNG.standard_normal(s) for s in ((2, 5, 7), (11, 7), (3, 7), (11, 3)))
M, BIAS, DY = (RNG.standard_normal(s) for s in ((11,), (11,), (2, 5, 11)))
Q, K, V, DO = (RNG.standard_normal(s) for s in ((4, 5, 6), (2, 5, 6), (2, 5, 3), (4, 5, 3)))


@pytest.mark.parametrize(
    ("oracle", "outputs"),
    [
        (lora_linear(X, W, A, B, scale=1.5), "y"),
        (lora_linear(X, W, A, B, scale=1.5, dy=DY), "y dx dA dB"),
        (lora_linear(X, W, A, B, scale=1.5, b=BIAS, dy=DY), "y dx dA dB db"),
        (lora_merged(W, A, B, scale=1.5, dW=W), "y dA dB"),
        (dora_linear(X, W, A, B, M, scale=1.5, b=BIAS, dy=DY), "y dx dA dB dm db"),
        (attention(Q, K, V, causal=True, do=DO), "y dq dk dv"),
    ],
)
def test_the_outputs_have_the_names_of_what_was_given(oracle, outputs):
    assert " ".join(oracle.reference()) == outputs


@pytest.mark.parametrize("kind", ["linear", "square", "dora", "dora square"])
def test_the_merged_route_is_the_same_map(kind):
    oracle = oracles(FLOAT32)[kind]
    merged = oracle.outputs(kernel=oracle.merged)
    for name, value in oracle.reference().items():
        if not (kind.startswith("dora") and name in ("dA", "dB")):
            assert_close(merged[name], value, "routes", name)


def test_a_bias_is_added_and_its_gradient_summed():
    with_bias = lora_linear(X, W, A, B, scale=1.5, b=BIAS, dy=DY).reference()
    without = lora_linear(X, W, A, B, scale=1.5, dy=DY).reference()
    assert_close(with_bias["y"], without["y"] + BIAS, "libraries", "y")
    assert_close(with_bias["db"], DY.sum((0, 1)), "libraries", "db")


def test_dora_detaches_its_norm_unless_told_otherwise():
    detached = dora_linear(X, W, A, B, M, scale=1.5, dy=DY).reference()
    full = dora_linear(X, W, A, B, M, scale=1.5, dy=DY, detach_norm=False).reference()
    _, backward = DoRA(A, B, M, 1.5, detach_norm=True).apply(X, W)
    assert_close(detached["dA"], backward(DY)[1].A, "identical", "dA")
    assert np.linalg.norm(full["dA"] - detached["dA"]) > 1e-3


def test_attention_is_grouped_masked_and_turned():
    seen = RNG.random((5, 5)) > 0.3
    oracle = attention(Q, K, V, mask=seen, causal=True, do=DO)
    mask = seen & causal_mask(5, 5, Q)
    y, backward = grouped_query_attention(Q, K, V, mask=mask)
    assert_close(oracle.reference()["y"], y, "identical", "y")
    assert_close(oracle.reference()["dk"], backward(DO)[1], "identical", "dk")
    shifted = [
        attention(Q, K, V, do=DO, rotation=Rotation(np.arange(5) + p)).reference() for p in (0, 90)
    ]
    assert_close(shifted[0]["dq"], shifted[1]["dq"], "routes", "dq")
    assert np.linalg.norm(shifted[0]["y"] - attention(Q, K, V).reference()["y"]) > 1e-3


def test_an_additive_mask_goes_with_a_causal_one():
    bias = RNG.standard_normal((5, 5))
    both = attention(Q, K, V, mask=bias, causal=True).reference()["y"]
    by_hand = np.where(causal_mask(5, 5, Q), bias, -np.inf)
    assert_close(both, attention(Q, K, V, mask=by_hand).reference()["y"], "identical", "y")


def test_any_layer_makes_an_oracle():
    oracle = oracle_of(rms_norm, {"x": X, "weight": np.ones(7)}, {"eps": 1e-5}, X)
    assert list(oracle.reference()) == ["y", "dx", "dweight"]
    of_adapter = oracle_of(
        lambda x, adapter, W: adapter.apply(x, W), {"x": X, "adapter": LoRA(A, B, 1.5)},
        {"W": W}, DY,
    )  # fmt: skip
    assert list(of_adapter.reference()) == ["y", "dx", "dA", "dB"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lora_linear(X, W, A.T, B, scale=1.0), "lora_linear: A must be (r, n) with n = 7"),
        (lambda: lora_linear(X, W, A, B.T, scale=1.0), "lora_linear: B must be (m, r)"),
        (lambda: lora_linear(X, W, A, B, scale=1.0, dy=X), "lora_linear: dy must be (*batch, m)"),
        (lambda: lora_merged(W, A, B, scale=1.0, dW=W.T), "lora_merged: dW must be (m, n)"),
        (lambda: dora_linear(X, W, A, B, M[:3], scale=1.0), "dora_linear: m must be (m,)"),
        (lambda: attention(Q, K, V[:, :4]), "attention: v must be (*batch, K, S, e)"),
        (lambda: attention(Q, K, V, mask=np.ones((4, 4), bool)), "attention: mask must broadcast"),
        (lambda: attention(Q[:3], K, V), "attention: the heads of k must divide those of q"),
    ],
)
def test_a_shape_that_does_not_fit_is_named(make, message):
    with pytest.raises(ShapeError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_scale_must_be_a_finite_number():
    with pytest.raises(TypeError, match="lora_linear: scale must be a number, got str"):
        lora_linear(X, W, A, B, scale="α/r")
    with pytest.raises(ValueError, match="lora_linear: scale must be finite, got nan"):
        lora_linear(X, W, A, B, scale=float("nan"))


def test_a_list_is_refused_by_name():
    with pytest.raises(TypeError, match="W must be an array"):
        lora_linear(X, [[1.0]], A, B, scale=1.0)


def test_a_rotation_needs_positions_or_angles():
    with pytest.raises(ValueError, match="positions, or both cos and sin"):
        attention(Q, K, V, rotation=Rotation())
