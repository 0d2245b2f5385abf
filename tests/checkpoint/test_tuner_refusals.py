"""Files of PEFT's methods other than LoRA that PEFT would not have written: how each is refused."""

import numpy as np
import pytest
from peft_files import save, values
from tuner_records import P

from lora_ref.adapters import MiSS
from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.tuners import TUNERS, from_adapters, open_adapter
from lora_ref.checkpoint.tuners.vera import of_inputs


def loha(path="q", rank=3):
    shapes = {"w1_a": (11, rank), "w1_b": (rank, 7), "w2_a": (11, rank), "w2_b": (rank, 7)}
    return {f"{P}{path}.hada_{slot}": values(*shape) for slot, shape in shapes.items()}


@pytest.mark.parametrize("peft_type", ["BOFT", None, 3, ["LOHA"]])
def test_a_method_that_is_not_known_is_refused_by_name(tmp_path, peft_type):
    directory = save(tmp_path / "a", loha(), peft_type=peft_type)
    with pytest.raises(CheckpointError, match="must be one of LORA, ADALORA, LOHA, IA3, LOKR"):
        open_adapter(directory)


def refused(tmp_path, match, tensors, peft_type, **fields):
    directory = save(tmp_path / "a", tensors, peft_type=peft_type, **fields)
    with pytest.raises(CheckpointError, match=match):
        open_adapter(directory)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({f"{P}q.hada_t1": values(3, 3, 2, 2)}, "module 'q' must have hada_w1_a, hada_w1_b"),
        ({f"{P}q.hada_w2_b": values(2, 7)}, r"hada_w2_b of shape \(3, 7\), got \[2, 7\]"),
        ({f"{P}q.hada_w2_a": values(10, 3)}, r"hada_w2_a of shape \(11, 3\), got \[10, 3\]"),
        ({f"{P}q.hada_w1_a": values()}, r"hada_w1_a of shape \(any, 3\), got \[\]"),
        ({f"{P}q.hada_w1_b": values(3)}, r"hada_w1_b of shape \(3, any\), got \[3\]"),
        ({f"{P}q.hada_w1_b": values(3, 0)}, r"hada_w1_b of shape \(3, any\), got \[3, 0\]"),
        ({f"{P}q.hada_w2_a": values(11, 3) + np.inf}, "must be finite"),
        ({f"{P}q.hada_w3_a": values(11, 3)}, "got 1 other keys"),
        ({f"{P}q.hada_w1_a.default": values(11, 3)}, "got 1 other keys"),
        ({"q.hada_w1_a": values(11, 3)}, "got 1 other keys"),
    ],
)
def test_factors_that_peft_would_not_save_are_refused(tmp_path, change, match):
    refused(tmp_path, match, {**loha(), **change}, "LOHA", alpha=5)


def test_a_module_without_all_its_factors_is_refused(tmp_path):
    tensors = loha()
    del tensors[f"{P}q.hada_w2_b"]
    refused(tmp_path, "module 'q' must have hada_w1_a", tensors, "LOHA")


def test_what_is_no_directory_of_an_adapter_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must be a directory with an adapter in it"):
        open_adapter(tmp_path / "a")
    directory = save(tmp_path / "a", loha(), peft_type="LOHA", alpha=5)
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        open_adapter(directory)


def test_patterns_that_would_take_years_are_refused(tmp_path):
    tensors = {}
    for i in range(40):
        tensors |= loha(f"layers.{i}")
    patterns = {f"(a|b)+{i}": 3 for i in range(3000)}
    refused(tmp_path, "must need at most 100000 matches", tensors, "LOHA", rank_pattern=patterns)


def test_a_file_without_any_factor_is_refused(tmp_path):
    refused(tmp_path, f"must hold keys such as {P}PATH.hada_w1_a", {"a": values(2)}, "LOHA")


@pytest.mark.parametrize(
    ("peft_type", "fields", "match"),
    [
        ("LOHA", {"r": 0}, "r must be a rank"),
        ("LOHA", {"alpha": "5"}, "alpha must be a finite number"),
        ("LOHA", {"rank_pattern": {"(?=q)": 3}}, "rank_pattern: "),
        ("LOHA", {"bias": "loha_only"}, "bias must be one of none, all, got 'loha_only'"),
        ("MISS", {"init_weights": "bats"}, "init_weights must be true, false, mini or bat"),
        ("OFT", {"coft": True}, "coft must be false"),
        ("OFT", {"num_cayley_neumann_terms": 2}, "must be an integer from 3 to 1000, got 2"),
        ("OFT", {"num_cayley_neumann_terms": 1001}, "from 3 to 1000, got 1001"),
        ("VERA", {"save_projection": False}, "save_projection must be true"),
    ],
)
def test_settings_that_say_another_map_are_refused(tmp_path, peft_type, fields, match):
    refused(tmp_path, match, loha(), peft_type, **fields)


@pytest.mark.parametrize(
    ("form", "shape", "need"),
    [
        (True, (2, 11), r"\(3, any\)"),
        ("mini", (3, 4), r"\(3, 5\)"),
        ("bat", (4, 3, 2), r"\(any, 3, 3\)"),
        ("bat", (3, 12), r"\(any, 3, 3\)"),
    ],
)
def test_a_block_of_another_shape_is_refused(tmp_path, form, shape, need):
    fields = {"r": 3, "mini_r": 5, "init_weights": form}
    tensors = {f"{P}q.miss_block": values(*shape)}
    refused(tmp_path, f"miss_block of shape {need}", tensors, "MISS", **fields)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (3,), (1, 0)])
