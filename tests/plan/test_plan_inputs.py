"""Targets, configs, wrong arguments, and the flowchart."""

from dataclasses import replace

import pytest
from model_configs import PUBLISHED, SMALL, SMALL_PARAMETERS, written

from lora_ref.checkpoint.errors import CheckpointError
from lora_ref.plan import (
    ALL_LINEAR,
    DTYPES,
    Adaptive,
    DoubleLowRank,
    Generated,
    Linear,
    LowRank,
    Model,
    Needs,
    Quantized,
    WeightDecomposed,
    choose,
    gpt3,
    memory_answer,
    plan,
    read_model,
)

Q, WIDE = Linear("attn.q", 11, 7, count=3), Linear("mlp.up", 13, 7, count=2)
HEAD = Linear("lm_head", 17, 7, head=True)
TOY = Model("small", (Q, WIDE, HEAD), others=19, attention=22, targets=("q",))


def test_targets_are_whole_names_or_their_ends_and_all_linear_leaves_the_head():
    assert TOY.targeted(["q"]) == TOY.targeted(["attn.q"]) == (Q,)
    assert TOY.targeted([ALL_LINEAR]) == (Q, WIDE)
    assert TOY.targeted(["up", "lm_head"]) == (WIDE, HEAD)
    for wrong, got in (["p"], "'p'"), (["tn.q"], "'tn.q'"), (["q", ""], "''"), ([], "none"):
        with pytest.raises(ValueError, match=rf"name some of attn\.q, mlp\.up, .* got {got}$"):
            TOY.targeted(wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_embd": 0}, "n_embd must be an integer of at least 1, got 0"),
        ({"n_embd": "768"}, "n_embd must be an integer"),
        ({"n_layer": True}, "n_layer must be an integer"),
        ({"n_layer": None}, "n_layer must be an integer of at least 1, got None"),
        ({"vocab_size": 2**40}, "vocab_size must be"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, got 1"),
        ({"dtype": 16}, "dtype must be the name of a dtype, got 16"),
        ({"torch_dtype": ["float32"]}, "torch_dtype must be the name of a dtype, got"),
        ({"model_type": "mixtral"}, "model_type must be one of gpt2, bert"),
        ({"model_type": ["gpt2"]}, "model_type must be one of"),
    ],
)
def test_a_config_that_is_none_is_refused_with_its_field(tmp_path, change, said):
    path = written(tmp_path, {"model_type": "gpt2", **PUBLISHED["gpt2"], **change})
    with pytest.raises(CheckpointError, match=said) as refused:
        read_model(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", SMALL)
def test_every_family_has_its_parameters_and_its_attention(tmp_path, name):
    """tests/plan/test_plan_peers.py has the same numbers from transformers."""
    model = read_model(written(tmp_path, SMALL[name]))
    width = 40 if "head_dim" in SMALL[name] else 24
    assert (model.parameters, model.attention) == (SMALL_PARAMETERS[name], 3 * width)
    decoder = any(x in name for x in ("gpt2", "llama", "mistral", "qwen"))
    assert [x.name for x in model.linears if x.head] == ["lm_head"] * decoder


@pytest.mark.parametrize(
    ("written_as", "asked", "width"),
    [("float32", None, 4), (None, None, 2), ("float32", "float64", 8)],
)
def test_a_plan_takes_the_dtype_of_the_config_unless_another_is_asked_for(
    tmp_path, written_as, asked, width
):
    model = read_model(written(tmp_path, {**SMALL["llama"], "dtype": written_as}))
    assert plan(model, LowRank(3), dtype=asked).memory.base == width * model.parameters


def test_gpt3_has_a_tied_head_and_attention_in_each_layer():
    model = gpt3()
    assert [x.name for x in model.linears if x.head and x.tied] == ["lm_head"]
    assert model.attention == 96 * 12288


def test_heads_of_no_width_are_refused(tmp_path):
    fields = {**SMALL["mistral"], "head_dim": None, "num_attention_heads": 26}
    with pytest.raises(CheckpointError, match="head_dim must be an integer of at least 1, got 0"):
        read_model(written(tmp_path, fields))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("gpt2", {"n_head": 5}, "n_embd must be a multiple of n_head, 5, got 24"),
        ("bert", {"num_attention_heads": 5}, "hidden_size must be a multiple of .*, 5, got 24"),
        ("roberta", {"num_attention_heads": "4"}, "num_attention_heads must be an integer"),
        ("distilbert", {"n_heads": 5}, "dim must be a multiple of n_heads, 5, got 24"),
        ("llama", {"hidden_size": 26}, "hidden_size must be a multiple of .*_heads, 4, got 26"),
        ("llama, tied with biases", {"hidden_size": 26}, "hidden_size must be a multiple"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads must be .*_heads, 3, got 4"),
        ("mistral", {"num_key_value_heads": 8}, "num_attention_heads must be a multiple of"),
        ("qwen3", {"num_key_value_heads": 3}, "num_attention_heads must be a multiple of"),
    ],
)
def test_heads_that_do_not_divide_are_refused(tmp_path, name, change, said):
    """tests/plan/test_plan_peers.py asks transformers."""
    with pytest.raises(CheckpointError, match=said):
        read_model(written(tmp_path, {**SMALL[name], **change}))


