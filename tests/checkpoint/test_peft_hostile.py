"""Bad adapters: one line that names the file and what is wrong with it."""

import os

import ml_dtypes
import numpy as np
import pytest
from peft_files import P, linear, save, values

from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.peft import PeftAdapter

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
TOKENS = f"{P}emb.token_adapter.trainable_tokens_delta"


def replaced(name, array):
    return {**linear(), name: array}


def without(name):
    return {key: array for key, array in linear().items() if key != name}


def spoiled(value, dtype="float32"):
    factors = linear(dtype=dtype)
    factors[f"{P}q.lora_A.weight"][1, 2] = value
    return factors


A, B = f"{P}q.lora_A.weight", f"{P}q.lora_B.weight"

HOSTILE = {
    "no tensor": ({}, {}, "must hold keys such as"),
    "A without B": (without(B), {}, "module 'q' must have lora_B beside its partner"),
    "B without A": (without(A), {}, "module 'q' must have lora_A beside its partner"),
    "bias without factors": ({f"{P}q.lora_B.bias": values(11)}, {}, "must have lora_A beside"),
    "embedding A without B": (
        {f"{P}e.lora_embedding_A": values(3, 5)},
        {},
        "must have lora_embedding_B beside",
    ),
    "embedding and linear": (
        {f"{P}q.lora_embedding_{x}": values(3, 3) for x in "AB"} | linear(),
        {},
        "must be an embedding or another layer",
    ),
    "embedding with a bias": (
        {f"{P}q.lora_embedding_{x}": values(3, 3) for x in "AB"} | {f"{P}q.lora_B.bias": values(3)},
        {},
        "must be an embedding or another layer",
    ),
    "bias on A": (replaced(f"{P}q.lora_A.bias", values(3)), {}, r"1 other keys: .*lora_A\.bias"),
    "DoRA's magnitude": (
        replaced(f"{P}q.lora_magnitude_vector", values(11)),
        {},
        r"1 other keys: 'base_model\.model\.q\.lora_magnitude_vector'",
    ),
    "an alpha for one layer": (
        replaced(f"{P}q.alpha", values()),
        {},
        r"1 other keys: 'base_model\.model\.q\.alpha'",
    ),
    "two strays": (
        {**linear(), "x": values(2), f"{P}norm.weight": values(2)},
        {},
        r"2 other keys: 'base_model\.model\.norm\.weight', 'x'",
    ),
    "no prefix": ({"q.lora_A.weight": values(3, 7)}, {}, "must hold keys such as"),
    "a bias with bias none": (replaced(f"{P}norm.bias", values(4)), {}, "1 other keys"),
    "a base bias with bias none": (replaced(f"{P}q.base_layer.bias", values(11)), {}, "1 other"),
    "a foreign bias with lora_only": (
        replaced(f"{P}norm.bias", values(4)),
        {"bias": "lora_only"},
        "1 other keys",
    ),
    "a raw state dict's copy": (
        replaced(f"{P}head.modules_to_save.default.weight", values(4, 2)),
        {"modules_to_save": ["head"]},
        "1 other keys",
    ),
    "one base tensor twice": (
        {**linear(), f"{P}q.base_layer.bias": values(11), f"{P}q.bias": values(11)},
        {"bias": "all"},
        "base tensor 'q.bias' must be there once",
    ),
    "rank of the configuration": (linear(), {"r": 4}, r"rank 4 from r of .*got A \[3, 7\]"),
    "rank of a pattern": (
        linear(),
        {"rank_pattern": {"q": 2}},
        r"module 'q' must have A \(2, n\) and B \(m, 2\), rank 2 from rank_pattern 'q'",
    ),
    "A and B of two ranks": ({**linear(), B: values(11, 2)}, {}, r"got A \[3, 7\] and B \[11, 2\]"),
    "A transposed": ({A: values(7, 3), B: values(11, 3)}, {}, r"must have A \(3, n\)"),
    "A a vector": ({**linear(), A: values(3)}, {}, "must have lora_A of two axes or more"),
    "A a scalar": ({**linear(), A: values()}, {}, "must have lora_A of two axes or more"),
    "B a scalar": ({**linear(), B: values()}, {}, r"and B \[\]"),
    "A empty": ({**linear(), A: values(3, 0)}, {}, r"got A \[3, 0\]"),
    "B empty": ({**linear(), B: values(0, 3)}, {}, r"B \[0, 3\]"),
    "kernel without a pointwise B": (
        {A: values(3, 2, 5, 5), B: values(4, 3, 5, 5)},
        {},
        r"B \(m, 3 / groups, 1, \.\.\.\)",
    ),
    "kernel with a matrix B": ({A: values(3, 2, 5), B: values(4, 3)}, {}, r"B \(m, 3 / groups"),
    "groups that do not divide": ({A: values(3, 2, 5), B: values(4, 2, 1)}, {}, "groups, 1"),
    "beta too short": (
        replaced(f"{P}q.lora_B.bias", values(3)),
        {},
        r"lora_B\.bias of shape \[11\], got \[3\]",
    ),
    "beta a matrix": (replaced(f"{P}q.lora_B.bias", values(11, 1)), {}, r"of shape \[11\]"),
    "two adapters": (
        {f"{P}q.lora_A.x.weight": values(3, 7), f"{P}q.lora_B.y.weight": values(11, 3)},
        {},
        r"must hold one adapter, got .*\['x', 'y'\]",
    ),
    "a nested wrapper without parameters": (
        linear("q.base_layer"),
        {},
        "must be in target_parameters to have a nested wrapper",
    ),
    "experts that are no multiple of the rank": (
        linear("mlp.experts", rank=7),
        {"target_parameters": EXPERTS[:1]},
        "must have lora_A of rank . experts rows",
    ),
    "B of other experts": (
        {f"{P}mlp.experts.lora_{x}.weight": values(6, 9) for x in "AB"},
        {"target_parameters": EXPERTS[:1]},
        r"A \(E\*3, n\) and B \(m, 3\*E\)",
    ),
    "more wrappers than parameters": (
        {**linear("mlp.experts", rank=6), **linear("mlp.experts.base_layer", rank=6)},
        {"target_parameters": EXPERTS[:1]},
        "must have lora_A of rank . experts rows",
    ),
    "two parameters of one rank and two alphas": (
        {**linear("mlp.experts", rank=6), **linear("mlp.experts.base_layer", rank=6)},
        {"target_parameters": EXPERTS, "alpha_pattern": {"down_proj": 2}},
        "ranks that tell which parameter the factors belong to",
    ),
    "a parameter with a bias": (
        {**linear("mlp.experts"), f"{P}mlp.experts.lora_B.bias": values(11)},
        {"target_parameters": EXPERTS[:1]},
        r"must have no lora_B\.bias, being of kind parameter",
    ),
    "NaN in A": (spoiled(np.nan), {}, r"tensor .*q\.lora_A\.weight' must be finite"),
    "infinity in A": (spoiled(-np.inf), {}, "must be finite"),
    "NaN in bfloat16": (spoiled(np.nan, ml_dtypes.bfloat16), {}, "must be finite"),
    "infinity in float16": (spoiled(np.inf, "float16"), {}, "must be finite"),
    "integers": (linear(dtype="int8"), {}, "must be of type F64, F32, F16, BF16 .* got I8"),
    "complex numbers": (linear(dtype="complex64"), {}, "got C64"),
    "float8": (linear(dtype=ml_dtypes.float8_e4m3fn), {}, "got F8_E4M3"),
    "token rows without indices": (
        replaced(TOKENS, values(2, 7)),
        {},
        "trainable_token_indices must have rows for 'emb', got None",
    ),
    "token rows for another module": (
        replaced(TOKENS, values(2, 7)),
        {"trainable_token_indices": {"wte": [1, 2]}},
        "trainable_token_indices must have rows for 'emb'",
    ),
    "token rows too few": (
        replaced(TOKENS, values(2, 7)),
        {"trainable_token_indices": [1, 2, 3]},
        r"must be \(3, n\), a row for each token index, got \[2, 7\]",
    ),
    "one token twice": (
        replaced(TOKENS, values(2, 7)),
        {"trainable_token_indices": [4, 4]},
        r"token indices of 'emb' must differ, got \(4, 4\)",
    ),
    "NaN in token rows": (
        replaced(TOKENS, values(2, 7) * np.float32(np.nan)),
        {"trainable_token_indices": [1, 2]},
        "must be finite",
    ),
    "no token rows": (linear(), {"trainable_token_indices": [1]}, "must hold a trainable_tokens"),
    "a pattern beyond the budget": (
        linear("a" * 200),
        {"rank_pattern": {"(" * 15 + "a?){300}" * 15: 3}},
        "must match in 1000 steps",
    ),
    "a path beyond any name": (
        linear("a" * 1001),
        {"rank_pattern": {"a+": 3}},
        "must match a path of at most 1000 characters",
    ),
    "more patterns times modules than can be matched": (
        {**linear("k"), **linear("q")},
        {"rank_pattern": {f"a+{number}": 3 for number in range(50_001)}},
        "must need at most 100000 matches of expressions .* got 50001 for 2 modules",
    ),
    "a name of two lines": (linear("q\nrm"), {"r": 4}, r"module 'q\\nrm'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_adapter_is_refused_in_one_line(tmp_path, name):
    tensors, fields, message = HOSTILE[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        PeftAdapter.open(save(tmp_path / "adapter", tensors, **fields))
    assert "adapter_" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nan_is_found_in_every_block_of_a_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_ref.checkpoint.peft_modules._BLOCK", 4)
    with pytest.raises(CheckpointError, match="must be finite"):
        PeftAdapter.open(save(tmp_path / "a", spoiled(np.nan)))


def test_a_pickle_is_refused_unread(tmp_path):
    directory = save(tmp_path / "a", linear())
    os.rename(directory / "adapter_model.safetensors", directory / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: is a pickle file"):
        PeftAdapter.open(directory)


def test_a_pickle_beside_safetensors_is_left_alone_as_peft_does(tmp_path):
    directory = save(tmp_path / "a", linear())
    (directory / "adapter_model.bin").write_bytes(b"\x80\x04bomb")
    assert len(PeftAdapter.open(directory).modules) == 1


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    directory = save(tmp_path / "a", linear())
    (directory / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{missing}: does not exist"):
        PeftAdapter.open(directory)


def test_a_path_that_is_no_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must be a directory with an adapter in it"):
        PeftAdapter.open(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="must be a directory with an adapter in it"):
        PeftAdapter.open(tmp_path / "file")


def test_more_modules_than_a_process_may_open_files_are_read(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of open files are POSIX")
    tensors = {}
    for number in range(200):
        tensors |= linear(f"layers.{number}.q", inputs=2, outputs=2)
    directory = save(tmp_path / "a", tensors)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        adapter = PeftAdapter.open(directory)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(adapter.modules) == 200
