"""What is trained, bytes and FLOPs: identities that hold for every method and model."""

from dataclasses import replace
from itertools import product

import pytest

from lora_ref.adapters import DoRA, LoRA
from lora_ref.adapters.generators import LinearGenerator, MLPGenerator
from lora_ref.plan import (
    Adaptive,
    DoubleLowRank,
    Generated,
    Linear,
    LowRank,
    Model,
    Optimizer,
    Quantized,
    Tensors,
    WeightDecomposed,
    base_bytes,
    count_flops,
    numbers,
    plan,
)
from lora_ref.trees import leaves

Q, WIDE = Linear("attn.q", 11, 7, count=3), Linear("mlp.up", 13, 7, count=2)
HEAD = Linear("lm_head", 17, 7, head=True)
TIED = replace(HEAD, tied=True)
TOY = Model("small", (Q, WIDE, HEAD), others=19, attention=22, targets=("q",))
METHODS = [
    LowRank(3),
    WeightDecomposed(3),
    DoubleLowRank(3),
    Adaptive(3, 5),
    Generated(3, 4, 5),
    Generated(3, 4, 5, hidden=6),
]


@pytest.mark.parametrize("shape", [(11, 7), (7, 7)])
def test_adapters_of_this_library_have_as_many_numbers(rng, shape):
    W = rng.normal(size=shape)
    linear = [Linear("q", *shape)]
    lora = LoRA.init(W, 3, alpha=5, rng=rng)
    dora = DoRA.init(W, 3, alpha=5, rng=rng)
    for adapter, method in ((lora, LowRank(3)), (dora, WeightDecomposed(3))):
        assert numbers(method.trained(linear)) == sum(t.size for _, t in leaves(adapter))


@pytest.mark.parametrize("hidden", [None, 6])
def test_generators_of_this_library_have_as_many_numbers(rng, hidden):
    sizes = {"condition": 4, "layers": 3, "embedding": 5}
    W = rng.normal(size=(11, 7))
    if hidden is None:
        generator = LinearGenerator.init(W, 3, rng, **sizes)
    else:
        generator = MLPGenerator.init(W, 3, rng, **sizes, width=hidden)
    ours = numbers(Generated(3, 4, 5, hidden).trained([Q]))
    assert ours == sum(t.size for _, t in leaves(generator))


def test_a_generator_is_shared_by_weights_of_one_shape_and_by_no_others():
    method = Generated(3, 4, 5)
    twin = replace(Q, name="attn.k", count=2)
    both = numbers(method.trained([Q, twin]))
    assert both == numbers(method.trained([Q])) + 2 * 5
    assert numbers(method.trained([Q, WIDE])) == sum(
        numbers(method.trained([x])) for x in (Q, WIDE)
    )


def test_two_pairs_cost_what_one_of_twice_the_rank_costs():
    double, wide = plan(TOY, DoubleLowRank(3)), plan(TOY, LowRank(6))
    assert (double.trained, double.flops) == (wide.trained, wide.flops)


def test_adalora_trains_its_first_rank_and_saves_its_last():
    done = plan(TOY, Adaptive(3, 5))
    assert done.trained == 3 * 5 * (11 + 7 + 1)
    assert done.saved == 3 * 3 * (11 + 7 + 1)
    assert done.memory.checkpoint == 4 * done.saved


# Bytes


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_gradients_are_as_many_as_trained_and_adam_keeps_two_of_each(method):
    memory = plan(TOY, method, adapter_dtype="float32").memory
    assert memory.gradients == memory.trained == 4 * plan(TOY, method).trained
    assert memory.optimizer == 2 * memory.trained
    assert memory.training == memory.base + 4 * memory.trained


@pytest.mark.parametrize(
    ("size", "expected"), [(4095, 2 * 4095 * 4), (4096, 2 * (4096 + 64)), (4097, 2 * (4097 + 68))]
)
def test_states_in_8_bits_have_constants_by_256_and_small_tensors_none(size, expected):
    assert Optimizer(2, eight_bit=True).bytes([Tensors("t", (size,), 3)], 2) == 3 * expected


@pytest.mark.parametrize(
    ("double", "m", "n", "expected"),
    [
        (False, 8, 8, 32 + 4),
        (False, 5, 13, 33 + 8),  # 65 numbers: half a byte over, and a second block of one
        (True, 8, 8, 32 + 1 + 4),
        (True, 128, 128, 8192 + 256 + 4),
        (True, 128, 129, 8256 + 258 + 8),
    ],
)
def test_quantized_weights_have_whole_blocks(double, m, n, expected):
    assert Quantized(double=double).bytes(Linear("q", m, n)) == expected


