"""What is special to the layers made of layers: where adapters, heads and gradients meet."""

from functools import partial

import numpy as np
import pytest

from lora_ref.layers import (
    QKVO,
    GateUpDown,
    UpDown,
    affine,
    attention,
    block,
    causal_mask,
    chain,
    cross_entropy,
    fixed,
    gated_mlp,
    gelu,
    linear,
    mlp,
    multi_head_attention,
    recompute,
    relu,
    residual,
    rms_norm,
    self_attention,
    silu,
)
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.layer_examples import LAYER_EXAMPLES, lora
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import tree_map


@pytest.fixture
def W(rng):
    """Three heads of width 4 on a model of width 11."""
    shapes = {"q": (12, 11), "k": (12, 11), "v": (12, 11), "o": (11, 12)}
    return QKVO(**{name: rng.standard_normal(shape) for name, shape in shapes.items()})


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, 7, 11))


def test_one_head_is_plain_attention_between_projections(W, x):
    y, _ = self_attention(x, QKVO(), weights=W, heads=1)
    o, _ = attention(x @ W.q.T, x @ W.k.T, x @ W.v.T)
    assert_close(y, o @ W.o.T, "libraries", "one head")


@pytest.mark.parametrize("name", ["q", "k", "v", "o"])
def test_an_adapter_acts_as_its_merged_weight(W, x, rng, name):
    adapter = lora(getattr(W, name), 2, rng)
    merged = QKVO(**{**vars(W), name: adapter.merge(getattr(W, name))})
    y, backward = self_attention(x, QKVO(**{name: adapter}), weights=W, heads=3)
    y_merged, merged_backward = self_attention(x, QKVO(), weights=merged, heads=3)
    dy = rng.standard_normal(y.shape)
    assert_close(y, y_merged, "routes", "y")
    assert_close(backward(dy)[0], merged_backward(dy)[0], "routes", "dx")


def test_only_adapted_projections_have_gradients(W, x, rng):
    y, backward = self_attention(x, QKVO(k=lora(W.k, 2, rng)), weights=W, heads=3)
    dadapters = backward(y)[1]
    assert [dadapters.q, dadapters.v, dadapters.o] == [None] * 3
    assert dadapters.k.A.shape == (2, 11)


def test_biases_are_added_to_their_projections(W, x, rng):
    b = rng.standard_normal((3, 12))
    bo = rng.standard_normal(11)
    y, _ = self_attention(x, QKVO(), weights=W, heads=1, biases=QKVO(*b, bo))
    q, k, v = (affine(x, w, b_)[0] for w, b_ in zip((W.q, W.k, W.v), b, strict=True))
    assert_close(y, affine(attention(q, k, v)[0], W.o, bo)[0], "libraries", "biases")


def test_self_attention_is_cross_attention_with_itself(W, x):
    y, backward = self_attention(x, QKVO(), weights=W, heads=3)
    expected, cross_backward = multi_head_attention(x, x, QKVO(), weights=W, heads=3)
    dx, dmemory, _ = cross_backward(y)
    assert_close(y, expected, "identical", "y")
    assert_close(backward(y)[0], dx + dmemory, "identical", "dx")


def test_permuting_the_memory_changes_nothing(W, x, rng):
    memory, order = rng.standard_normal((2, 5, 11)), rng.permutation(5)
    ours = multi_head_attention(x, memory, QKVO(), weights=W, heads=3)[0]
    permuted = multi_head_attention(x, memory[:, order], QKVO(), weights=W, heads=3)[0]
    assert_close(permuted, ours, "libraries", "permuted memory")


@pytest.mark.parametrize(
    ("heads", "kv_heads", "message"), [(5, 5, "width 12, got heads = 5"), (3, 8, "heads = 8")]
)
def test_heads_that_do_not_divide_are_refused(W, x, heads, kv_heads, message):
    with pytest.raises(ShapeError, match=message):
        self_attention(x, QKVO(), weights=W, heads=heads, kv_heads=kv_heads)


def test_an_mlp_is_its_formula(x, rng):
    W = UpDown(rng.standard_normal((13, 11)), rng.standard_normal((11, 13)))
    y, _ = mlp(x, UpDown(), weights=W, activation=gelu)
    assert_close(y, gelu(x @ W.up.T)[0] @ W.down.T, "libraries", "mlp")


def test_the_gate_is_the_path_with_the_activation(x, rng):
    up, gate = rng.standard_normal((2, 13, 11))
    W = GateUpDown(gate=gate, up=up, down=rng.standard_normal((11, 13)))
    y, _ = gated_mlp(x, GateUpDown(), weights=W)
    assert_close(y, (silu(x @ gate.T)[0] * (x @ up.T)) @ W.down.T, "libraries", "SwiGLU")


