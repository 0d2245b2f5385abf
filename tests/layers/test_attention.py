"""What is special to attention: its masks, groups of heads, cross-attention, PyTorch's numbers."""

import importlib

import numpy as np
import pytest

from lora_ref.layers import (
    attention,
    causal_mask,
    grouped_query_attention,
    join_heads,
    softmax,
    split_heads,
)
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.tolerance import assert_close


def draw(rng, *shapes):
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.fixture
def qkv(rng):
    """Five queries and seven keys, of width 4, with values of width 3."""
    return draw(rng, (2, 5, 4), (2, 7, 4), (2, 7, 3))


def test_default_scale_is_one_over_the_root_of_the_width(qkv):
    assert_close(attention(*qkv)[0], attention(*qkv, scale=0.5)[0], "identical", "scale 1/√4")
    q, k, v = qkv
    thin = q[..., :1], k[..., :1], v
    assert_close(attention(*thin)[0], attention(*thin, scale=1.0)[0], "identical", "scale 1/√1")


def test_equal_keys_give_the_mean_of_the_values(qkv):
    q, k, v = qkv
    o, _ = attention(q, np.ones_like(k), v)
    assert_close(o, np.broadcast_to(v.mean(axis=1, keepdims=True), o.shape), "libraries", "mean")


@pytest.mark.parametrize("choice", [0, 1])
def test_every_formula_for_D_gives_the_backward_of_softmax(qkv, rng, monkeypatch, choice):
    module = importlib.import_module("lora_ref.layers.attention")
    monkeypatch.setattr(module, "either", lambda xp, *alternatives: alternatives[choice]())
    q, k, v = qkv
    p, softmax_backward = softmax(0.5 * (q @ k.mT))
    do = rng.standard_normal((2, 5, 3))
    dz = softmax_backward(do @ v.mT)
    expected = 0.5 * (dz @ k), 0.5 * (dz.mT @ q), p.mT @ do
    assert_trees_close(attention(q, k, v)[1](do), expected, "routes", "attention by softmax")


def test_the_future_does_not_reach_the_past(rng):
    q, k, v = draw(rng, (5, 4), (5, 4), (5, 3))
    mask = causal_mask(5, 5, q)
    later = [np.concatenate([t[:3], rng.standard_normal((2, t.shape[1]))]) for t in (q, k, v)]
    ours, theirs = attention(q, k, v, mask=mask)[0], attention(*later, mask=mask)[0]
    assert_close(theirs[:3], ours[:3], "libraries", "the first three rows")
    assert not np.allclose(theirs[3:], ours[3:])


def test_a_causal_offset_of_S_minus_T_decodes_with_a_cache(rng):
    q, k, v = draw(rng, (7, 4), (7, 4), (7, 3))
    whole = attention(q, k, v, mask=causal_mask(7, 7, q))[0]
    last = attention(q[5:], k, v, mask=causal_mask(2, 7, q, offset=5))[0]
    assert_close(last, whole[5:], "libraries", "the last two queries")


@pytest.mark.parametrize("T", [1, 3, 5])
def test_a_causal_mask_is_the_lower_triangle_at_the_top_left(T):
    np.testing.assert_array_equal(causal_mask(T, 4, np.ones(1)), np.tri(T, 4, dtype=bool))


@pytest.mark.parametrize("additive", [False, True])
def test_a_query_that_may_attend_to_nothing_gives_zero_and_gets_no_gradient(qkv, additive):
    mask = np.ones((5, 7), dtype=bool)
    mask[2] = False
    mask = np.where(mask, 0.0, -np.inf) if additive else mask
    o, backward = attention(*qkv, mask=mask)
    dq = backward(np.ones_like(o))[0]
    assert np.all(o[:, 2] == 0)
    assert np.all(dq[:, 2] == 0)
    assert np.all(np.isfinite(o))


def test_an_additive_mask_shifts_the_scores(qkv, rng):
    q, k, v = qkv
    bias = rng.standard_normal((5, 7))
    expected = softmax(0.5 * (q @ k.mT) + bias)[0] @ v
    assert_close(attention(q, k, v, mask=bias)[0], expected, "routes", "additive mask")


def test_no_keys_give_zero(rng):
    q, k, v = draw(rng, (5, 4), (0, 4), (0, 3))
    o, backward = attention(q, k, v)
    np.testing.assert_array_equal(o, np.zeros((5, 3)))
    assert [d.shape for d in backward(o)] == [(5, 4), (0, 4), (0, 3)]


