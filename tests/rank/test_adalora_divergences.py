"""PEFT's AdaLoRA, layer by layer as we have it, and where it is not: docs/divergences.md."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")

from adalora_toys import Chain, chain, layers_of, read_from  # noqa: E402
from torch import nn  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from lora_ref.adapters import AdaConvLoRA, FanInFanOut, apply_merged  # noqa: E402
from lora_ref.checkpoint.peft_adalora import read_adalora  # noqa: E402
from lora_ref.layers.convolution import Geometry  # noqa: E402
from lora_ref.layers.padding import pad_circular, pad_zeros  # noqa: E402
from lora_ref.testing.checks import assert_trees_close  # noqa: E402
from lora_ref.testing.tolerance import assert_close, relative_error  # noqa: E402

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]


def one_layer(layer, name="0", seed=4, dtype=torch.float64, **fields):
    """PEFT's AdaLoRA on `layer` alone, every trained number random."""
    settings = {"init_r": 3, "target_r": 2, "lora_alpha": 5, "total_step": 30, **fields}
    config = peft.AdaLoraConfig(target_modules=[name], **settings)
    model = peft.get_peft_model(nn.Sequential(layer), config).to(dtype).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=dtype))
    return model


def random(*shape, seed=7):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True)


def geometry_of(layer):
    padding = tuple((p, p) for p in layer.padding)
    pad = pad_circular if layer.padding_mode == "circular" else pad_zeros
    return Geometry(layer.stride, padding, layer.dilation, layer.groups, pad)


