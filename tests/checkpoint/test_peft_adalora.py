"""AdaLoRA's files in PEFT's layout, without PEFT: what is written is read, all else refused."""

import json

import numpy as np
import pytest
from peft_files import content

from lora_ref.adapters import AdaLoRA, LoRA
from lora_ref.adapters.adalora import peft_scaling
from lora_ref.checkpoint import (
    CheckpointError,
    SafetensorsFile,
    TensorSpec,
    write_safetensors,
)
from lora_ref.checkpoint.peft import write_adapter
from lora_ref.checkpoint.peft_adalora import read_adalora, write_adalora
from lora_ref.rank.allocation import kept
from lora_ref.testing.checks import assert_trees_close

P = "base_model.model."
FIELDS = {"init_r": 5, "lora_alpha": 3, "total_step": 30}
MASK = {
    "a.q": np.array([True, False, True, True, False]),
    "a.v": np.array([False, True, False, False, False]),
    "b": np.array([False] * 5),
}


def drawn(rng, path, rank=5):
    m, n = {"a.q": (11, 7), "a.v": (6, 6), "b": (4, 9)}[path]
    sizes = ((m, rank), (rank,), (rank, n))
    return AdaLoRA(*(rng.standard_normal(size) for size in sizes), peft_scaling(3, 5))


@pytest.fixture
def adapters(rng):
    return {path: drawn(rng, path) for path in MASK}


def test_what_is_written_is_read(adapters, tmp_path):
    write_adalora(tmp_path / "out", adapters, FIELDS)
    read = read_adalora(tmp_path / "out")
    assert read.mask is None
    assert_trees_close(read.adapters, adapters, "identical", "adapters")
    assert {a.scale for a in read.adapters.values()} == {3 / (5 + 1e-5)}


def test_a_mask_removes_triplets_and_keeps_the_scale(adapters, tmp_path):
    write_adalora(tmp_path / "out", adapters, FIELDS, MASK)
    read = read_adalora(tmp_path / "out")
    expected = {path: kept(adapter, MASK[path]) for path, adapter in adapters.items()}
    assert_trees_close(read.adapters, expected, "identical", "adapters")
    assert [a.lam.shape[0] for a in read.adapters.values()] == [3, 1, 0]
    assert {a.scale for a in read.adapters.values()} == {3 / (5 + 1e-5)}
    assert all(np.array_equal(read.mask[path], MASK[path]) for path in MASK)


def test_what_was_read_is_written_to_the_byte(adapters, tmp_path):
    write_adalora(tmp_path / "a", adapters, FIELDS, MASK)
    read = read_adalora(tmp_path / "a")
    write_adalora(tmp_path / "b", read.adapters, read.fields, read.mask)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_was_read_goes_through_the_writer_of_every_method_to_the_byte(adapters, tmp_path):
    write_adalora(tmp_path / "a", adapters, FIELDS, MASK)
    write_adapter(tmp_path / "b", read_adalora(tmp_path / "a"))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_the_keys_have_no_weight_at_their_end(adapters, tmp_path):
    write_adalora(tmp_path / "out", adapters, FIELDS)
    file = SafetensorsFile.open(tmp_path / "out" / "adapter_model.safetensors")
    wanted = {f"{P}{path}.lora_{x}" for path in MASK for x in "ABE"}
    assert {*file.tensors} == wanted
    assert file.tensors[f"{P}b.lora_E"].spec.shape == (5, 1)