def test_a_gain_whose_shape_does_not_tell_its_side_is_refused(tmp_path, shape):
    match = r"must have ia3_l of shape \(m, 1\) or \(1, n\)"
    refused(tmp_path, match, {f"{P}q.ia3_l": values(*shape)}, "IA3")


@pytest.mark.parametrize(("names", "shape"), [(["q"], (7, 1)), ([], (1, 7)), (["v"], (1, 7))])
def test_a_gain_on_the_side_that_the_settings_do_not_say_is_refused(tmp_path, names, shape):
    tensors = {f"{P}q.ia3_l": values(*shape)}
    refused(tmp_path, "if feedforward_modules names it", tensors, "IA3", feedforward_modules=names)


@pytest.mark.parametrize(
    ("slots", "fields", "match"),
    [
        ({"w1": (2, 3), "w2": (6, 4)}, {"r": 3}, r"factors \(3, 3\) and \(4, 4\), as"),
        ({"w1": (2, 3), "w2": (5, 4)}, {"r": 2}, "lokr_w2 a product at rank 2, got lokr_w1 whole"),
        (
            {"w1": (2, 3), "w2_a": (5, 3), "w2_b": (3, 4)},
            {"r": 3},
            "lokr_w1 whole and lokr_w2 whole at rank 3",
        ),
        (
            {"w1": (2, 3), "w2_a": (5, 1), "w2_b": (1, 4)},
            {"r": 1, "decompose_both": True},
            "lokr_w1 a product",
        ),
        ({"w1": (2, 3), "w2_a": (5, 2), "w2_b": (1, 4)}, {"r": 1}, r"w2_a of shape \(any, 1\)"),
        ({"w1": (2, 3), "w2_a": (5, 1)}, {"r": 1}, "must have lokr_w1, lokr_w2_a, lokr_w2_b"),
        ({"w1": (2, 3), "w2_a": (5, 2), "w2_b": (2, 4)}, {"r": 1}, r"of shape \(1, any\)"),
        ({"w1": (2, 3), "w2": (5, 4, 3)}, {"r": 3}, r"lokr_w2 of shape \(any, any\)"),
    ],
)
def test_kronecker_factors_that_peft_would_not_make_are_refused(tmp_path, slots, fields, match):
    tensors = {f"{P}q.lokr_{slot}": values(*shape) for slot, shape in slots.items()}
    refused(tmp_path, match, tensors, "LOKR", **fields)


@pytest.mark.parametrize(
    ("shape", "fields", "match"),
    [
        ((2, 5), {}, r"module 'q' must have arrays that fit: OFT: OFT.q must be"),
        ((2, 6), {"block_share": True}, r"oft_R.weight of shape \(1, any\), got \[2, 6\]"),
        ((6,), {}, r"oft_R.weight of shape \(any, any\), got \[6\]"),
    ],
)
def test_rotations_that_peft_would_not_save_are_refused(tmp_path, shape, fields, match):
    refused(tmp_path, match, {f"{P}q.oft_R.weight": values(*shape)}, "OFT", **fields)


def vera_file(outputs=11, rank=3, columns=7, rows=11):
    return {
        f"{P}q.vera_lambda_b": values(outputs),
        f"{P}q.vera_lambda_d": values(rank),
        "base_model.vera_A": values(rank, columns),
        "base_model.vera_B": values(rows, rank),
    }


def test_a_module_larger_than_the_shared_bases_is_refused(tmp_path):
    match = "at most 10 outputs, the rows of vera_B, got 11"
    refused(tmp_path, match, vera_file(rows=10), "VERA")


def test_a_file_without_the_shared_bases_is_refused(tmp_path):
    tensors = vera_file()
    del tensors["base_model.vera_A"]
    refused(tmp_path, "must hold base_model.vera_A, base_model.vera_B", tensors, "VERA")


@pytest.mark.parametrize("inputs", [0, 8])
def test_a_module_takes_no_more_columns_than_there_are(tmp_path, inputs):
    adapter = open_adapter(save(tmp_path / "a", vera_file(), peft_type="VERA")).adapters["q"]
    assert of_inputs(adapter, 7).A.shape == (3, 7)
    assert of_inputs(adapter, 1).A.shape == (3, 1)
    with pytest.raises(ValueError, match=f"from 1 to 7, the columns of A, got {inputs}"):
        of_inputs(adapter, inputs)


def test_of_inputs_takes_no_other_adapter_than_vera():
    with pytest.raises(TypeError, match="of_inputs: adapter must be VeRA, got MiSS"):
        of_inputs(MiSS(values(3, 5)), 2)


def test_a_field_that_json_does_not_have_is_refused():
    config = {"r": 3, "loftq_config": {"x": float("nan")}}
    with pytest.raises(ValueError, match=r"adapter_config\.json: must be JSON: "):
        from_adapters({"q": MiSS(values(3, 5))}, config, TUNERS["MISS"])


def test_a_vector_with_two_axes_is_refused(tmp_path):
    tensors = {**vera_file(), f"{P}q.vera_lambda_b": values(11, 1)}
    refused(tmp_path, r"vera_lambda_b of shape \(any\), got \[11, 1\]", tensors, "VERA", r=3)
