"""Plans against transformers' models, PEFT's adapters and PyTorch's own count of FLOPs."""

import warnings

import pytest
from model_configs import PARAMETERS, PUBLISHED, SMALL, SMALL_PARAMETERS, written

from lora_ref.checkpoint.errors import CheckpointError
from lora_ref.plan import (
    ALL_LINEAR,
    Adaptive,
    LowRank,
    WeightDecomposed,
    count_flops,
    plan,
    read_model,
)

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
transformers = pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")

pytestmark = pytest.mark.peers
CAUSAL = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


def built(fields, device):
    """transformers' model of a config: with an output layer for decoders, bare for encoders."""
    rest = {k: v for k, v in fields.items() if k != "model_type"}
    config = transformers.AutoConfig.for_model(fields["model_type"], **rest)
    causal = fields["model_type"] in CAUSAL
    make = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    with torch.device(device):
        return make.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_the_parameters_that_transformers_builds(tmp_path, name):
    fields = {"model_type": name, **PUBLISHED[name]}
    model = built(fields, "meta")
    assert model.num_parameters() == PARAMETERS[name]
    assert read_model(written(tmp_path, fields)).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
def test_every_size_of_a_config_counts_as_in_transformers(tmp_path, name):
    model = built(SMALL[name], "meta")
    ours = read_model(written(tmp_path, SMALL[name]))
    assert ours.parameters == model.num_parameters() == SMALL_PARAMETERS[name]
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    theirs = sum(m.weight.numel() for m in model.modules() if isinstance(m, kinds))
    assert sum(x.count * x.m * x.n for x in ours.linears) == theirs


@pytest.mark.parametrize(
    ("name", "change", "refused"),
    [
        ("gpt2", {"n_head": 5}, True),
        ("bert", {"num_attention_heads": 5}, True),
        ("roberta", {"num_attention_heads": 5}, True),
        ("xlm-roberta", {"num_attention_heads": 5}, True),
        ("distilbert", {"n_heads": 5}, True),
        ("llama", {"hidden_size": 26}, True),
        ("llama, tied with biases", {"hidden_size": 26}, True),
        ("llama", {"num_key_value_heads": 3}, True),
        ("mistral", {"num_key_value_heads": 8}, True),
        ("qwen2", {"num_key_value_heads": 3}, True),
        ("qwen3", {"num_key_value_heads": 3}, True),
        ("mistral", {"hidden_size": 26, "head_dim": None}, False),
        ("qwen2", {"hidden_size": 26}, False),
        ("qwen3", {"hidden_size": 26}, False),
    ],
)
def test_heads_are_refused_where_transformers_cannot_run_them(tmp_path, name, change, refused):
    fields = {**SMALL[name], **change}
    ids = torch.zeros((1, 4), dtype=torch.int64)
    if refused:
        with pytest.raises(Exception, match=r"multiple|divisible|divide|must match the size"):
            built(fields, "cpu")(ids)
        with pytest.raises(CheckpointError, match="must be a multiple of"):
            read_model(written(tmp_path, fields))
        return
    model = built(fields, "cpu")
    model(ids)
    assert read_model(written(tmp_path, fields)).parameters == model.num_parameters()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("method", ["lora", "dora", "adalora"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_peft_trains_as_many_parameters(tmp_path, name, method, everywhere):
    ours = read_model(written(tmp_path, SMALL[name]))
    model = built(SMALL[name], "cpu")
    targets = ALL_LINEAR if everywhere else list(ours.targets)
    linears = ours.targeted([ALL_LINEAR] if everywhere else ours.targets)
    if everywhere and not hasattr(model, "lm_head"):
        # PEFT leaves out the output layer, which it knows for models with one only.
        targets = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    flip = {"fan_in_fan_out": "gpt2" in name}
    config = {
        "lora": lambda: peft.LoraConfig(r=3, target_modules=targets, **flip),
        "dora": lambda: peft.LoraConfig(r=3, use_dora=True, target_modules=targets, **flip),
        "adalora": lambda: peft.AdaLoraConfig(
            init_r=5, target_r=3, total_step=10, target_modules=targets, **flip
        ),
    }[method]()
    mine = {"lora": LowRank(3), "dora": WeightDecomposed(3), "adalora": Adaptive(3, 5)}[method]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained, _ = peft.get_peft_model(model, config).get_nb_trainable_parameters()
    assert sum(t.count * t.size for t in mine.trained(linears)) == trained


@pytest.mark.parametrize("name", [x for x in PUBLISHED if x != "distilbert"])
def test_the_default_targets_are_those_of_peft(tmp_path, name):
    theirs = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    ours = read_model(written(tmp_path, {"model_type": name, **PUBLISHED[name]}))
    assert list(ours.targets) == theirs[name]


def flops_of(run):
    """FLOPs of the products that PyTorch does in `run`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


@pytest.mark.parametrize("name", ["gpt2", "llama, tied with biases", "mistral", "qwen2"])
@pytest.mark.parametrize("adapted", [True, False])
def test_pytorch_counts_the_same_flops_in_a_step_of_a_peft_model(tmp_path, name, adapted):
    sequences, tokens, rank = 2, 7, 3
    ours = read_model(written(tmp_path, SMALL[name]))
    model = built(SMALL[name], "cpu")
    if adapted:
        config = peft.LoraConfig(r=rank, target_modules=list(ours.targets))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(model, config)
    model.enable_input_require_grads()
    ids = torch.zeros((sequences, tokens), dtype=torch.int64)
    forward, output = flops_of(lambda: model(ids, use_cache=False).logits.sum())
    backward, _ = flops_of(output.backward)
    linears = ours.targeted(ours.targets)
    expected = count_flops(ours, linears, LowRank(rank), sequences, tokens)
    if adapted:
        assert (forward, backward) == (expected.factored_forward, expected.factored_backward)
    else:
        assert (forward, backward) == (expected.merged_forward, expected.full_backward)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_torch_keeps_as_many_bytes_of_states_and_gradients(tmp_path, name):
    ours = read_model(written(tmp_path, SMALL[name]))
    model = built(SMALL[name], "cpu").to(torch.bfloat16)
    config = peft.LoraConfig(r=3, target_modules=list(ours.targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(torch.zeros((1, 4), dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    mine = plan(ours, LowRank(3)).memory
    states = [s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
    assert mine.optimizer == sum(t.nbytes for t in states)
    assert mine.gradients == sum(p.grad.nbytes for p in trained)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert (mine.base, mine.trained) == (frozen, sum(p.nbytes for p in trained))