def edited(directory, **fields):
    at = directory / "adapter_config.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), **fields}))
    return directory


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type must be 'ADALORA', got 'LORA'"),
        ({"init_r": 0}, "init_r must be an integer of at least 1, got 0"),
        ({"init_r": True}, "init_r must be an integer of at least 1, got True"),
        ({"init_r": 10**400}, "init_r must be an integer of at least 1, got 1000"),
        ({"rank_pattern": {"b": [True] * 5, "b.lora_E": [False] * 5}}, "every module once"),
        ({"init_r": 4}, "rank_pattern must be an object of lists of init_r = 4 flags"),
        ({"rank_pattern": {"b.lora_E": [1, 0, 0, 0, 0]}}, "rank_pattern must be an object"),
        ({"rank_pattern": [True] * 5}, "rank_pattern must be an object"),
        ({"rank_pattern": {"b.lora_E": [True] * 5}}, "modules must be those of rank_pattern"),
        ({"rank_pattern": None}, r"module 'a.q' must have lora_A \(5, n\), lora_E \(5, 1\)"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0 where there is a mask, got 0"),
        ({"lora_alpha": "3"}, "lora_alpha must be a finite number, got '3'"),
        ({"use_dora": True}, "use_dora asks for DoRA's magnitude"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(adapters, tmp_path, fields, message):
    write_adalora(tmp_path / "out", adapters, FIELDS, MASK)
    with pytest.raises(CheckpointError, match=message):
        read_adalora(edited(tmp_path / "out", **fields))


def test_a_module_without_its_singular_values_is_refused(adapters, tmp_path):
    write_adalora(tmp_path / "out", adapters, FIELDS)
    at = tmp_path / "out" / "adapter_model.safetensors"
    file = SafetensorsFile.open(at)
    rest = {n: np.array(file.tensor(n)) for n in file.tensors if n != f"{P}b.lora_E"}
    given = [(TensorSpec(n, "F64", t.shape), t) for n, t in rest.items()]
    write_safetensors(at, given, {"format": "pt"}, overwrite=True)
    with pytest.raises(CheckpointError, match="module 'b' must have lora_A"):
        read_adalora(tmp_path / "out")


def test_a_key_that_nothing_explains_is_refused(adapters, tmp_path):
    write_adalora(tmp_path / "out", adapters, FIELDS)
    at = tmp_path / "out" / "adapter_model.safetensors"
    file = SafetensorsFile.open(at)
    tensors = {n: np.array(file.tensor(n)) for n in file.tensors}
    tensors[f"{P}b.ranknum"] = np.ones(1)
    given = [(TensorSpec(n, "F64", t.shape), t) for n, t in tensors.items()]
    write_safetensors(at, given, {"format": "pt"}, overwrite=True)
    with pytest.raises(CheckpointError, match=r"got 1 other keys: .*b.ranknum"):
        read_adalora(tmp_path / "out")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a: LoRA(a.Q, a.P, a.scale), TypeError, "at b must be AdaLoRA, got LoRA"),
        (lambda a: AdaLoRA(a.P, a.lam, a.Q, 1.0), ValueError, "scale of b must be 0.59.*got 1.0"),
        (
            lambda a: kept(a, np.arange(5) < 2),
            ValueError,
            r"rank of b must be init_r = 5 or the 0 triplets of mask, got 2",
        ),
    ],
)
def test_an_adapter_without_a_place_in_the_layout_is_refused(
    adapters, tmp_path, make, error, message
):
    with pytest.raises(error, match=message):
        write_adalora(tmp_path / "out", {**adapters, "b": make(adapters["b"])}, FIELDS, MASK)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({}, ValueError, r"mask must be of the modules of adapters, got \[\] and \['a.q'"),
        ({**MASK, "c": MASK["b"]}, ValueError, "mask must be of the modules of adapters"),
        ({**MASK, "b": MASK["b"][:4]}, CheckpointError, "lists of init_r = 5 flags"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(adapters, tmp_path, mask, error, message):
    with pytest.raises(error, match=message):
        write_adalora(tmp_path / "out", adapters, FIELDS, mask)
    assert not (tmp_path / "out").exists()


def test_what_would_be_refused_when_it_is_read_is_not_written(adapters, tmp_path):
    b = adapters["b"]
    spoiled = AdaLoRA(b.P, b.lam * np.nan, b.Q, b.scale)
    for given, fields, message in (
        ({**adapters, "b": spoiled}, {}, "'base_model.model.b.lora_E' must be finite"),
        ({}, {}, "must hold keys such as base_model.model.PATH.lora_A"),
        (adapters, {"orth_reg_weight": float("nan")}, "must be JSON"),
    ):
        with pytest.raises(CheckpointError, match=message):
            write_adalora(tmp_path / "out", given, {**FIELDS, **fields})
    assert not (tmp_path / "out").exists()


def test_a_mask_is_written_in_the_order_of_its_keys(rng, tmp_path):
    modules = {path: drawn(rng, "a.q") for path in ("a.q", "a")}
    mask = dict.fromkeys(modules, np.array([True] * 5))
    write_adalora(tmp_path / "out", modules, FIELDS, mask)
    fields = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert [*fields["rank_pattern"]] == ["a.lora_E", "a.q.lora_E"]


@pytest.mark.parametrize("total_step", [None, 0, "30"])
def test_a_configuration_that_peft_would_not_construct_is_not_written(
    adapters, tmp_path, total_step
):
    with pytest.raises(ValueError, match="total_step of fields must be at least 1, got"):
        write_adalora(tmp_path / "out", adapters, {**FIELDS, "total_step": total_step})


def test_the_smallest_settings_are_settings(rng, tmp_path):
    a = AdaLoRA(rng.standard_normal((4, 1)), np.ones(1), np.ones((1, 3)), peft_scaling(0.5, 1))
    fields = {"init_r": 1, "lora_alpha": 0.5, "total_step": 1}
    write_adalora(tmp_path / "out", {"q": a}, fields, {"q": np.array([True])})
    assert_trees_close(read_adalora(tmp_path / "out").adapters["q"], a, "identical", "q")


def test_settings_that_are_left_out_are_pefts(rng, tmp_path):
    sizes = ((4, 12), (12,), (12, 3))
    a = AdaLoRA(*(rng.standard_normal(size) for size in sizes), 8 / (12 + 1e-5))
    write_adalora(tmp_path / "out", {"q": a}, {"total_step": 30})
    assert read_adalora(tmp_path / "out").adapters["q"].scale == a.scale


def test_what_is_replaced_is_written_where_peft_has_it_and_read_by_its_own_name(adapters, tmp_path):
    replaced = {"head.weight": np.ones((2, 3)), "b.bias": np.arange(4.0)}
    fields = {**FIELDS, "modules_to_save": ["head"], "bias": "lora_only"}
    write_adalora(tmp_path / "out", adapters, fields, replaced=replaced)
    file = SafetensorsFile.open(tmp_path / "out" / "adapter_model.safetensors")
    assert {f"{P}head.weight", f"{P}b.base_layer.bias"} < {*file.tensors}
    read = read_adalora(tmp_path / "out").replaced
    assert {name: t.tolist() for name, t in read.items()} == {
        name: t.tolist() for name, t in replaced.items()
    }


def test_the_configuration_is_laid_out_as_peft_does(adapters, tmp_path):
    write_adalora(tmp_path / "out", adapters, {"total_step": 30, "lora_alpha": 3, "init_r": 5})
    assert (tmp_path / "out" / "adapter_config.json").read_text().splitlines() == [
        "{",
        '  "init_r": 5,',
        '  "lora_alpha": 3,',
        '  "peft_type": "ADALORA",',
        '  "rank_pattern": null,',
        '  "target_modules": [',
        '    "a.q",',
        '    "a.v",',
        '    "b"',
        "  ],",
        '  "total_step": 30',
        "}",
    ]


def test_a_directory_that_holds_something_else_is_never_overwritten(adapters, tmp_path):
    out = tmp_path / "out"
    write_adalora(out, adapters, FIELDS)
    write_adalora(out, adapters, FIELDS, overwrite=True)
    (out / "precious").write_text("mine")
    with pytest.raises(CheckpointError, match="must hold an adapter and nothing else"):
        write_adalora(out, adapters, FIELDS, overwrite=True)
    assert (out / "precious").read_text() == "mine"


def test_what_is_printed_of_a_file_holds_no_header_and_no_stored_arrays(adapters, tmp_path):
    write_adalora(tmp_path / "out", adapters, FIELDS)
    said = repr(read_adalora(tmp_path / "out"))
    assert not any(f"{name}=" in said for name in ("stored", "specs", "header"))
