"""An adapter in PEFT's layout: what is in it, and that reading and writing lose nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from peft_files import BFLOAT16, P, content, linear, save, values

from lora_ref.adapters.conv import ConvLoRA
from lora_ref.adapters.embedding import EmbeddingLoRA
from lora_ref.adapters.experts import ExpertLoRA
from lora_ref.adapters.fan_in_fan_out import FanInFanOut
from lora_ref.adapters.lora import LoRA
from lora_ref.adapters.lora_bias import BiasedLoRA
from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.inputs_first import turned
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_config import LoraConfig
from lora_ref.checkpoint.peft_convert import from_lora, to_lora
from lora_ref.checkpoint.peft_modules import Kind
from lora_ref.layers.convolution import Geometry

TRAINED = sorted((Path(__file__).parents[1] / "vectors" / "minilm").glob("*/adapter_config.json"))
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def the_module(directory):
    [module] = PeftAdapter.open(directory).modules
    return module


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", BFLOAT16])
def test_a_linear_module_has_the_factors_as_they_are_stored(tmp_path, dtype):
    tensors = linear("layers.0.q", dtype=dtype)
    module = the_module(save(tmp_path / "a", tensors))
    assert (module.path, module.kind) == ("layers.0.q", Kind.LINEAR)
    assert module.targets == ("layers.0.q.weight",)
    assert (module.rank, module.alpha, module.scale, module.beta) == (3, 5, 5 / 3, None)
    for found, stored in zip((module.A, module.B), tensors.values(), strict=True):
        assert found.dtype == stored.dtype
        assert np.array_equal(found, stored)
        assert not found.flags.writeable


def test_each_module_has_the_rank_and_scale_of_its_own_pattern(tmp_path):
    tensors = {**linear("0.q", rank=2), **linear("1.q", rank=4), **linear("1.v")}
    fields = {"rank_pattern": {"0.q": 2, "q": 4}, "alpha_pattern": {r"1\.[qv]": 9}}
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, **fields, use_rslora=True))
    found = {module.path: (module.rank, module.alpha, module.scale) for module in adapter.modules}
    assert found == {"0.q": (2, 5, 5 / 2**0.5), "1.q": (4, 9, 9 / 2), "1.v": (3, 9, 9 / 3**0.5)}


def test_lora_bias_is_read_as_beta(tmp_path):
    beta = values(11)
    tensors = {**linear(), f"{P}q.lora_B.bias": beta}
    module = the_module(save(tmp_path / "a", tensors, lora_bias=True))
    assert np.array_equal(module.beta, beta)


def test_an_embedding_has_factors_without_a_suffix(tmp_path):
    tensors = {f"{P}emb.lora_embedding_A": values(3, 13), f"{P}emb.lora_embedding_B": values(7, 3)}
    module = the_module(save(tmp_path / "a", tensors))
    assert (module.path, module.kind, module.A.shape) == ("emb", Kind.EMBEDDING, (3, 13))


def test_a_convolution_is_known_by_the_kernel_of_a(tmp_path):
    tensors = {f"{P}c.lora_A.weight": values(4, 6, 3, 2), f"{P}c.lora_B.weight": values(8, 2, 1, 1)}
    module = the_module(save(tmp_path / "a", tensors, r=4))
    assert (module.kind, module.rank, module.B.shape) == (Kind.CONVOLUTION, 4, (8, 2, 1, 1))


def test_a_targeted_parameter_is_known_from_the_configuration_only(tmp_path):
    tensors = linear("mlp.experts", rank=3 * 2)
    module = the_module(save(tmp_path / "a", tensors, target_parameters=["experts.down_proj"]))
    assert (module.kind, module.rank, module.scale) == (Kind.PARAMETER, 3, 5 / 3)
    assert module.targets == ("mlp.experts.down_proj",)


def nested(ranks, experts=2):
    inner, outer = ranks
    first = linear("mlp.experts.base_layer", rank=inner * experts, inputs=7, outputs=10)
    return {**first, **linear("mlp.experts", rank=outer * experts, inputs=5, outputs=7)}


def test_two_parameters_of_one_module_that_nothing_tells_apart_have_both_as_targets(tmp_path):
    found = save(tmp_path / "a", nested((3, 3)), target_parameters=list(EXPERTS))
    modules = {module.place: module for module in PeftAdapter.open(found).modules}
    assert sorted(modules) == ["mlp.experts", "mlp.experts.base_layer"]
    for module in modules.values():
        assert (module.path, module.rank) == ("mlp.experts", 3)
        assert sorted(module.targets) == sorted(EXPERTS)


@pytest.mark.parametrize("gate", [4, 6])
def test_two_parameters_of_one_module_are_told_apart_by_their_ranks(tmp_path, gate):
    fields = {"target_parameters": list(EXPERTS), "rank_pattern": {"gate_up_proj": gate}}
    adapter = PeftAdapter.open(save(tmp_path / "a", nested((gate, 3)), **fields))
    found = {module.place: (module.targets, module.rank) for module in adapter.modules}
    assert found["mlp.experts.base_layer"] == (EXPERTS[:1], gate)
    assert found["mlp.experts"] == (EXPERTS[1:], 3)


def test_the_fused_projection_of_multihead_attention_is_told_by_its_output(tmp_path):
    tensors = {
        **linear("attn", rank=2, inputs=8, outputs=24),
        **linear("attn.base_layer.out_proj", rank=2, inputs=8, outputs=8),
    }
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, rank_pattern={"attn": 2}))
    targets = {module.path: module.targets for module in adapter.modules}
    assert targets == {
        "attn": ("attn.in_proj_weight",),
        "attn.out_proj": ("attn.out_proj.weight",),
    }


def test_saved_modules_and_biases_are_found_under_the_names_of_the_base(tmp_path):
    tensors = {
        **linear(),
        f"{P}head.classifier.weight": values(5, 9),
        f"{P}head.classifier.steps": np.array(7),
        f"{P}q.base_layer.bias": values(11),
    }
    fields = {"modules_to_save": ["classifier"], "bias": "lora_only"}
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, **fields))
    assert sorted(adapter.replaced) == [
        "head.classifier.steps",
        "head.classifier.weight",
        "q.bias",
    ]
    assert np.array_equal(adapter.replaced["q.bias"], values(11))


def test_copies_of_biases_that_peft_saves_and_does_not_use_are_set_apart(tmp_path):
    copies = [f"{P}head.{copy}.bias" for copy in ("modules_to_save", "original_module")]
    tensors = {**linear(), f"{P}head.bias": values(5), f"{P}norm.bias": values(4)}
    tensors |= {copy: values(5) + 1 for copy in copies}
    fields = {"modules_to_save": ["head"], "bias": "all"}
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, **fields))
    assert sorted(adapter.ignored) == copies
    assert {name: array.tolist() for name, array in adapter.replaced.items()} == {
        "head.bias": values(5).tolist(),
        "norm.bias": values(4).tolist(),
    }


def test_saved_embeddings_replace_those_of_the_base(tmp_path):
    tensors = {
        **linear("lm_head"),
        f"{P}lm_head.base_layer.weight": values(11, 7),
        f"{P}model.embed_tokens.weight": values(11, 7),
    }
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors))
    assert sorted(adapter.replaced) == ["lm_head.weight", "model.embed_tokens.weight"]


@pytest.mark.parametrize("indices", [[4, 1], {"emb": [4, 1], "other": [2]}])
def test_token_rows_have_the_indices_of_the_configuration(tmp_path, indices):
    name = f"{P}model.emb.token_adapter.trainable_tokens_delta"
    tensors = {**linear(), name: values(2, 7)}
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, trainable_token_indices=indices))
    [tokens] = adapter.tokens
    assert (tokens.target, tokens.indices) == ("model.emb.weight", (4, 1))
    assert np.array_equal(tokens.rows, values(2, 7))


def test_keys_that_still_name_the_adapter_are_read_and_the_name_is_told(tmp_path):
    tensors = {name.replace(".weight", ".bob.weight"): t for name, t in linear().items()}
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors))
    assert adapter.infix == "bob"
    assert adapter.modules[0].path == "q"


def test_what_is_read_is_written_to_the_byte(tmp_path):
    tensors = {
        **linear("b", dtype=BFLOAT16),
        **linear("a"),
        f"{P}emb.lora_embedding_B": values(7, 3),
    }
    tensors |= {f"{P}emb.lora_embedding_A": values(3, 13), f"{P}head.weight": values(2, 2)}
    source = save(tmp_path / "a", tensors, modules_to_save=["head"], unknown="é")
    (source / "adapter_config.json").write_bytes(
        b"\n " + (source / "adapter_config.json").read_bytes()
    )
    write_adapter(tmp_path / "b", PeftAdapter.open(source))
    assert content(tmp_path / "b") == content(source)


def test_an_existing_directory_is_not_overwritten_unless_asked(tmp_path):
    adapter = PeftAdapter.open(save(tmp_path / "a", linear()))
    old = content(save(tmp_path / "b", linear(), r=3, revision="old"))
    with pytest.raises(CheckpointError, match="exists already"):
        write_adapter(tmp_path / "b", adapter)
    assert content(tmp_path / "b") == old
    write_adapter(tmp_path / "b", adapter, overwrite=True)
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_a_directory_with_other_files_is_never_overwritten(tmp_path):
    adapter = PeftAdapter.open(save(tmp_path / "a", linear()))
    (save(tmp_path / "b", linear()) / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"nothing else to be overwritten, got \['thesis.tex"):
        write_adapter(tmp_path / "b", adapter, overwrite=True)
    assert (tmp_path / "b" / "thesis.tex").read_text() == "years of work"


def test_an_adapter_can_be_written_over_itself(tmp_path):
    source = save(tmp_path / "a", linear())
    before = content(source)
    write_adapter(source, PeftAdapter.open(source), overwrite=True)
    assert content(source) == before


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    source = save(tmp_path / "a", linear())
    adapter = PeftAdapter.open(source)
    save(source, linear(inputs=8))
    with pytest.raises(CheckpointError, match="must not change"):
        write_adapter(tmp_path / "b", adapter)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("inputs_first", [False, True])
def test_all_adapters_of_this_library_come_back_from_peft_layout(inputs_first, tmp_path):
    s = 5 / 3
    flat = Geometry.uniform(2, padding=1)
    lora = LoRA(values(3, 7), values(11, 3), s)
    modules = {
        "q": turned(lora, inputs_first),
        "biased": turned(BiasedLoRA(lora, values(11)), inputs_first),
        "emb": EmbeddingLoRA(values(3, 13), values(7, 3), s),
        "conv": ConvLoRA(values(3, 4, 3, 2), values(6, 3, 1, 1), s, flat),
        EXPERTS[0]: ExpertLoRA(values(2, 3, 7), values(2, 10, 3), s),
        EXPERTS[1]: ExpertLoRA(values(2, 3, 5), values(2, 7, 3), s),
    }
    fields = {"r": 3, "lora_alpha": 5, "target_parameters": list(EXPERTS)}
    config = LoraConfig.from_fields({**fields, "fan_in_fan_out": inputs_first})
    write_adapter(tmp_path / "a", from_lora(modules, config))
    places = {module.place: module for module in PeftAdapter.open(tmp_path / "a").modules}
    expected = dict(modules)
    expected["mlp.experts.base_layer"] = expected.pop(EXPERTS[0])
    expected["mlp.experts"] = expected.pop(EXPERTS[1])
    assert sorted(places) == sorted(expected)
    for place, module in places.items():
        found = to_lora(module, flat)
        assert type(found) is type(expected[place])
        assert leaves(found) == leaves(expected[place])


def leaves(adapter):
    if isinstance(adapter, FanInFanOut):
        return leaves(adapter.inner)
    if isinstance(adapter, BiasedLoRA):
        return (*leaves(adapter.lora), adapter.beta.tolist())
    return adapter.A.tolist(), adapter.B.tolist(), adapter.scale


def test_replaced_tensors_and_token_rows_are_laid_out_as_peft_does(tmp_path):
    fields = {"r": 3, "lora_alpha": 5, "bias": "all", "trainable_token_indices": {"emb": [4, 1]}}
    made = from_lora(
        {"q": LoRA(values(3, 7), values(11, 3), 5 / 3)},
        LoraConfig.from_fields(fields),
        replaced={"q.bias": values(11), "norm.bias": values(4)},
        tokens={"emb": values(2, 7)},
    )
    assert sorted(made.stored) == [
        f"{P}emb.token_adapter.trainable_tokens_delta",
        f"{P}norm.bias",
        f"{P}q.base_layer.bias",
        f"{P}q.lora_A.weight",
        f"{P}q.lora_B.weight",
    ]
    write_adapter(tmp_path / "a", made)
    read = PeftAdapter.open(tmp_path / "a")
    assert sorted(read.replaced) == ["norm.bias", "q.bias"]
    assert [tokens.indices for tokens in read.tokens] == [(4, 1)]


def test_a_grouped_convolution_is_stored_with_an_ungrouped_a(rng):
    geometry = Geometry.uniform(1, groups=2)
    adapter = ConvLoRA(rng.normal(size=(4, 3, 5)), rng.normal(size=(8, 2, 1)), 2.0, geometry)
    config = LoraConfig.from_fields({"r": 4, "lora_alpha": 8})
    [module] = from_lora({"c": adapter}, config).modules
    assert module.A.shape == (4, 6, 5)
    x = rng.normal(size=(6, 9))
    whole = to_lora(module, geometry).apply(x, np.zeros((8, 6, 5)))[0]
    assert np.allclose(whole, adapter.apply(x, np.zeros((8, 3, 5)))[0], rtol=0, atol=1e-12)


def test_from_lora_refuses_a_scale_that_its_configuration_does_not_give():
    config = LoraConfig.from_fields({"r": 3, "lora_alpha": 5})
    with pytest.raises(ValueError, match=r"scale of q must be 1\.66.*got 5"):
        from_lora({"q": LoRA(values(3, 7), values(11, 3), 5.0)}, config)


def test_from_lora_refuses_an_adapter_peft_has_no_layout_for():
    config = LoraConfig.from_fields({"r": 3, "lora_alpha": 5})
    with pytest.raises(TypeError, match=r"adapter at q must be LoRA.*got object"):
        from_lora({"q": object()}, config)


def test_to_lora_needs_the_geometry_of_a_convolution_with_the_groups_of_b(tmp_path):
    tensors = {f"{P}c.lora_A.weight": values(4, 6, 3), f"{P}c.lora_B.weight": values(8, 2, 1)}
    module = the_module(save(tmp_path / "a", tensors, r=4))
    with pytest.raises(ValueError, match="geometry must be given"):
        to_lora(module)
    with pytest.raises(ValueError, match=r"geometry\.groups must be 2"):
        to_lora(module, Geometry.uniform(1))


@pytest.mark.parametrize("path", TRAINED or [None], ids=lambda path: path and path.parent.name)
def test_a_trained_adapter_is_read_and_written_to_the_byte(path, tmp_path):
    if path is None:
        pytest.skip("no trained adapters under tests/vectors/minilm")
    adapter = PeftAdapter.open(path.parent)
    assert all(np.any(module.B) for module in adapter.modules)
    write_adapter(tmp_path / "b", adapter)
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert content(tmp_path / "b") == {name: (path.parent / name).read_bytes() for name in names}


def test_an_adapter_is_not_changed_by_hand():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoraConfig.from_fields({}).r = 4
