"""DoRA in PEFT's layout: what is read, what is written, what is refused; and PEFT both ways."""

import json

import numpy as np
import pytest
from peft_files import P, content, linear, save, values

from lora_ref.adapters import ConvDoRA, DoRA, EmbeddingDoRA, FanInFanOut, LoRA
from lora_ref.adapters.conv import ConvLoRA
from lora_ref.adapters.embedding import EmbeddingLoRA
from lora_ref.checkpoint.errors import CheckpointError
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_dora import PeftDoRA, from_dora, open_dora
from lora_ref.checkpoint.tuners import open_adapter
from lora_ref.layers.convolution import Geometry
from lora_ref.testing.tolerance import assert_close

M = "lora_magnitude_vector"


def dora_file(path="q", **shapes):
    return {**linear(path), f"{P}{path}.{M}": values(shapes.get("m", 11))}


def everything():
    """An adapter of each kind, at scale 5/3."""
    conv = ConvLoRA(values(3, 4, 3, 2), values(6, 3, 1, 1), 5 / 3, Geometry.uniform(2))
    embedding = EmbeddingLoRA(values(3, 13), values(7, 3), 5 / 3)
    dora = DoRA(values(3, 7), values(11, 3), values(11), 5 / 3, detach_norm=True)
    return {
        "q": dora,
        "c": ConvDoRA(conv, values(6), detach_norm=True),
        "emb": EmbeddingDoRA(embedding, values(7), detach_norm=True),
    }


FIELDS = {"r": 3, "lora_alpha": 5, "target_modules": ["q", "c", "emb"]}


def test_a_linear_layer_is_read_as_dora_with_a_detached_norm(tmp_path):
    found = open_dora(save(tmp_path / "a", dora_file(), use_dora=True))
    [module] = found.factors.modules
    adapter = found.adapter(module)
    assert isinstance(adapter, DoRA)
    assert adapter.detach_norm
    assert adapter.scale == 5 / 3
    for name, expected in (("A", values(3, 7)), ("B", values(11, 3)), ("m", values(11))):
        assert np.array_equal(getattr(adapter, name), expected)


def test_what_is_written_is_read_again(tmp_path):
    modules = everything()
    write_adapter(tmp_path / "a", from_dora(modules, FIELDS))
    found = open_dora(tmp_path / "a")
    assert found.stored[f"{P}c.{M}"].shape == (1, 6, 1, 1)
    for module in found.factors.modules:
        given = modules[module.path]
        adapter = found.adapter(module, Geometry.uniform(2))
        assert type(adapter) is type(given)
        assert adapter.detach_norm
        assert np.array_equal(adapter.m, given.m)
        inside = getattr(adapter, "lora", adapter)
        assert np.array_equal(inside.A, getattr(given, "lora", given).A)
        assert inside.scale == 5 / 3
    write_adapter(tmp_path / "b", found)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_weight_stored_inputs_first_has_the_same_tensors(tmp_path):
    dora = everything()["q"]
    plain = from_dora({"q": dora}, FIELDS)
    turned = from_dora({"q": FanInFanOut(dora)}, {**FIELDS, "fan_in_fan_out": True})
    write_adapter(tmp_path / "a", plain)
    write_adapter(tmp_path / "b", turned)
    name = "adapter_model.safetensors"
    assert content(tmp_path / "a")[name] == content(tmp_path / "b")[name]


@pytest.mark.parametrize("infix", ["default", "default.weight"])
def test_a_state_dict_with_an_adapters_name_is_read(infix, tmp_path):
    tensors = {name.replace(".weight", ".default.weight"): t for name, t in linear().items()}
    found = open_dora(
        save(tmp_path / "a", {**tensors, f"{P}q.{M}.{infix}": values(11)}, use_dora=True)
    )
    assert np.array_equal(found.magnitudes["q"], values(11))


def test_patterns_keep_their_order_of_which_the_first_that_fits_counts(tmp_path):
    fields = {"r": 3, "lora_alpha": 5, "alpha_pattern": {"q": 7, "a.q": 11}}
    dora = DoRA(values(3, 7), values(11, 3), values(11), 7 / 3, detach_norm=True)
    write_adapter(tmp_path / "a", from_dora({"a.q": dora}, fields))
    assert [m.alpha for m in open_dora(tmp_path / "a").factors.modules] == [7]


def test_base_tensors_beside_dora_are_kept(tmp_path):
    fields = {**FIELDS, "modules_to_save": ["norm"]}
    made = from_dora(everything(), fields, replaced={"norm.weight": values(5)})
    write_adapter(tmp_path / "a", made)
    assert np.array_equal(open_dora(tmp_path / "a").factors.replaced["norm.weight"], values(5))


def test_the_reader_of_every_method_finds_dora_and_plain_lora(tmp_path):
    with_magnitudes = open_adapter(save(tmp_path / "a", dora_file(), use_dora=True))
    assert isinstance(with_magnitudes, PeftDoRA)
    assert isinstance(open_adapter(save(tmp_path / "b", linear())), PeftAdapter)