LAYERS = {
    "linear": (lambda: nn.Linear(7, 11), (2, 4, 7), {}),
    "square": (lambda: nn.Linear(6, 6), (5, 6), {"init_r": 4}),
    "alpha of zero": (lambda: nn.Linear(7, 5), (5, 7), {"lora_alpha": 0}),
    "Conv1D": (lambda: Conv1D(11, 7), (2, 3, 7), {"fan_in_fan_out": True}),
    "convolution": (
        lambda: nn.Conv2d(3, 5, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        (2, 3, 6, 7),
        {},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_output_merge_and_every_gradient_are_pefts(name):
    make, shape, fields = LAYERS[name]
    model, x = one_layer(make(), **fields), random(*shape)
    [inner] = read_from(model).values()
    base = model.base_model.model[0].base_layer
    W, b = base.weight.detach().numpy().copy(), base.bias.detach().numpy()
    adapter = inner
    if isinstance(base, nn.Conv2d):
        adapter, b = AdaConvLoRA(inner, geometry_of(base)), b[:, None, None]
    elif isinstance(base, Conv1D):
        adapter = FanInFanOut(inner)
    y = model(x)
    dy = random(*y.shape, seed=8).detach()
    y.backward(dy)
    [expected] = read_from(model, lambda parameter: parameter.grad).values()
    for route in (adapter.apply, lambda x, W: apply_merged(adapter, x, W)):
        ours, backward = route(x.detach().numpy(), W)
        assert_close(ours + b, y.detach().numpy(), "golden", "y")
        dx, d = backward(dy.numpy())
        assert_close(dx, x.grad.numpy(), "golden", "dx")
        assert_trees_close(getattr(d, "inner", d), expected, "golden", "gradients")
    merged = model.merge_and_unload()[0].weight.detach().numpy()
    assert_close(adapter.merge(W), merged, "golden", "W'")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_pefts_divisor_is_trained_on_a_base_that_is_not_float32(dtype):
    for made_in, is_trained in ((torch.float32, False), (dtype, True)):
        net = nn.Sequential(nn.Linear(7, 11)).to(made_in)
        config = peft.AdaLoraConfig(init_r=3, target_modules=["0"], total_step=30)
        model = peft.get_peft_model(net, config)
        assert model.base_model.model[0].ranknum["default"].requires_grad is is_trained


def test_pefts_trained_divisor_is_not_in_its_file(tmp_path):
    net = Chain().double()
    config = peft.AdaLoraConfig(init_r=3, target_r=2, target_modules=["first"], total_step=30)
    model = peft.get_peft_model(net, config)
    layer = model.base_model.model.first
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:  # ranknum is one of them
                parameter += 0.5
    before = layer.get_delta_weight("default").detach().numpy()
    model.save_pretrained(tmp_path / "theirs")
    assert not any("ranknum" in key for key in peft.get_peft_model_state_dict(model))
    loaded = peft.PeftModel.from_pretrained(Chain().double(), tmp_path / "theirs")
    after = loaded.base_model.model.first.get_delta_weight("default").numpy()
    assert_close(after, before * (3.5 + 1e-5) / (3 + 1e-5), "golden", "ΔW")
    ours = read_adalora(tmp_path / "theirs").adapters["first"]
    assert_close(ours.weight(np.zeros((11, 7)))[0], after, "golden", "ΔW, read")


def test_pefts_penalty_is_left_out_without_a_task_type():
    model, x = chain(orth_reg_weight=0.7), random(5, 7)
    plain = model.base_model.model(x).loss
    assert torch.equal(model(x).loss, plain)
    assert model.base_model(x).loss > plain + 0.1


def test_peft_fails_where_the_budget_is_all_there_is():
    model = chain(init_r=3, target_r=3)
    model.base_model(random(5, 7)).loss.backward()
    with pytest.raises(RuntimeError, match="kthvalue"):
        model.base_model.update_and_allocate(1)


def test_peft_masks_all_that_ties_with_its_threshold():
    model = chain(init_r=3, target_r=2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.base_model.update_and_allocate(1)
    assert all(np.all(adapter.lam == 0) for adapter in read_from(model).values())


def test_saving_between_masks_drops_what_has_come_back(tmp_path):
    """ΔT = 4: masked at step 4, moved by the optimiser until step 6, then saved."""
    model = chain(deltaT=4, tinit=1)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(1, 7):
        optimiser.zero_grad()
        model.base_model(random(16, 7, seed=step)).loss.backward()
        optimiser.step()
        model.base_model.update_and_allocate(step)
    model.save_pretrained(tmp_path / "theirs")
    read = read_adalora(tmp_path / "theirs").adapters
    full = {n: a.lora().delta() for n, a in read_from(model).items()}
    saved = {n: a.lora().delta() for n, a in read.items()}
    assert any(relative_error(saved[name], full[name]) > 1e-3 for name in full)


def test_an_alpha_of_zero_is_another_scale_after_a_mask_is_loaded(tmp_path):
    model = chain(lora_alpha=0, init_r=5)
    for step in range(1, 31):
        model.base_model(random(16, 7, seed=step)).loss.backward()
        model.base_model.update_and_allocate(step)
    model.save_pretrained(tmp_path / "theirs")
    loaded = peft.PeftModel.from_pretrained(Chain(), tmp_path / "theirs")
    trained = {layer.scaling["default"] for layer in layers_of(model).values()}
    reloaded = {layer.scaling["default"] for layer in layers_of(loaded).values()}
    assert trained == {5.0}
    assert 5.0 not in reloaded


def test_pefts_convolution_pads_with_zeros_whatever_the_base_does():
    base = nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")
    model, x = one_layer(base), random(2, 3, 6, 7)
    [inner] = read_from(model).values()
    theirs = model(x).detach().numpy()
    b = base.bias.detach().numpy()[:, None, None]
    W = model.base_model.model[0].base_layer.weight.detach().numpy()
    ours = AdaConvLoRA(inner, geometry_of(base)).apply(x.detach().numpy(), W)[0] + b
    with torch.no_grad():
        merged = model.merge_and_unload()(x).numpy()
    assert_close(ours, merged, "golden", "y of the merge")
    assert relative_error(theirs, merged) > 0.01


def test_pefts_convolution_with_groups_fails():
    model = one_layer(nn.Conv2d(4, 6, 3, groups=2))
    with pytest.raises(RuntimeError, match="shape"):
        model(random(1, 4, 6, 7))


def test_a_loaded_mask_is_said_to_be_ignored_and_is_not(tmp_path):
    model = chain(init_r=5)
    for step in range(1, 31):
        model.base_model(random(16, 7, seed=step)).loss.backward()
        model.base_model.update_and_allocate(step)
    model.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(Chain(), tmp_path / "theirs")
    assert any("rank_pattern keys did not match" in str(w.message) for w in caught)
    found = sum(layer.lora_E["default"].shape[0] for layer in layers_of(loaded).values())
    assert found == 6


def test_fields_of_lora_that_peft_ignores_here():
    fields = {"use_rslora": True, "alpha_pattern": {"0": 11}, "lora_bias": True}
    model = one_layer(nn.Linear(7, 11), **fields)
    [layer] = layers_of(model).values()
    assert layer.scaling["default"] == 5
    assert not any(name.endswith("bias") for name, _ in layer.named_parameters() if "lora" in name)


def test_an_adapters_name_within_a_layers_name_makes_peft_cut_the_path_too_short(tmp_path):
    """Named "irs", which is in "first": PEFT resizes the module above it, which has no factors."""
    net = Chain()
    config = peft.AdaLoraConfig(
        init_r=5, target_r=2, target_modules=["first", "second"], total_step=4
    )
    model = peft.get_peft_model(net, config, adapter_name="irs")
    for step in range(1, 5):
        model.base_model(random(16, 7, seed=step).float()).loss.backward()
        model.base_model.update_and_allocate(step)
    with pytest.raises(KeyError):
        model.save_pretrained(tmp_path / "theirs")
