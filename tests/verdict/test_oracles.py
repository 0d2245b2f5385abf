"""Oracles from the arrays of any library, and what they refuse."""

import re

import numpy as np
import pytest
from mistake_cases import oracles

from lora_ref.adapters import DoRA, LoRA
from lora_ref.layers.attention import causal_mask, grouped_query_attention
from lora_ref.layers.normalization import rms_norm
from lora_ref.layers.rotary import rotary_angles
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close
from lora_ref.verdict.accumulate import Sequential
from lora_ref.verdict.choices import Choices
from lora_ref.verdict.contract import BFLOAT16_CONTRACT
from lora_ref.verdict.emulated import emulate
from lora_ref.verdict.findings import Status
from lora_ref.verdict.grids import BFLOAT16, FLOAT32
from lora_ref.verdict.judge import judge
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


def test_what_is_not_optional_is_refused_where_it_is_none():
    with pytest.raises(TypeError, match=r"x must be an array .*, got NoneType"):
        lora_linear(None, W, A, B, scale=1.0)


EMPTY = {
    "lora_linear: n of x (*batch, n)": lambda: lora_linear(
        X[..., :0], W[:, :0], A[:, :0], B, scale=1.0
    ),
    "lora_linear: m of W (m, n)": lambda: lora_linear(X, W[:0], A, B[:0], scale=1.0),
    "lora_linear: r of A (r, n)": lambda: lora_linear(X, W, A[:0], B[:, :0], scale=1.0),
    "lora_merged: n of W (m, n)": lambda: lora_merged(W[:, :0], A[:, :0], B, scale=1.0),
    "lora_merged: m of W (m, n)": lambda: lora_merged(W[:0], A, B[:0], scale=1.0),
    "lora_merged: r of A (r, n)": lambda: lora_merged(W, A[:0], B[:, :0], scale=1.0),
    "dora_linear: n of x (*batch, n)": lambda: dora_linear(
        X[..., :0], W[:, :0], A[:, :0], B, M, scale=1.0
    ),
    "dora_linear: m of W (m, n)": lambda: dora_linear(X, W[:0], A, B[:0], M[:0], scale=1.0),
    "dora_linear: r of A (r, n)": lambda: dora_linear(X, W, A[:0], B[:, :0], M, scale=1.0),
    "attention: S of k (*batch, K, S, d)": lambda: attention(Q, K[:, :0], V[:, :0]),
    "attention: H of q (*batch, H, T, d)": lambda: attention(Q[:0], K, V),
    "attention: K of k (*batch, K, S, d)": lambda: attention(Q, K[:0], V[:0]),
    "attention: d of q (*batch, H, T, d)": lambda: attention(Q[..., :0], K[..., :0], V),
    "attention: e of v (*batch, K, S, e)": lambda: attention(Q, K, V[..., :0]),
    "attention: S of k (S, d)": lambda: attention(Q[0], K[0, :0], V[0, :0]),
    "attention: d of q (T, d)": lambda: attention(Q[0, :, :0], K[0, :, :0], V[0]),
}


@pytest.mark.parametrize(("named", "make"), EMPTY.items(), ids=EMPTY)
def test_an_empty_axis_of_features_is_refused_by_its_name(named, make):
    with pytest.raises(ShapeError, match=rf"^{re.escape(named)} must be at least 1, got \(.*0"):
        make()


def on_grid(*shape):
    return BFLOAT16.round(RNG.standard_normal(shape))


def no_tokens(x_shape):
    x, dy = on_grid(*x_shape, 7), on_grid(*x_shape, 11)
    return x, on_grid(11, 7), on_grid(3, 7), on_grid(11, 3), dy


def linear_of_none(*x_shape):
    x, w, a, b, dy = no_tokens(x_shape)
    return lora_linear(x, w, a, b, scale=1.5, b=on_grid(11), dy=dy)


def dora_of_none(*x_shape):
    x, w, a, b, dy = no_tokens(x_shape)
    return dora_linear(x, w, a, b, on_grid(11), scale=1.5, dy=dy)


def attention_of_none(batch, T, causal):
    shapes = ((4, T, 6), (2, 5, 6), (2, 5, 3), (4, T, 3))
    q, k, v, do = (on_grid(*batch, *s) for s in shapes)
    return attention(q, k, v, causal=causal, do=do)


NOTHING = {
    "no rows": lambda: linear_of_none(0),
    "no batch": lambda: linear_of_none(0, 5),
    "no tokens in a batch": lambda: linear_of_none(2, 0),
    "dora without rows": lambda: dora_of_none(2, 0),
    "no queries": lambda: attention_of_none((), 0, False),
    "no queries, causal": lambda: attention_of_none((2,), 0, True),
    "attention without a batch": lambda: attention_of_none((0,), 5, True),
}


