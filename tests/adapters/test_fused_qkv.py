"""What is special to LoRA on fused projections: which rows belong to which part."""

import numpy as np
import pytest

from lora_ref.adapters import FanInFanOut, FusedLoRA, LoRA
from lora_ref.adapters.fused_qkv import block_rows, blocks, interleaved_rows
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import ADAPTER_CHECKS
from lora_ref.testing.examples import Case
from lora_ref.testing.tolerance import assert_close

HEADS, KV_HEADS, HEAD_DIM, N = 6, 2, 4, 11  # heads · head_dim = 24, which is not n


def drawn(rng, layout, ranks=(3, 2, 5)):
    """Parts with LoRA at these ranks and different scales, and W."""
    sizes = [sum(map(len, runs)) for runs in layout]
    parts = [
        rank and LoRA(rng.standard_normal((rank, N)), rng.standard_normal((size, rank)), 5 / 3 + i)
        for i, (rank, size) in enumerate(zip(ranks, sizes, strict=True))
    ]
    return FusedLoRA(tuple(parts), layout), rng.standard_normal((sum(sizes), N))


def rows_of(runs):
    return [row for run in runs for row in run]


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_interleaved_rows_are_a_reshape_to_groups(kv_heads):
    per_group = HEADS // kv_heads
    count = (HEADS + 2 * kv_heads) * HEAD_DIM
    index = np.arange(count).reshape(kv_heads, per_group + 2, HEAD_DIM)
    q, k, v = interleaved_rows(HEADS, kv_heads, HEAD_DIM)
    assert rows_of(q) == index[:, :-2].ravel().tolist()
    assert rows_of(k) == index[:, -2].ravel().tolist()
    assert rows_of(v) == index[:, -1].ravel().tolist()


def test_block_rows_are_all_q_then_all_k_then_all_v():
    q, k, v = block_rows(HEADS, KV_HEADS, HEAD_DIM)
    assert [rows_of(part) for part in (q, k, v)] == [
        [*range(24)],
        [*range(24, 32)],
        [*range(32, 40)],
    ]


@pytest.mark.parametrize("rows", [block_rows, interleaved_rows])
def test_each_part_gets_what_its_own_lora_gives(rows, rng):
    layout = rows(HEADS, KV_HEADS, HEAD_DIM)
    fused, W = drawn(rng, layout)
    x = rng.standard_normal((2, 5, N))
    y = fused.apply(x, W)[0]
    for part, runs in zip(fused.parts, layout, strict=True):
        own = rows_of(runs)
        assert_close(y[..., own], part.apply(x, W[own])[0], "routes", "part")


@pytest.mark.parametrize("rows", [block_rows, interleaved_rows])
def test_a_part_without_lora_keeps_its_rows_bit_for_bit(rows, rng):
    layout = rows(HEADS, KV_HEADS, HEAD_DIM)
    fused, W = drawn(rng, layout, ranks=(3, None, 5))
    own = rows_of(layout[1])
    W[own[0], 0] = -0.0
    x = rng.standard_normal((5, N))
    assert fused.merge(W)[own].tobytes() == W[own].tobytes()
    assert np.array_equal(fused.apply(x, W)[0][:, own], (x @ W.T)[:, own])
    assert fused.apply(x, W)[1](rng.standard_normal((5, 40)))[1].parts[1] is None


def test_one_lora_over_the_fused_weight_moves_every_part(rng):
    fused, W = drawn(rng, block_rows(HEADS, KV_HEADS, HEAD_DIM), ranks=(3, None, 5))
    whole = LoRA(fused.parts[0].A, rng.standard_normal((40, 3)), 5 / 3)
    assert np.all(np.any(whole.merge(W) != W, axis=1))


def test_gate_and_up_are_two_blocks(rng):
    fused, W = drawn(rng, blocks(9, 9), ranks=(3, 2))
    gate, up = fused.parts
    expected = np.concatenate([gate.merge(W[:9]), up.merge(W[9:])])
    assert_close(fused.merge(W), expected, "identical", "[gate; up]")


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda f: f.__name__)
def test_gpt2s_fused_projection_is_a_composition_that_passes(check, rng):
    def make(rng):
        case = adapter_example(FusedLoRA, rng)
        x, W = case.args
        return Case(FanInFanOut(case.target), (x, W.T.copy()))

    check(make, rng)