def test_masks_must_fit_the_scores(qkv):
    with pytest.raises(
        ShapeError, match=r"attention: mask must broadcast to the scores \(2, 5, 7\)"
    ):
        attention(*qkv, mask=np.ones((7, 5), dtype=bool))


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_grouped_queries_are_attention_with_repeated_heads(rng, kv_heads):
    q, k, v = draw(rng, (2, 6, 5, 4), (2, kv_heads, 7, 4), (2, kv_heads, 7, 3))
    size = 6 // kv_heads
    o, backward = grouped_query_attention(q, k, v)
    repeated = [np.repeat(t, size, axis=1) for t in (k, v)]
    expected, expected_backward = attention(q, *repeated)
    do = rng.standard_normal(o.shape)
    dq, *shared = expected_backward(do)
    dk, dv = (d.reshape(2, kv_heads, size, *d.shape[2:]).sum(axis=2) for d in shared)
    assert_close(o, expected, "libraries", "o")
    assert_trees_close(backward(do), (dq, dk, dv), "routes", "gradients")


def test_grouped_queries_take_every_mask_that_broadcasts(rng):
    q, k, v = draw(rng, (2, 6, 5, 4), (2, 3, 7, 4), (2, 3, 7, 3))
    for shape in [(7,), (5, 1), (6, 1, 7), (1, 5, 7), (2, 1, 1, 7), (2, 6, 5, 7)]:
        mask = rng.random(shape) < 0.7
        o, _ = grouped_query_attention(q, k, v, mask=mask)
        repeated = [np.repeat(t, 2, axis=1) for t in (k, v)]
        assert_close(o, attention(q, *repeated, mask=mask)[0], "libraries", f"mask {shape}")


def test_heads_of_keys_must_divide_heads_of_queries(rng):
    with pytest.raises(ShapeError, match="must divide those of q, H = 6, got K = 4"):
        grouped_query_attention(*draw(rng, (6, 5, 4), (4, 7, 4), (4, 7, 3)))


def test_a_mask_by_head_must_have_the_heads_of_q(rng):
    mask = np.ones((2, 5, 7), dtype=bool)
    with pytest.raises(ShapeError, match=r"mask must broadcast to the scores \(6, 5, 7\)"):
        grouped_query_attention(*draw(rng, (6, 5, 4), (2, 7, 4), (2, 7, 3)), mask=mask)


def test_heads_are_consecutive_columns(rng):
    t = rng.standard_normal((2, 5, 12))
    np.testing.assert_array_equal(split_heads(t, 3)[:, 1], t[..., 4:8])
    np.testing.assert_array_equal(join_heads(split_heads(t, 3)), t)


def test_heads_must_divide_the_width(rng):
    with pytest.raises(ShapeError, match="heads must divide the width 12, got heads = 5"):
        split_heads(rng.standard_normal((2, 5, 12)), 5)


def torch_reference(q, k, v, do, **options):
    """o, dq, dk, dv by PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    q, k, v = (torch.tensor(t, requires_grad=True) for t in (q, k, v))
    options = {n: torch.tensor(o) if isinstance(o, np.ndarray) else o for n, o in options.items()}
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
    return o, torch.autograd.grad(o, (q, k, v), torch.tensor(do))


def masked_row(rng):
    mask = rng.random((5, 7)) < 0.6
    mask[1] = False
    return mask


@pytest.mark.peers
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"scale": 0.3}, {"scale": 0.3}),
        ({"mask": causal_mask(5, 7, np.ones(1))}, {"is_causal": True}),
        ({"mask": np.linspace(-2, 1, 35).reshape(5, 7)},) * 2,
        ({"mask": masked_row(np.random.default_rng(3))},) * 2,
    ],
    ids=["plain", "scale", "causal", "additive", "boolean with an empty row"],
)
def test_values_and_gradients_are_pytorchs(rng, ours, theirs):
    q, k, v, do = draw(rng, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6), (2, 3, 5, 6))
    options = {("attn_mask" if name == "mask" else name): o for name, o in theirs.items()}
    o, gradients = torch_reference(q, k, v, do, **options)
    value, backward = attention(q, k, v, **ours)
    assert_trees_close((value, backward(do)), (o, gradients), "golden", "attention")


@pytest.mark.peers
@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_grouped_queries_are_pytorchs_enable_gqa(rng, kv_heads):
    q, do = draw(rng, (2, 6, 5, 4), (2, 6, 5, 4))
    k, v = draw(rng, (2, kv_heads, 7, 4), (2, kv_heads, 7, 4))
    o, gradients = torch_reference(q, k, v, do, enable_gqa=True)
    value, backward = grouped_query_attention(q, k, v)
    assert_trees_close((value, backward(do)), (o, gradients), "golden", "grouped")
