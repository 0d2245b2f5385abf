"""PEFT's methods other than LoRA: recorded numbers; files that are read, written and laid out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft_files import content, save, values
from tuner_records import P, check, part, saved

from lora_ref.adapters import IA3, OFT, AdaLoRA, InputIA3, LoHa, LoKr, MiSS, VeRA
from lora_ref.adapters.adalora import peft_scaling
from lora_ref.adapters.lokr import LowRank
from lora_ref.adapters.oft import Neumann, cayley
from lora_ref.adapters.vera import shared_bases
from lora_ref.checkpoint import SafetensorsFile
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_adalora import write_adalora
from lora_ref.checkpoint.tuners import TUNERS, from_adapters, open_adapter
from lora_ref.trees import leaves

VECTORS = Path(__file__).parents[1] / "vectors"
RECORDED = json.loads((VECTORS / "peft_tuners.json").read_text())["cases"]


def arrays_of(name):
    file = SafetensorsFile.open(VECTORS / "peft_tuners.safetensors")
    return {key: file.tensor(f"{name}/{key}") for key in RECORDED[name]["arrays"]}


@pytest.fixture(params=RECORDED)
def case(request):
    """A recorded case: its arrays, its configuration, and whether q is stored inputs first."""
    fields = RECORDED[request.param]
    return arrays_of(request.param), fields["config"], fields["is_turned"]


def test_every_method_of_the_registry_is_recorded():
    assert {fields["config"]["peft_type"] for fields in RECORDED.values()} == {*TUNERS}


def test_values_and_gradients_are_those_that_peft_gave(case, tmp_path):
    check(*case, tmp_path / "a")


def test_what_is_read_is_written_to_the_byte(case, tmp_path):
    arrays, config, _ = case
    theirs = saved(arrays, config, tmp_path / "theirs")
    write_adapter(tmp_path / "ours", open_adapter(theirs))
    assert content(tmp_path / "ours") == content(theirs)


def test_what_is_laid_out_again_is_the_file_that_was_read(case, tmp_path):
    arrays, config, _ = case
    read = open_adapter(saved(arrays, config, tmp_path / "theirs"))
    again = from_adapters(read.adapters, read.config.raw, read.tuner)
    write_adapter(tmp_path / "ours", again)
    assert content(tmp_path / "ours") == content(tmp_path / "theirs")


def test_every_array_of_the_file_is_in_an_adapter_or_shared(case, tmp_path):
    arrays, config, _ = case
    read = open_adapter(saved(arrays, config, tmp_path / "a"))
    count = sum(len([*leaves(adapter)]) for adapter in read.adapters.values())
    assert count + len(read.tuner.shared) == len(part(arrays, "adapter"))


def test_a_lora_is_read_as_before(tmp_path):
    tensors = {f"{P}q.lora_A.weight": values(3, 7), f"{P}q.lora_B.weight": values(11, 3)}
    assert isinstance(open_adapter(save(tmp_path / "a", tensors)), PeftAdapter)


def test_an_adalora_is_read_by_the_same_door(tmp_path):
    adapter = AdaLoRA(values(11, 3), values(3), values(3, 7), peft_scaling(5, 3))
    fields = {"peft_type": "ADALORA", "init_r": 3, "lora_alpha": 5, "total_step": 10}
    write_adalora(tmp_path / "a", {"q": adapter}, fields)
    assert np.array_equal(open_adapter(tmp_path / "a").adapters["q"].lam, values(3))


def test_saved_modules_and_biases_are_replacements(tmp_path):
    tensors = {
        f"{P}q.miss_block": values(3, 11),
        f"{P}q.base_layer.bias": values(11),
        f"{P}head.weight": values(5, 9),
    }
    fields = {"bias": "MiSS_only", "modules_to_save": ["head"], "r": 3}
    read = open_adapter(save(tmp_path / "a", tensors, peft_type="MISS", **fields))
    assert {*read.replaced} == {"q.bias", "head.weight"}
    assert np.array_equal(read.replaced["q.bias"], values(11))
    again = from_adapters(read.adapters, read.config.raw, read.tuner, replaced=read.replaced)
    assert again.stored.keys() == tensors.keys()


def test_no_feedforward_modules_are_none(tmp_path):
    tensors = {f"{P}q.ia3_l": values(7, 1)}
    read = open_adapter(save(tmp_path / "a", tensors, peft_type="IA3", feedforward_modules=None))
    assert isinstance(read.adapters["q"], IA3)


def test_an_expression_for_feedforward_modules_leaves_the_side_to_the_shape(tmp_path):
    tensors = {f"{P}q.ia3_l": values(1, 7), f"{P}v.ia3_l": values(7, 1)}
    read = open_adapter(save(tmp_path / "a", tensors, peft_type="IA3", feedforward_modules="q"))
    assert [type(a) for a in read.adapters.values()] == [InputIA3, IA3]


@pytest.mark.parametrize(
    ("given", "targets", "feedforward"),
    [
        ({}, ["a.q", "a.v"], ["a.v"]),
        ({"target_modules": ["q", "v"]}, ["q", "v"], ["v"]),
        ({"feedforward_modules": ["v"]}, ["a.q", "v"], ["v"]),
        ({"target_modules": "a.*"}, "a.*", ["a.v"]),
        ({"target_modules": ["q", "v"], "feedforward_modules": ["v"]}, ["q", "v"], ["v"]),
    ],
)
def test_the_lists_of_modules_that_are_left_out_say_the_adapters(given, targets, feedforward):
    modules = {"a.q": IA3(values(11)), "a.v": InputIA3(values(7))}
    raw = from_adapters(modules, given, TUNERS["IA3"]).config.raw
    assert (raw["target_modules"], raw["feedforward_modules"]) == (targets, feedforward)


DEFAULTS = {
    "LOHA": {"r": 8, "alpha": 8, "rank_pattern": {}, "alpha_pattern": {}},
    "IA3": {"feedforward_modules": [], "fan_in_fan_out": False},
    "LOKR": {
        "r": 8,
        "alpha": 8,
        "decompose_both": False,
        "decompose_factor": -1,
        "rank_pattern": {},
        "alpha_pattern": {},
    },
    "VERA": {"r": 256, "save_projection": True, "fan_in_fan_out": False},
    "MISS": {"r": 64, "mini_r": 1, "init_weights": True},
    "OFT": {
        "use_cayley_neumann": True,
        "num_cayley_neumann_terms": 5,
        "block_share": False,
        "coft": False,
    },
}


def test_a_field_that_is_absent_has_pefts_default():
    found = {t: {n: f.default for n, f in TUNERS[t].fields.items()} for t in TUNERS}
    assert found == DEFAULTS


def test_patterns_keep_their_order_of_which_the_first_that_fits_counts(tmp_path):
    config = {"r": 3, "alpha": 5, "alpha_pattern": {"q": 7, "a.q": 11}}
    write_adapter(tmp_path / "a", from_adapters({"a.q": a_loha(7 / 3)}, config, TUNERS["LOHA"]))
    assert open_adapter(tmp_path / "a").adapters["a.q"].scale == 7 / 3


def test_patterns_may_be_null():
    config = {"r": 3, "alpha": 5, "rank_pattern": None, "alpha_pattern": None}
    assert from_adapters({"q": a_loha()}, config, TUNERS["LOHA"]).config["rank_pattern"] == {}


def test_the_longest_series_that_is_read_has_a_thousand_terms():
    config = {"num_cayley_neumann_terms": 1000}
    made = from_adapters({"q": OFT(values(2, 6), Neumann(999))}, config, TUNERS["OFT"])
    assert made.adapters["q"].rotation == Neumann(999)


@pytest.mark.parametrize("peft_type", TUNERS)
def test_what_a_field_must_be_is_what_its_default_is(peft_type):
    for field in TUNERS[peft_type].fields.values():
        assert field.check(field.default)


def test_a_default_series_has_five_terms_and_exact_is_the_setting_for_it(tmp_path):
    tensors = {f"{P}q.oft_R.weight": values(2, 6)}
    read = open_adapter(save(tmp_path / "a", tensors, peft_type="OFT"))
    assert read.adapters["q"].rotation == Neumann(4)


def veras(rng):
    """Two layers that share bases, neither the larger in both directions."""
    A, B = shared_bases(3, 11, 8, rng, np.ones(1))
    q, v = (VeRA.init(np.ones(shape), A, B) for shape in ((11, 5), (7, 8)))
    return {"q": q, "v": v}, (A, B)


@pytest.mark.parametrize("order", ["qv", "vq"])
def test_shared_bases_are_written_once_and_as_large_as_the_largest_layer(rng, order):
    modules, (A, B) = veras(rng)
    given = {path: modules[path] for path in order}
    stored = from_adapters(given, {"r": 3}, TUNERS["VERA"]).stored
    assert [name for name in stored if "vera_A" in name or "vera_B" in name] == [
        "base_model.vera_A",
        "base_model.vera_B",
    ]
    assert np.array_equal(stored["base_model.vera_A"], A)
    assert np.array_equal(stored["base_model.vera_B"], B)


@pytest.mark.parametrize("which", ["A", "B"])
def test_layers_that_do_not_share_their_bases_have_no_file(rng, which):
    modules, _ = veras(rng)
    path = "q" if which == "A" else "v"
    modules[path] = replace(modules[path], **{which: 2 * getattr(modules[path], which)})
    with pytest.raises(ValueError, match="must be the first columns and rows of those"):
        from_adapters(modules, {"r": 3}, TUNERS["VERA"])


def a_loha(scale=5 / 3):
    return LoHa(values(3, 7), values(11, 3), values(3, 7), values(11, 3), scale)


@pytest.mark.parametrize(
    ("adapter", "peft_type", "fields", "match"),
    [
        (a_loha(2.0), "LOHA", {"r": 3, "alpha": 5}, r"scale of q must be 1\.66.*, got 2\.0"),
        (OFT(values(2, 6)), "OFT", {}, "rotation of q must be Neumann"),
        (
            OFT(values(2, 6), Neumann(4)),
            "OFT",
            {"use_cayley_neumann": False},
            "rotation of q must be <function cayley",
        ),
        (OFT(values(2, 6), Neumann(4)), "OFT", {"num_cayley_neumann_terms": 6}, "degree=5"),
    ],
)
def test_settings_that_do_not_say_the_adapter_are_refused(adapter, peft_type, fields, match):
    with pytest.raises(ValueError, match=match):
        from_adapters({"q": adapter}, fields, TUNERS[peft_type])


@pytest.mark.parametrize("peft_type", TUNERS)
def test_an_adapter_of_another_method_is_refused(peft_type):
    adapter = MiSS(values(3, 11)) if peft_type == "LOHA" else a_loha()
    fields = {"r": 3}
    with pytest.raises(TypeError, match="the adapter at q must be"):
        from_adapters({"q": adapter}, fields, TUNERS[peft_type])


def test_the_exact_rotation_is_stored_negated():
    q = values(2, 6)
    fields = {"use_cayley_neumann": False}
    made = from_adapters({"q": OFT(q, cayley)}, fields, TUNERS["OFT"])
    assert np.array_equal(made.stored[f"{P}q.oft_R.weight"], -q)
    assert not made.stored[f"{P}q.oft_R.weight"].flags.writeable
    assert np.array_equal(made.adapters["q"].q, q)


def test_a_high_rank_leaves_both_factors_whole(tmp_path):
    tensors = {f"{P}q.lokr_w1": values(4, 4), f"{P}q.lokr_w2": values(4, 4)}
    fields = {"r": 3, "alpha": 5, "decompose_both": True}
    read = open_adapter(save(tmp_path / "a", tensors, peft_type="LOKR", **fields))
    assert np.array_equal(read.adapters["q"].C, values(4, 4))
    assert read.adapters["q"].scale == 5 / 3


def test_a_product_is_written_as_its_two_factors():
    D = LowRank(values(1, 4), values(5, 1))
    adapter = LoKr(values(2, 3), D, 5.0)
    stored = from_adapters({"q": adapter}, {"r": 1, "alpha": 5}, TUNERS["LOKR"]).stored
    assert np.array_equal(stored[f"{P}q.lokr_w2_a"], D.B)
    assert np.array_equal(stored[f"{P}q.lokr_w2_b"], D.A)