def test_a_width_that_heads_do_not_divide_is_rounded_down_where_transformers_does(tmp_path):
    fields = {**SMALL["mistral"], "head_dim": None, "hidden_size": 26}
    assert read_model(written(tmp_path, fields)).attention == 3 * 24


def test_heads_may_be_left_out_where_nothing_depends_on_them(tmp_path):
    fields = {k: v for k, v in SMALL["gpt2"].items() if k != "n_head"}
    assert read_model(written(tmp_path, fields)).parameters == SMALL_PARAMETERS["gpt2"]


def test_weights_that_have_no_such_rank_are_told(tmp_path):
    both = replace(TOY, targets=("q", "up"))
    assert plan(both, LowRank(7)).wide == ()
    assert plan(both, LowRank(8)).wide == (Q, WIDE)
    assert plan(TOY, DoubleLowRank(4)).wide == plan(TOY, Adaptive(1, 8)).wide == (Q,)


def test_a_model_of_weights_alone_has_nothing_else():
    bare = Model("bare", (Q,))
    assert (bare.parameters, bare.forward_flops(5)) == (3 * 77, 2 * 3 * 77)


def test_dtypes_have_their_widths():
    assert DTYPES == {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def test_nothing_is_needed_that_is_not_said():
    assert choose(Needs()).method == "lora"
    assert choose(Needs(dynamic=True)).method == "adalora"


def test_a_config_may_have_sizes_of_one(tmp_path):
    ones = dict.fromkeys(("n_embd", "n_layer", "vocab_size", "n_positions", "n_head"), 1)
    model = read_model(written(tmp_path, {"model_type": "gpt2", **ones}))
    assert model.parameters == 3 + 1 + 4 + 4 + 1 + 1 + (9 + 4) + 2


CHART = {
    # extreme, tasks or dynamic, compute, expressive
    (False, False, False, False): "lora",
    (False, False, False, True): "dora",
    (False, True, False, False): "adalora",
    (False, True, True, False): "hyperlora",
    (True, True, True, True): "qlora",
    (True, False, False, False): "qlora",
    (False, False, True, True): "dora",
}


@pytest.mark.parametrize("answers", CHART)
@pytest.mark.parametrize("which", ["multi_task", "dynamic"])
def test_the_chart_as_the_text_has_it(answers, which):
    extreme, asked, compute, expressive = answers
    needs = Needs(
        memory_extreme=extreme, much_compute=compute, expressive=expressive, **{which: asked}
    )
    choice = choose(needs)
    assert choice.method == CHART[answers]
    assert choice.reasons
    assert bool(choice.caveat) == (choice.method != "lora")
    if asked and not extreme:
        wanted = {"multi_task": "several tasks wanted", "dynamic": "dynamic adaptation wanted"}
        assert choice.reasons[1] == wanted[which]


def test_memory_is_extremely_short_if_the_states_do_not_fit():
    assert memory_answer(100, 100) == (
        False, "100 bytes of model states with LoRA, 100 available: 0 left for activations",
    )  # fmt: skip
    extreme, why = memory_answer(1001, 1000)
    assert extreme
    assert why.startswith("1,001 bytes")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: LowRank(0), "LowRank: rank must be an integer of at least 1, got 0"),
        (lambda: WeightDecomposed(0), "WeightDecomposed: rank"),
        (lambda: DoubleLowRank(True), "DoubleLowRank: rank must be an integer"),
        (lambda: Adaptive(3, 2), "start must be at least the rank 3, got 2"),
        (lambda: Adaptive(0, 2), "Adaptive: rank"),
        (lambda: Generated(3, 0, 1), "Generated: condition"),
        (lambda: Generated(3, 1, 0), "Generated: embedding"),
        (lambda: Generated(3, 1, 1, 0), "Generated: hidden"),
        (lambda: Linear("q", 0, 1), "Linear: m must be"),
        (lambda: Linear("q", 1, 1.0), "Linear: n must be"),
        (lambda: Linear("q", 1, 1, 0), "Linear: count must be"),
        (lambda: Quantized(0), "Quantized: bits must be"),
        (lambda: Quantized(block=0), "Quantized: block must be"),
        (lambda: plan(TOY, LowRank(1), dtype="int8"), "plan: dtype must be one of float64"),
        (lambda: plan(TOY, LowRank(1), adapter_dtype="x"), "plan: adapter_dtype must be"),
        (lambda: plan(TOY, LowRank(1), optimizer="lion"), "optimizer must be one of sgd"),
        (lambda: plan(TOY, LowRank(1), tokens=0), "count_flops: tokens must be an integer"),
        (lambda: plan(TOY, LowRank(1), sequences=0), "count_flops: sequences must be"),
    ],
)
def test_wrong_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_smallest_sizes_are_sizes():
    Generated(1, 1, 1, 1), Adaptive(1, 1), Quantized(1, 1), Linear("q", 1, 1, 1)
    assert plan(TOY, LowRank(1), sequences=1, tokens=1).trained == 3 * 18
