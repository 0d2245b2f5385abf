"""PEFT 0.21.2 itself: its initialisations, and where they depart from the mathematics."""

import copy

import numpy as np
import pytest
from init_checks import check_case, expect_factors

from lora_ref.adapters import LoRA
from lora_ref.init import (
    components,
    components_of,
    corda_instruction,
    damped,
    eva,
    lora_ga,
    moments,
    olora,
    pissa,
    redistributed,
    sample_correlation,
    stable_gain,
)
from lora_ref.testing.tolerance import assert_close, relative_error

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
from peft_layers import CASES, adapted, inside, layer, lora_of, numpy_of, peft_init_cases  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def run(name, seed=7):
    arrays, scaling = peft_init_cases.run_init(CASES[name], seed)
    return vars(CASES[name]) | {"scaling": scaling}, {k: numpy_of(t) for k, t in arrays.items()}


@pytest.mark.parametrize("name", CASES)
def test_peft_in_double_precision_gives_our_factors(name):
    with peft_init_cases.in_double():
        fields, arrays = run(name)
    check_case(fields, arrays, "golden")


@pytest.mark.parametrize("name", CASES)
def test_peft_as_it_is_gives_our_factors_in_float32(name):
    check_case(*run(name), "float32")


@pytest.mark.parametrize("start", [pissa, olora], ids=["pissa", "olora"])
def test_started_alike_the_output_and_every_gradient_are_pefts(start, rng):
    with peft_init_cases.in_double():
        net = layer(rng)
        theirs = inside(adapted(start.__name__, net, rng))
        x = torch.tensor(rng.standard_normal((5, 7)), requires_grad=True)
        y = theirs(x)
        dy = torch.tensor(rng.standard_normal((5, 11)))
        y.backward(dy)
    W = numpy_of(net["layer"].weight)
    lora, W_res = start(W, 3, 5 / 3)
    found, backward = lora.apply(numpy_of(x), W_res)
    dx, d = backward(dy.numpy())
    assert_close(found, numpy_of(y), "golden", "y")
    assert_close(found, numpy_of(x) @ W.T, "golden", "y of the weight before")
    assert_close(dx, numpy_of(x.grad), "golden", "dx")
    dA, dB = (numpy_of(t["default"].weight.grad) for t in (theirs.lora_A, theirs.lora_B))
    expect_factors(d, dA, dB, "golden", "gradients")
    assert_close(
        lora.merge(W_res), numpy_of(theirs.base_layer.weight) + lora_delta(theirs), "golden", "W'"
    )


def lora_delta(theirs):
    return numpy_of(theirs.get_delta_weight("default"))


class Branches(torch.nn.Module):
    """Two layers on one input, one behind."""

    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(7, 6, bias=False)
        self.k = torch.nn.Linear(7, 6, bias=False)
        self.o = torch.nn.Linear(6, 5, bias=False)

    def forward(self, x):
        return self.o(torch.tanh(self.q(x)) + self.k(x))


def eva_states(net, batches, **options):
    from peft.tuners.lora.eva import get_eva_state_dict

    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=["q", "k", "o"],
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(**options),
    )
    return get_eva_state_dict(
        net,
        batches,
        config,
        forward_fn=lambda model, x: model(x),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=lambda given, _, name: given[0],
        show_progress_bar=False,
    )


def batches_of(rng, count=1):
    turned = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    drawn = rng.standard_normal((count, 50, 7)) * 0.6 ** np.arange(7) @ turned
    return [torch.tensor(t) for t in drawn]


def test_pefts_eva_of_one_batch_is_ours_with_its_ranks(rng):
    """The batch is seen until it converges, which changes no direction and no ratio."""
    with peft_init_cases.in_double():
        torch.manual_seed(1)
        net, [x] = Branches(), batches_of(rng)
        states = eva_states(net, [x], rho=2.0, tau=0.999)
        h = torch.tanh(net.q(x)) + net.k(x)
    inputs = {"q": x.numpy(), "k": x.numpy(), "o": numpy_of(h)}
    ratios = {k: components(t, components_of(2, 2.0)).ratios() for k, t in inputs.items()}
    ranks = redistributed(ratios, dict.fromkeys(inputs, 2))
    assert {name: len(t) for name, t in states.items()} == ranks
    for name, t in states.items():
        ours = eva(np.ones((6, inputs[name].shape[1])), inputs[name], ranks[name], 1.0)[0].A
        assert_close(ours, t.numpy(), "routes", name)