def test_all_but_head_embeddings_norms_and_biases_is_quantized():
    inner = sum(x.count * Quantized().bytes(x) for x in (Q, WIDE))
    assert base_bytes(TOY, 2, Quantized()) == inner + 2 * (17 * 7 + 19)
    tied = replace(TOY, linears=(Q, WIDE, TIED))
    assert base_bytes(tied, 2, Quantized()) == inner + 2 * 19
    assert base_bytes(tied, 2) == 2 * (3 * 77 + 2 * 91 + 19)


def test_full_fine_tuning_keeps_states_for_what_is_no_linear_weight_too():
    done = plan(TOY, LowRank(3), dtype="float16")
    count = 3 * 77 + 2 * 91 + 119 + 19
    assert done.full.base == done.full.gradients == done.full.checkpoint == 2 * count
    assert done.full.optimizer == 2 * 2 * count
    assert done.full.trained == 0
    tied = plan(replace(TOY, linears=(Q, WIDE, TIED)), LowRank(3), dtype="float16")
    assert tied.full.optimizer == 2 * 2 * (count - 119)


# FLOPs: a naive count over the products that the algorithms do


def products(*shapes):
    return sum(2 * a * b * c for a, b, c in shapes)


@pytest.mark.parametrize(("sequences", "tokens", "rank"), [(2, 5, 3), (1, 1, 1), (3, 2, 4)])
def test_flops_are_those_of_the_products(sequences, tokens, rank):
    N, r = sequences * tokens, rank
    weights = [(11, 7)] * 3 + [(13, 7)] * 2 + [(17, 7)]
    adapted = [(11, 7)] * 3
    attention = sequences * 2 * products((tokens, 22, tokens))
    forward = sum(products((N, n, m)) for m, n in weights) + attention
    dense = sum(products((N, m, n)) for m, n in weights)
    thin = sum(products((N, n, r), (N, r, m)) for m, n in adapted)
    formed = sum(products((m, r, n)) for m, n in adapted)
    both = sum(products((r, m, n), (m, n, r)) for m, n in adapted)
    flops = count_flops(TOY, TOY.targeted(("q",)), LowRank(r), sequences, tokens)
    assert flops.merged_forward == forward
    assert flops.factored_forward == forward + thin
    assert flops.factored_backward == dense + 2 * attention + 2 * thin
    assert flops.formed_forward == forward + formed
    dW = sum(products((m, N, n)) for m, n in adapted)
    assert flops.formed_backward == dense + 2 * attention + dW + both
    assert flops.full_backward == 2 * dense + 2 * attention


def test_factored_training_is_cheaper_than_full_up_to_the_stated_rank():
    m, n = 60, 30
    model = Model("one", (Linear("q", m, n),), targets=("q",))
    for r, N in product(range(1, 20), (1, 64)):
        flops = count_flops(model, model.linears, LowRank(r), N, 1)
        mine = flops.factored_forward + flops.factored_backward
        assert (mine < flops.merged_forward + flops.full_backward) == (3 * r * (m + n) < m * n)


def test_what_methods_compute_once_a_step():
    beside = {}
    for method in METHODS:
        flops = count_flops(TOY, (Q,), method, 2, 5)
        thin = 10 * 3 * 2 * method.inner * 18
        forward = flops.factored_forward - flops.merged_forward - thin
        plain = count_flops(TOY, (Q,), LowRank(method.inner), 2, 5)
        backward = flops.factored_backward - plain.factored_backward
        formed = flops.formed_forward - plain.formed_forward
        formed_backward = flops.formed_backward - plain.formed_backward
        beside[str(method)] = forward, backward, formed, formed_backward
    norms, gram = 4 * 77, 2 * 25 * 18
    affine, hidden = 2 * 3 * 18 * 9, 2 * 3 * 18 * 6 + 2 * 6 * 9
    assert [beside[str(method)] for method in METHODS] == [
        (0, 0, 0, 0),
        (3 * (2 * 77 * 3 + norms), 0, 3 * norms, 0),
        (0, 0, 0, 0),
        (3 * gram, 6 * gram, 3 * gram, 6 * gram),
        (3 * affine, 6 * affine, 3 * affine, 6 * affine),
        (3 * hidden, 6 * hidden, 3 * hidden, 6 * hidden),
    ]