def test_a_chain_applies_its_stages_in_order(x, rng):
    U, V = rng.standard_normal((13, 11)), rng.standard_normal((5, 13))
    y, backward = chain(linear, fixed(relu), linear)(x, (U, None, V))
    u, u_backward = linear(x, U)
    a, a_backward = relu(u)
    expected, v_backward = linear(a, V)
    da, dV = v_backward(y)
    dx, dU = u_backward(a_backward(da))
    assert_close(y, expected, "identical", "y")
    assert_trees_close(backward(y), (dx, (dU, None, dV)), "identical", "gradients")


def test_a_chain_of_nothing_is_the_identity(x):
    y, backward = chain()(x, ())
    assert_trees_close((y, backward(y)), (x, (x, ())), "identical", "identity")


def test_a_chain_wants_parameters_for_each_stage(x):
    with pytest.raises(ValueError, match="zip"):
        chain(rms_norm, rms_norm)(x, (np.ones(11),))


def test_a_residual_adds_its_argument(x, rng):
    g = rng.standard_normal(11)
    y, backward = residual(rms_norm)(x, g)
    inner, inner_backward = rms_norm(x, g)
    dx, dg = inner_backward(y)
    assert_trees_close((y, backward(y)), (x + inner, (y + dx, dg)), "identical", "residual")


def test_recomputing_gives_the_same_bits_and_saves_only_the_arguments(rng):
    case = LAYER_EXAMPLES["block"](rng)
    y, backward = case.target(*case.args)
    y_again, again = recompute(case.target)(*case.args)
    assert_trees_close((y_again, again(y)), (y, backward(y)), "identical", "recomputed")
    saved = {cell.cell_contents for cell in again.__closure__ if callable(cell.cell_contents)}
    assert saved == {case.target}


def test_a_causal_block_does_not_look_ahead(rng):
    case = LAYER_EXAMPLES["block"](rng)
    x, parameters = case.args
    later = x.copy()
    later[:, 4:] += 1
    y, y_later = (case.target(t, parameters)[0] for t in (x, later))
    assert_close(y_later[:, :4], y[:, :4], "libraries", "the first four tokens")
    assert not np.allclose(y_later[:, 4:], y[:, 4:])


def test_gradient_steps_through_a_block_reduce_the_loss(rng):
    case = LAYER_EXAMPLES["block"](rng)
    x, parameters = case.args
    targets = rng.integers(0, 11, size=x.shape[:-1])
    losses = []
    for _ in range(5):
        y, block_backward = case.target(x, parameters)
        loss, loss_backward = cross_entropy(y, targets)
        _, gradient = block_backward(loss_backward(1.0))
        parameters = tree_map(lambda p, d: p - 1e-3 * d, parameters, gradient)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.peers
def test_multi_head_attention_is_pytorchs_module(W, x, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    square = QKVO(*(rng.standard_normal((12, 12)) for _ in range(4)))
    x12, dy = rng.standard_normal((2, 2, 7, 12))
    module = torch.nn.MultiheadAttention(12, 3, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.in_proj_weight.copy_(
            torch.tensor(np.concatenate([square.q, square.k, square.v], axis=0))
        )
        module.out_proj.weight.copy_(torch.tensor(square.o))
    mask = causal_mask(7, 7, x12)
    t = torch.tensor(x12, requires_grad=True)
    y_torch, _ = module(t, t, t, attn_mask=torch.tensor(~mask))  # there True excludes
    y_torch.backward(torch.tensor(dy))
    y, backward = self_attention(x12, QKVO(), weights=square, heads=3, mask=mask)
    assert_close(y, y_torch, "golden", "y")
    assert_close(backward(dy)[0], t.grad, "golden", "dx")


@pytest.mark.peers
def test_a_block_is_one_layer_of_llama_without_positions(rng):
    """Values and gradients of x, by the same composition in PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    functional = torch.nn.functional
    case = LAYER_EXAMPLES["block"](rng)
    x, p = case.args
    W = case.target.static["weights"]
    Wq, Wu = p.attention.q.merge(W.attention.q), p.mlp.up.merge(W.mlp.up)
    names = (x, p.norm1, p.norm2, Wq, W.attention.k, W.attention.v, W.attention.o)
    t, g1, g2, wq, wk, wv, wo = map(torch.tensor, names)
    gate, up, down = map(torch.tensor, (W.mlp.gate, Wu, W.mlp.down))
    t.requires_grad_()
    split = lambda u, heads: u.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    h = functional.rms_norm(t, (11,), g1, eps=1e-6)
    o = functional.scaled_dot_product_attention(
        split(h @ wq.T, 4), split(h @ wk.T, 2), split(h @ wv.T, 2), is_causal=True, enable_gqa=True
    )
    a = t + o.transpose(1, 2).flatten(-2) @ wo.T
    h = functional.rms_norm(a, (11,), g2, eps=1e-6)
    y_torch = a + (functional.silu(h @ gate.T) * (h @ up.T)) @ down.T
    y, backward = partial(block, **case.target.static)(x, p)
    dy = rng.standard_normal(y.shape)
    y_torch.backward(torch.tensor(dy))
    assert_close(y, y_torch, "golden", "y")
    assert_close(backward(dy)[0], t.grad, "golden", "dx")