def test_training_starts_at_the_base_model(rng):
    layout = interleaved_rows(HEADS, KV_HEADS, HEAD_DIM)
    W = rng.standard_normal((40, N))
    fused = FusedLoRA.init(W, (3, None, 2), 5, layout, rng)
    assert np.array_equal(fused.merge(W), W)
    assert [part and part.A.shape for part in fused.parts] == [(3, N), None, (2, N)]


@pytest.mark.parametrize(
    "layout", [blocks(3), ((range(2),), (range(3, 4),)), ((range(0, 4, 2),), (range(1, 4, 2),))]
)
def test_a_layout_that_is_none_is_refused(layout):
    with pytest.raises(ValueError, match="FusedLoRA: layout must take every row once"):
        FusedLoRA((None, None), layout)


def test_a_part_of_another_size_is_named():
    lora = LoRA(np.ones((2, 5)), np.ones((6, 2)), 1.0)
    with pytest.raises(ShapeError, match=r"parts\[1\].B .* m = 4 from layout, got \(6, 2\)"):
        FusedLoRA((None, lora), blocks(3, 4))


def test_a_weight_of_another_size_is_named(rng):
    fused, W = drawn(rng, blocks(9, 9), ranks=(3, None))
    with pytest.raises(ShapeError, match=r"with m = 18 from layout, got \(17, 11\)"):
        fused.merge(W[1:])
    with pytest.raises(ShapeError, match=r"parts\[0\].A .* n = 10 from W, got \(3, 11\)"):
        fused.merge(W[:, 1:])


def test_heads_that_do_not_share_evenly_are_refused():
    with pytest.raises(ValueError, match="block_rows: heads must be a multiple of kv_heads"):
        block_rows(heads=4, kv_heads=3, head_dim=2)


@pytest.mark.peers
@pytest.mark.parametrize(("kv_heads", "new"), [(2, True), (6, False)])
def test_interleaved_rows_are_falcons(kv_heads, new, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    falcon = pytest.importorskip(
        "transformers.models.falcon.modeling_falcon", reason="transformers is in the [peers] extra"
    )
    config = falcon.FalconConfig(
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_kv_heads=kv_heads,
        new_decoder_architecture=new,
        multi_query=False,
    )
    attention = falcon.FalconAttention(config, layer_idx=0)
    rows = torch.arange(attention.query_key_value.out_features)
    found = [t[0, 0].reshape(-1, HEAD_DIM) for t in attention._split_heads(rows[None, None])]
    shared = HEADS // kv_heads
    found[1:] = [t[::shared] for t in found[1:]]  # Falcon repeats a key for each of its queries
    layout = interleaved_rows(HEADS, kv_heads, HEAD_DIM)
    assert [rows_of(part) for part in layout] == [t.ravel().tolist() for t in found]


@pytest.mark.peers
def test_blocks_of_one_size_are_loralibs_merged_linear(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    loralib = pytest.importorskip("loralib", reason="loralib is in no extra")
    enabled = [True, False, True]
    theirs = loralib.MergedLinear(11, 21, r=3, lora_alpha=5, enable_lora=enabled, bias=False)
    theirs = theirs.double()
    torch.nn.init.normal_(theirs.lora_B)
    A, B = theirs.lora_A.detach().numpy(), theirs.lora_B.detach().numpy()
    parts = (LoRA(A[:3], B[:7], 5 / 3), None, LoRA(A[3:], B[7:], 5 / 3))
    x = torch.tensor(rng.standard_normal((2, 4, 11)))
    mine = FusedLoRA(parts, blocks(7, 7, 7)).apply(x.numpy(), theirs.weight.detach().numpy())[0]
    assert_close(mine, theirs(x), "golden", "y")