@pytest.mark.parametrize("choices", [Choices(), Choices(alternative=1, order=Sequential())])
@pytest.mark.parametrize("make", NOTHING.values(), ids=NOTHING)
def test_no_tokens_are_emulated_and_judged(make, choices):
    oracle = make()
    found = emulate(oracle, BFLOAT16_CONTRACT, choices)
    for name, value in oracle.reference().items():
        assert found[name].shape == value.shape
    assert found["y"].size == 0
    assert judge(found, oracle, BFLOAT16_CONTRACT).status is Status.EXACT


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mask_that_makes_a_row_nan_is_refused_with_its_place(value):
    mask = np.zeros((5, 5))
    mask[1, 2], mask[0, 3] = value, -np.inf
    message = rf"^attention: mask must hold numbers, or -inf .*, got {value} at \(1, 2\)"
    with pytest.raises(ValueError, match=message):
        attention(Q, K, V, mask=mask)


COS, SIN = rotary_angles(np.arange(5), 4)


@pytest.mark.parametrize(
    ("rotation", "error", "message"),
    [
        ({"width": 0}, ValueError, "width must be even, from 2 to d = 6 of q, got 0"),
        ({"width": 3}, ValueError, "width must be even, from 2 to d = 6 of q, got 3"),
        ({"width": 8}, ValueError, "width must be even, from 2 to d = 6 of q, got 8"),
        ({"width": 4.0}, TypeError, "width must be an integer, got float"),
        ({"base": 0}, ValueError, "base must be positive, got 0"),
        ({"base": -3}, ValueError, "base must be positive, got -3"),
        ({"base": np.inf}, ValueError, "base must be finite, got inf"),
        ({"base": "10k"}, TypeError, "base must be a number, got str"),
        ({"turn": "half"}, TypeError, "turn must be rotary_half or rotary_interleaved"),
        ({"positions": np.arange(4)}, ShapeError, "positions must be (..., T) with T = 5 from q"),
        ({"positions": np.array(3)}, ShapeError, "positions must be (..., T) with T = 5 from q"),
        ({"positions": np.ones(5)}, TypeError, "positions must be integers, got float64"),
        ({"positions": np.ones(5, bool)}, TypeError, "positions must be integers, got bool"),
        (
            {"positions": np.ones((4, 5), int)},
            ShapeError,
            "positions must broadcast to the rows (2, 5) of k, got (4, 5)",
        ),
        (
            {"positions": np.ones((2, 1, 5), int)},
            ShapeError,
            "positions must broadcast to the rows (4, 5) of q, got (2, 1, 5)",
        ),
    ],
)
def test_a_rotation_that_is_none_is_refused_by_its_field(rotation, error, message):
    given = {"positions": np.arange(5), **rotation}
    with pytest.raises(error, match=re.escape(f"attention: rotation.{message}")):
        attention(Q, K, V, rotation=Rotation(**given))


@pytest.mark.parametrize(
    ("angles", "error", "message"),
    [
        ({"sin": SIN[:, :1]}, ShapeError, "sin must be (5, 2) as rotation.cos is, got (5, 1)"),
        ({"sin": SIN * np.nan}, ValueError, "sin must be finite"),
        (
            {"cos": COS[:4], "sin": SIN[:4]},
            ShapeError,
            "cos must broadcast to the rows (4, 5) of q, got (4, w/2)",
        ),
        (
            {"cos": np.ones((5, 4)), "sin": np.ones((5, 4))},
            ShapeError,
            "cos must be (..., w/2) with w from 2 to d = 6 of q, got (5, 4)",
        ),
        ({"cos": COS[:, :0], "sin": SIN[:, :0]}, ShapeError, "cos must be (..., w/2) with w from"),
        ({"cos": np.array(1.0), "sin": np.array(0.0)}, ShapeError, "cos must be (..., w/2)"),
        ({"width": 6}, ShapeError, "cos must be (..., w/2) with w = 6 from rotation.width, got"),
    ],
)
def test_cos_and_sin_that_do_not_fit_are_refused(angles, error, message):
    with pytest.raises(error, match=re.escape(f"attention: rotation.{message}")):
        attention(Q, K, V, rotation=Rotation(**{"cos": COS, "sin": SIN, **angles}))


def test_the_kernels_own_cos_and_sin_are_as_good_as_positions():
    own = attention(Q, K, V, do=DO, rotation=Rotation(cos=COS, sin=SIN, width=4)).reference()
    small = np.arange(5, dtype=np.uint8)
    there = attention(Q, K, V, do=DO, rotation=Rotation(small, width=4)).reference()
    assert_close(own["dk"], there["dk"], "identical", "dk")


def test_positions_of_a_narrow_dtype_do_not_wrap_in_the_mistake_of_one_ahead():
    last = Rotation(np.arange(251, 256, dtype=np.uint8)).static(Q, K)["positions"]
    assert (last + 1)[-1] == 256


def test_positions_alone_are_no_rotation():
    with pytest.raises(TypeError, match=r"attention: rotation must be a Rotation, got a.* ndarray"):
        attention(Q, K, V, rotation=np.arange(5))


def test_a_rotation_needs_positions_or_angles():
    with pytest.raises(ValueError, match="positions, or both cos and sin"):
        attention(Q, K, V, rotation=Rotation())
