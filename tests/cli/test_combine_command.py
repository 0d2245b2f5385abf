"""`lora-ref combine`: the table, what is said of each method, and refusals."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import LAYERS, factors, save_adapter, status_of

from lora_ref.checkpoint.combination import METHODS
from lora_ref.checkpoint.peft import PeftAdapter
from lora_ref.testing.tolerance import TOLERANCE, relative_error

ALPHA_OF_B = 7
NEEDS = {m: ["--density", "0.6"] for m in METHODS if m.startswith(("ties", "dare", "magnitude"))}


def combine(pair, out, *more):
    return status_of("combine", *pair, "--out", out, *more)


def second():
    """Other factors than those of the first, and one layer less."""
    swapped = {layer: (-A[::-1], B[:, ::-1] / 2) for layer, (A, B) in factors().items()}
    return {
        layer: (A + np.float32(0.5), B - np.float32(0.25))
        for layer, (A, B) in swapped.items()
        if layer != "layer.1.q"
    }


@pytest.fixture
def pair(tmp_path):
    first = save_adapter(tmp_path / "a", factors())
    return first, save_adapter(tmp_path / "b", second(), lora_alpha=ALPHA_OF_B, use_rslora=True)


def sums(w, v):
    """w ΔW of the first and v ΔW of the second."""
    found = {layer: w * 5 / 3 * B.astype("float64") @ A for layer, (A, B) in factors().items()}
    for layer, (A, B) in second().items():
        found[layer] = found[layer] + v * ALPHA_OF_B / 3**0.5 * B.astype("float64") @ A
    return found


def updates(directory):
    modules = PeftAdapter.open(directory).modules
    return {m.path: m.scale * m.B.astype("float64") @ m.A.astype("float64") for m in modules}


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.split("\n\n")[0].splitlines()}


@pytest.mark.parametrize("weights", [["0.7", "-0.3"], ["0.7,-0.3"], ["-0.3", "0.7"], ["1e-1", "2"]])
def test_the_default_is_the_exact_sum_with_the_weights_in_either_way(
    pair, tmp_path, capsys, weights
):
    assert combine(pair, tmp_path / "out", "--weights", *weights) == 0
    wanted = sums(*map(float, ",".join(weights).split(",")))
    found = updates(tmp_path / "out")
    assert set(found) == set(wanted)
    for layer, update in found.items():
        assert relative_error(update, wanted[layer]) < 1e-6
    table = rows(capsys.readouterr().out)
    assert table["layer.0.q"][:6] == ["11", "×", "7", "3+3", "6", "100.00%"]
    assert table["layer.1.q"][:6] == ["11", "×", "7", "3+-", "3", "100.00%"]


def test_weights_may_stand_before_the_adapters(pair, tmp_path):
    more = ["--weights", "0.7", "-0.3", *pair, "--out", tmp_path / "out"]
    assert status_of("combine", *more) == 0
    for layer, update in updates(tmp_path / "out").items():
        assert relative_error(update, sums(0.7, -0.3)[layer]) < 1e-6


def test_the_table_says_what_the_truncation_loses(pair, tmp_path, capsys):
    assert (
        combine(pair, tmp_path / "out", "--weights", "0.7", "0.3", "--method", "svd", "--rank", 2)
        == 0
    )
    out = capsys.readouterr().out
    table, found, kept = rows(out), updates(tmp_path / "out"), {}
    for layer, total in sums(0.7, 0.3).items():
        U, S, Vt = np.linalg.svd(total, full_matrices=False)
        assert relative_error(found[layer], (U[:, :2] * S[:2]) @ Vt[:2]) < 1e-6
        kept[layer] = (S[:2] ** 2).sum() / (S**2).sum()
        error = f"{(1 - kept[layer]) ** 0.5:.2%}"
        assert table[layer][4:] == ["2", f"{kept[layer]:.2%}", error, error]
    worst = min(kept, key=kept.get)
    assert f"least kept: {kept[worst]:.2%} of the combination of {worst}" in out


def test_the_cross_terms_of_linear_are_said_aloud(pair, tmp_path, capsys):
    assert combine(pair, tmp_path / "out", "--weights", "0.7", "0.3", "--method", "linear") == 0
    out = capsys.readouterr().out
    found = updates(tmp_path / "out")
    off = {layer: relative_error(found[layer], total) for layer, total in sums(0.7, 0.3).items()}
    assert off["layer.0.q"] > 0.1
    assert rows(out)["layer.0.q"][-1] == f"{off['layer.0.q']:.2%}"
    assert "linear combines A and B apart: off the sum Σ w ΔW by cross terms, " in out
    assert f"{max(off.values()):.2%} at the most" in out


def test_modules_of_one_adapter_only_are_said(pair, tmp_path, capsys):
    assert combine(pair, tmp_path / "out", "--weights", "1", "1") == 0
    assert "note: 1 of 3 not in every adapter: " in capsys.readouterr().out
    assert combine((pair[0], pair[0]), tmp_path / "both", "--weights", "1", "1") == 0
    assert "not in every adapter" not in capsys.readouterr().out


def test_different_base_models_are_said(tmp_path, capsys):
    pair = [
        save_adapter(tmp_path / n, factors(), base_model_name_or_path=f"models/{n}") for n in "ab"
    ]
    assert combine(pair, tmp_path / "out", "--weights", "1", "1") == 0
    assert "different base models: models/a, models/b" in capsys.readouterr().out
    assert PeftAdapter.open(tmp_path / "out").config.base_model_name_or_path == "models/a"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_the_same_file_each_time_and_its_json(pair, tmp_path, capsys, method):
    more = ["--weights", "0.7", "0.3", "--method", method, *NEEDS.get(method, [])]
    for name in ("one", "two"):
        assert combine(pair, tmp_path / name, *more, "--json", tmp_path / f"{name}.json") == 0
    one, two = (tmp_path / name / "adapter_model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    fields = json.loads((tmp_path / "one.json").read_text())
    assert (fields["schema"], fields["schema_version"]) == ("lora-ref/combine", 1)
    assert fields["options"]["weights"] == [0.7, 0.3]
    assert {row["name"] for row in fields["modules"]} == set(LAYERS)
    found = updates(tmp_path / "one")
    for row in fields["modules"]:
        off = relative_error(found[row["name"]], sums(0.7, 0.3)[row["name"]])
        assert row["off"] == pytest.approx(off, rel=1e-6, abs=1e-9)
        assert row["ranks"] == ([3, 0] if row["name"] == "layer.1.q" else [3, 3])


def test_the_seed_decides_what_dare_drops(pair, tmp_path):
    more = ["--weights", "0.7", "0.3", "--method", "dare_linear", "--density", "0.6"]
    found = []
    for i, seed in enumerate(([], ["--seed", 0], ["--seed", 1])):
        assert combine(pair, tmp_path / f"{i}", *more, *seed) == 0
        found.append((tmp_path / f"{i}" / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


def test_signs_by_number_are_another_adapter_than_signs_by_total(pair, tmp_path):
    more = ["--weights", "0.7", "0.3", "--method", "ties_svd", "--density", "1"]
    for name in ("total", "frequency"):
        assert combine(pair, tmp_path / name, *more, "--majority-sign", name) == 0
    one, two = (updates(tmp_path / name)["layer.0.q"] for name in ("total", "frequency"))
    assert relative_error(one, two) > TOLERANCE["float32"]


def test_the_type_of_the_factors_may_be_asked_for(pair, tmp_path):
    assert combine(pair, tmp_path / "out", "--weights", "1", "1", "--dtype", "float16") == 0
    assert {spec.dtype for spec in PeftAdapter.open(tmp_path / "out").specs} == {"F16"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", "1"], "--weights must be 2, one for each adapter, got 1"),
        (["--weights", "1", "2", "3"], "--weights must be 2, one for each adapter, got 3"),
        (["--weights", "a,b"], "--weights must be numbers, got 'a,b'"),
        (["--weights", "1", "nan"], "--weights must be finite"),
        (["--weights", "1", "1", "--method", "mean"], "--method must be one of cat, svd"),
        (["--weights", "1", "1", "--rank", "2"], "--rank is for a method that truncates, cat does"),
        (["--weights", "1", "1", "--method", "svd", "--rank", "0"], "--rank must be at least 1"),
        (["--weights", "1", "1", "--density", "0.5"], "--density is for a method that prunes"),
        (["--weights", "1", "1", "--method", "ties"], "--density, the share of entries to keep"),
        (
            ["--weights", "1", "1", "--method", "ties", "--density", "0"],
            "--density must be above 0 and at most 1, got 0.0",
        ),
        (["--weights", "1", "1", "--majority-sign", "total"], "is for a method that votes"),
        (
            ["--weights", "1", "1", "--method", "ties", "--density", "1", "--majority-sign", "x"],
            "--majority-sign must be total or frequency",
        ),
        (["--weights", "1", "1", "--seed", "1"], "is for a method that draws random numbers"),
        (
            ["--weights", "1", "1", "--method", "dare_ties", "--density", "1", "--seed", "-1"],
            "--seed must be at least 0",
        ),
        (["--weights", "1", "1", "--dtype", "int8"], "--dtype must be one of float64"),
        (["--weights", "1", "1", "--json", "missing/a.json"], "its directory does not exist"),
        (
            ["--weights", "1", "1", "--json", "a/adapter_config.json", "--force"],
            "part of the input",
        ),
        (["x", "--weights", "1", "1", "1"], "must be a directory with an adapter in it"),
        (["", "--weights", "1", "1", "1"], "ADAPTER must be a path, got an empty one"),
        ([], "Missing option '--weights'"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    pair, tmp_path, monkeypatch, capsys, options, said
):
    monkeypatch.chdir(tmp_path)
    assert combine(pair, "out", *options) == 2
    done = capsys.readouterr()
    assert said in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_another_tuner_is_refused(pair, tmp_path, capsys):
    other = save_adapter(tmp_path / "c", factors(), peft_type="LOHA")
    assert combine((pair[0], other), tmp_path / "out", "--weights", "1", "1") == 2
    said = capsys.readouterr().err
    assert "peft_type must be 'LORA'" in said
    assert said.count("\n") == 1


def test_what_exists_is_kept_without_force_and_inputs_always(pair, tmp_path, capsys):
    out = tmp_path / "out"
    assert combine(pair, out, "--weights", "1", "1") == 0
    before = (out / "adapter_model.safetensors").read_bytes()
    assert combine(pair, out, "--weights", "1", "2") == 2
    assert "exists already" in capsys.readouterr().err
    assert (out / "adapter_model.safetensors").read_bytes() == before
    assert combine(pair, out, "--weights", "1", "2", "--force") == 0
    assert combine(pair, tmp_path / "b", "--weights", "1", "1", "--force") == 2
    assert "must not be or hold an input" in capsys.readouterr().err


def test_the_output_on_the_page_is_that_of_the_recorded_adapters(tmp_path, monkeypatch, capsys):
    root = Path(__file__).parents[2]
    for name, recorded in (("ONE", "qv"), ("TWO", "rslora")):
        shutil.copytree(root / "tests" / "vectors" / "minilm" / recorded, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "combine.md").read_text("utf-8")
    shown = page.split("--rank 6 --out DIR\n")[1].split("```")[0].splitlines()
    more = ["--weights", "0.7", "0.3", "--method", "svd", "--rank", 6]
    assert combine(("ONE", "TWO"), "DIR", *more) == 0
    printed = capsys.readouterr().out
    # Errors of 4e-08 are rounding, which libraries of linear algebra do each in their way.
    for line in shown:
        assert line == "..." or line.split("4e-08")[0].removesuffix(" ...").rstrip() in printed
    assert len(printed.splitlines()) == 1 + 20 + 4
