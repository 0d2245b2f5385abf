"""What PEFT 0.21.2 itself writes and reads, layout by layout."""

import warnings
from collections import namedtuple

import numpy as np
import pytest
from peft_files import P, content
from safetensors.numpy import save_file

from lora_ref.adapters.fan_in_fan_out import FanInFanOut
from lora_ref.checkpoint import SafetensorsFile
from lora_ref.checkpoint.inputs_first import inside
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_config import LoraConfig
from lora_ref.checkpoint.peft_convert import from_lora, to_lora
from lora_ref.checkpoint.peft_modules import Kind
from lora_ref.layers.convolution import Geometry
from lora_ref.testing.tolerance import TOLERANCE, relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
    from peft_toys import LAYOUTS

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

Saved = namedtuple("Saved", "name model directory base keys")
WEIGHTS = "adapter_model.safetensors"


def the_base(name):
    torch.manual_seed(7)
    return LAYOUTS[name][0]().double().eval()


@pytest.fixture(params=LAYOUTS)
def saved(request, tmp_path):
    """An adapter on a toy model, every trained number random, saved by PEFT."""
    return made(request.param, tmp_path)


def made(name, tmp_path):
    _, _, fields, keys = LAYOUTS[name]
    # PEFT adds to the lists it is given.
    fields = {
        key: value.copy() if hasattr(value, "copy") else value for key, value in fields.items()
    }
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 5, **fields})
    model = peft.get_peft_model(the_base(name), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 3
    model.save_pretrained(tmp_path / "theirs")
    return Saved(name, model, tmp_path / "theirs", the_base(name), keys)


def outputs(saved, model):
    with torch.no_grad():
        result = model(LAYOUTS[saved.name][1]())
    return getattr(result, "logits", result)


def test_the_keys_are_those_that_are_documented(saved):
    file = SafetensorsFile.open(saved.directory / WEIGHTS)
    assert sorted(file.tensors) == sorted(P + key for key in saved.keys)


def test_every_tensor_is_accounted_for_once(saved):
    adapter = PeftAdapter.open(saved.directory)
    used = [name for module in adapter.modules for name in module.names if name is not None]
    used += [tokens.name for tokens in adapter.tokens]
    used += adapter.ignored
    assert len(used) + len(adapter.replaced) == len(adapter.stored)
    assert set(used) <= set(adapter.stored)


def test_rank_and_scale_are_those_of_pefts_layers(saved):
    layers = dict(saved.model.base_model.model.named_modules())
    for module in PeftAdapter.open(saved.directory).modules:
        layer = layers[module.place]
        assert module.rank == layer.r["default"]
        assert module.scale == layer.scaling["default"]


def test_our_update_is_that_of_pefts_layers(saved):
    if saved.name == "grouped convolution":
        pytest.skip("PEFT merges no grouped convolution; the next test compares its forward")
    layers = dict(saved.model.base_model.model.named_modules())
    for module in PeftAdapter.open(saved.directory).modules:
        theirs = layers[module.place].get_delta_weight("default").detach().numpy()
        # Of layers of both kinds the one flag of the file is that of the last: the base decides.
        ours = inside(to_lora(module, Geometry.uniform(2)))
        transposed = getattr(layers[module.place].get_base_layer(), "is_transposed", False)
        if saved.name == "Conv1D" or module.path == "turned" or transposed:
            ours = FanInFanOut(ours)
        delta = ours.weight(np.zeros(theirs.shape))[0]
        assert relative_error(delta, theirs) <= TOLERANCE["golden"]


def test_a_grouped_convolution_has_pefts_forward(tmp_path):
    saved = made("grouped convolution", tmp_path)
    [module] = PeftAdapter.open(saved.directory).modules
    theirs = outputs(saved, saved.model) - outputs(saved, saved.base)
    ours = to_lora(module, Geometry.uniform(2, groups=2))
    x = LAYOUTS[saved.name][1]().numpy()
    y = ours.apply(x, np.zeros((module.B.shape[0], *module.A.shape[1:])))[0]
    assert relative_error(y, theirs.numpy()) <= TOLERANCE["routes"]


def test_what_is_read_is_written_to_the_byte(saved, tmp_path):
    write_adapter(tmp_path / "ours", PeftAdapter.open(saved.directory))
    theirs = content(saved.directory)
    assert content(tmp_path / "ours").items() <= theirs.items()
    assert set(theirs) - {"README.md"} == set(content(tmp_path / "ours"))


def test_what_from_lora_lays_out_is_pefts_file_and_peft_gives_the_same_forward(saved, tmp_path):
    read = PeftAdapter.open(saved.directory)
    if read.ignored or any(m.kind is Kind.CONVOLUTION and m.rank == 4 for m in read.modules):
        pytest.skip("these do not go back: copies PEFT ignores, and a grouped convolution")
    if any(
        module.kind is Kind.PARAMETER and module.A.shape[0] == module.rank
        for module in read.modules
    ):
        pytest.skip("a parameter of two axes is laid out as a linear layer")
    modules = {}
    # The innermost wrapper is that of the parameter registered first, gate_up_proj here.
    for module in sorted(read.modules, key=lambda module: -module.place.count("base_layer")):
        path = module.place
        if module.kind is Kind.PARAMETER:
            path = next(t for t in sorted(module.targets, reverse=True) if t not in modules)
        modules[path] = to_lora(module, Geometry.uniform(2))
    tokens = {rows.target.removesuffix(".weight"): rows.rows for rows in read.tokens}
    config = LoraConfig.from_fields(read.config.raw)
    write_adapter(
        tmp_path / "ours", from_lora(modules, config, replaced=read.replaced, tokens=tokens)
    )
    assert content(tmp_path / "ours").items() <= content(saved.directory).items()
    loaded = peft.PeftModel.from_pretrained(saved.base, tmp_path / "ours").eval()
    assert torch.equal(outputs(saved, loaded), outputs(saved, saved.model))


def test_peft_itself_may_change_a_scale_when_two_patterns_speak_for_one_module(tmp_path):
    fields = {"target_modules": ["q", "v"], "alpha_pattern": {"v": 7, "[qv]": 11}}
    model = peft.get_peft_model(the_base("linear"), peft.LoraConfig(r=3, lora_alpha=5, **fields))
    model.save_pretrained(tmp_path / "a")
    loaded = peft.PeftModel.from_pretrained(the_base("linear"), tmp_path / "a")
    ours = {module.path: module.scale for module in PeftAdapter.open(tmp_path / "a").modules}
    trained, reloaded = (
        {path: getattr(m.base_model.model, path).scaling["default"] for path in "qv"}
        for m in (model, loaded)
    )
    assert trained == {"q": 11 / 3, "v": 7 / 3}
    assert reloaded == ours == {"q": 11 / 3, "v": 11 / 3}


def test_keys_with_an_adapters_name_are_loaded_by_peft_under_that_name(tmp_path):
    saved = made("linear", tmp_path)
    read = PeftAdapter.open(saved.directory)
    named = {
        name.replace(".weight", ".default.weight"): array for name, array in read.stored.items()
    }
    save_file({name: np.array(array) for name, array in named.items()}, saved.directory / WEIGHTS)
    assert PeftAdapter.open(saved.directory).infix == "default"
    loaded = peft.PeftModel.from_pretrained(saved.base, saved.directory).eval()
    assert torch.equal(outputs(saved, loaded), outputs(saved, saved.model))