def test_pefts_whitening_is_applied_once_for_every_layer_with_the_same_input(rng):
    with peft_init_cases.in_double():
        torch.manual_seed(1)
        net, batches = Branches(), batches_of(rng)
        plain, whitened = (
            eva_states(copy.deepcopy(net), batches, rho=1.0, whiten=on) for on in (False, True)
        )
    shrunk = {k: whitened[k].norm(dim=1) / plain[k].norm(dim=1) for k in "qko"}
    X = batches[0].numpy() - batches[0].numpy().mean(axis=0)
    lengths = np.linalg.svd(np.concatenate([X, X]), compute_uv=False)[:2]  # seen twice
    assert_close(shrunk["q"], 1 / lengths, "routes", "divided by √σ, and again for k")
    assert_close(shrunk["k"], 1 / lengths, "routes", "the same tensor")
    h = numpy_of(torch.tanh(net.q(batches[0])) + net.k(batches[0]))
    H = np.concatenate([h - h.mean(axis=0)] * 2)
    once = np.linalg.svd(H, compute_uv=False)[:2] ** -0.5
    assert_close(shrunk["o"], once, "routes", "no other layer has its input")


def test_pefts_olora_on_inputs_first_is_another_model(rng):
    from transformers.pytorch_utils import Conv1D

    net = torch.nn.ModuleDict({"layer": Conv1D(6, 6)})
    net["layer"].weight = torch.nn.Parameter(torch.tensor(rng.standard_normal((6, 6))).float())
    x = torch.tensor(rng.standard_normal((5, 6))).float()
    before = numpy_of(net["layer"](x))
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["layer"], fan_in_fan_out=True, init_lora_weights="olora"
    )
    W = numpy_of(net["layer"].weight)
    model = peft.get_peft_model(net, config)
    theirs = lora_of(model)
    expect_factors(olora(W, 3, 5 / 3)[0], theirs.A, theirs.B, "float32", "QR of what is stored")
    taken = theirs.delta()
    expected = x.numpy() @ (W - taken + taken.T)
    assert relative_error(inside(model)(x), expected) < 1e-5
    assert relative_error(inside(model)(x), before) > 0.1


@pytest.mark.parametrize("name", ["lora_ga", "pissa_niter_4"])
def test_a_saved_adapter_comes_back_on_another_base(name, rng, tmp_path):
    net = layer(rng)
    model = adapted(name, net, rng)
    model.save_pretrained(tmp_path)
    x = torch.tensor(rng.standard_normal((5, 7)), dtype=torch.float32)
    assert relative_error(inside(model)(x), net["layer"](x)) < 1e-5
    again = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path)
    assert relative_error(inside(again)(x), net["layer"](x)) > 0.01
    if name == "lora_ga":  # its base is the weight, with nothing taken out
        expected = x.numpy() @ lora_of(model).merge(numpy_of(net["layer"].weight)).T
        assert relative_error(inside(again)(x), expected) < 1e-5


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_saved_adapter_that_can_be_made_again_comes_back(name, rng, tmp_path):
    net = layer(rng)
    model = adapted(name, net, rng)
    model.save_pretrained(tmp_path)
    x = torch.tensor(rng.standard_normal((5, 7)), dtype=torch.float32)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path)
    assert relative_error(inside(again)(x), net["layer"](x)) < 1e-5


def test_a_saved_corda_adapter_cannot_be_loaded(rng, tmp_path):
    net = layer(rng)
    adapted("corda_ipm", net, rng).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`eigens` attribute not found"):
        peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path)