def test_the_reader_of_lora_refuses_it(tmp_path):
    directory = save(tmp_path / "a", dora_file(), use_dora=True)
    with pytest.raises(CheckpointError, match="use_dora asks for DoRA's magnitude"):
        PeftAdapter.open(directory)


CONV = {f"{P}c.lora_A.weight": values(4, 6, 3), f"{P}c.lora_B.weight": values(8, 2, 1)}
MANY = {f"{P}mlp.lora_A.weight": values(6, 7), f"{P}mlp.lora_B.weight": values(11, 6)}
BAD = {
    "no use_dora": (dora_file(), {"use_dora": False}, "use_dora must be true, got False"),
    "lora_bias": (dora_file(), {"lora_bias": True}, "lora_bias must be unset beside use_dora"),
    "a magnitude that is missing": (linear(), {}, r"lora_magnitude_vector for .*'q'.*got \[\]"),
    "a magnitude without factors": (
        {**dora_file(), f"{P}v.{M}": values(5)},
        {},
        r"lora_magnitude_vector for the modules .*got",
    ),
    "two magnitudes of one module": (
        {**dora_file(), f"{P}q.{M}.weight": 2 * values(11)},
        {},
        r"one lora_magnitude_vector for 'q', got .*lora_magnitude_vector\.weight'",
    ),
    "a magnitude by input": (dora_file(m=7), {}, r"must be \[11\], got \[7\]"),
    "a magnitude that is not finite": (
        {**dora_file(), f"{P}q.{M}": values(11) / np.float32("nan")},
        {},
        "must be finite",
    ),
    "a grouped convolution": (
        {**CONV, f"{P}c.{M}": values(1, 8, 1)},
        {"r": 4},
        "must be of one group with use_dora",
    ),
    "a targeted parameter": (
        {**MANY, f"{P}mlp.{M}": values(11)},
        {"target_parameters": ["mlp.gate"]},
        "must be no targeted parameter",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line(name, tmp_path):
    tensors, fields, message = BAD[name]
    with pytest.raises(CheckpointError, match=message) as error:
        open_dora(save(tmp_path / "a", tensors, **{"use_dora": True, **fields}))
    assert "\n" not in str(error.value)


def test_what_has_no_place_in_the_layout_is_refused():
    A, B = values(4, 3, 3), values(8, 2, 1)
    grouped = ConvDoRA(ConvLoRA(A, B, 5 / 4, Geometry.uniform(1, groups=2)), values(8), True)
    with pytest.raises(ValueError, match="the convolution at c must be of one group"):
        from_dora({"c": grouped}, {"r": 4, "lora_alpha": 5})
    with pytest.raises(TypeError, match=r"at q must be DoRA, ConvDoRA or EmbeddingDoRA.*got LoRA"):
        from_dora({"q": LoRA(values(3, 7), values(11, 3), 5 / 3)}, FIELDS)
    with pytest.raises(ValueError, match="the scale of q must be"):
        from_dora({"q": everything()["q"]}, {**FIELDS, "lora_alpha": 7})


@pytest.fixture
def peers():
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
    return torch, peft


def toy(torch, name):
    """A base model, an input, the targets: made anew with the same numbers."""
    from peft_toys import Convolutions, Toy, features, ids

    torch.manual_seed(7)
    kinds = {
        "linear": (Toy, ids, ["q", "v"]),
        "Conv1D": (Toy, ids, ["turned"]),
        "embedding": (Toy, ids, ["emb"]),
        "convolution": (Convolutions, features(2, 4, 5, 6), ["c"]),
    }
    kind, make_input, targets = kinds[name]
    return kind().double().eval(), make_input(), targets


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["linear", "Conv1D", "embedding", "convolution"])
def test_peft_and_we_read_each_others_files(name, peers, tmp_path):
    torch, peft = peers
    base, x, targets = toy(torch, name)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=True)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 3
    model.save_pretrained(tmp_path / "theirs")
    found = open_dora(tmp_path / "theirs")
    write_adapter(tmp_path / "copy", found)
    assert content(tmp_path / "copy").items() <= content(tmp_path / "theirs").items()
    modules = {m.path: found.adapter(m, Geometry.uniform(2)) for m in found.factors.modules}
    fields = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    write_adapter(tmp_path / "ours", from_dora(modules, fields))
    assert content(tmp_path / "ours").items() <= content(tmp_path / "theirs").items()
    loaded = peft.PeftModel.from_pretrained(toy(torch, name)[0], tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    fresh, merged = toy(torch, name)[0], model.merge_and_unload()
    for path, adapter in modules.items():
        W = fresh.get_submodule(path).weight.detach().numpy()
        W_merged = merged.get_submodule(path).weight.detach().numpy()
        assert isinstance(adapter, FanInFanOut) == (name == "Conv1D")
        assert_close(adapter.merge(W), W_merged, "golden", path)


def test_what_is_printed_of_a_file_holds_no_arrays_and_no_bytes():
    said = repr(from_dora(everything(), FIELDS))
    assert not any(f"{name}=" in said for name in ("stored", "specs", "header", "text"))