def test_corda_refuses_inputs_without_a_positive_element_and_batches_of_two(rng):
    from peft.tuners.lora.corda import preprocess_corda

    config = peft_init_cases.config_of(CASES["corda_ipm"])
    for x, error, message in (
        (-np.maximum(rng.standard_normal((29, 7)), 0), ValueError, "Invalid value found in input"),
        (rng.standard_normal((2, 29, 7)), RuntimeError, "t\\(\\) expects a tensor"),
    ):
        net, x = layer(rng), torch.tensor(x, dtype=torch.float32)
        with pytest.raises(error, match=message):
            preprocess_corda(net, config, run_model=lambda net=net, x=x: net["layer"](x))


def test_pefts_corda_is_ours_on_its_correlation(rng):
    with peft_init_cases.in_double():
        net = layer(rng)
        x = torch.tensor(rng.standard_normal((29, 7)))
        config = peft_init_cases.config_of(CASES["corda_ipm"])
        from peft.tuners.lora.corda import preprocess_corda

        preprocess_corda(net, config, run_model=lambda: net["layer"](x))
        model = peft.get_peft_model(copy.deepcopy(net), config)
    W = numpy_of(net["layer"].weight)
    lora, W_res = corda_instruction(W, damped(sample_correlation([x.numpy()])), 3, 5 / 3)
    theirs = lora_of(model)
    expect_factors(lora, theirs.A, theirs.B, "golden", "CorDA")
    assert_close(W_res, numpy_of(inside(model).base_layer.weight), "golden", "W_res")
    by_token = corda_instruction(W, damped(moments(x.numpy()).correlation()), 3, 5 / 3)
    assert_close(by_token[1], W_res, "routes", "W_res does not depend on the size of C")
    assert relative_error(by_token[0].A, lora.A) > 0.1


def test_pefts_lora_ga_is_not_the_authors(rng):
    net = layer(rng)
    G = rng.standard_normal((11, 7))
    inner = net["layer"]
    W = numpy_of(inner.weight).astype(np.float64)
    inner._peft_loraga_grad = torch.tensor(G)
    theirs = lora_of(peft.get_peft_model(net, peft_init_cases.config_of(CASES["lora_ga"])))
    gain = stable_gain(11)
    ours, _ = lora_ga(W, G, 3, 5 / 3, gain=gain)
    lengths = np.linalg.svd(G, compute_uv=False)
    expect_factors(
        LoRA(ours.A / gain, ours.B * lengths[3:6], ours.scale),
        theirs.A,
        theirs.B,
        "float32",
        "no gain in A, S in B",
        is_pair=False,
    )


def test_pefts_lora_ga_scales_a_conv1d_by_its_inputs():
    _, arrays = run("lora_ga_conv1d")
    lengths = np.linalg.svd(arrays["G"], compute_uv=False)
    gains = np.linalg.norm(arrays["B"], axis=0) / lengths[3:6]
    assert arrays["W"].shape == (7, 11)
    assert_close(gains, np.full(3, stable_gain(7)), "float32", "7 is the number of inputs")


def test_pefts_pissa_takes_a_rank_that_the_weight_does_not_have(rng):
    net = layer(rng)
    config = peft.LoraConfig(r=9, lora_alpha=5, target_modules=["layer"], init_lora_weights="pissa")
    found = lora_of(peft.get_peft_model(net, config))
    assert found.A.shape == (7, 7)
    assert found.scale == 5 / 9


def test_pefts_mica_of_an_embedding_is_ours_of_the_transposed_table(rng):
    from lora_ref.init import mica

    net = torch.nn.ModuleDict({"layer": torch.nn.Embedding(13, 7)})
    E = numpy_of(net["layer"].weight)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["layer"], init_lora_weights="mica")
    model = inside(peft.get_peft_model(net, config))
    A, B = (numpy_of(t["default"]) for t in (model.lora_embedding_A, model.lora_embedding_B))
    expect_factors(mica(E.T, 3, 5 / 3)[0], A, B, "float32", "MiCA")
    assert not model.lora_embedding_B["default"].requires_grad
