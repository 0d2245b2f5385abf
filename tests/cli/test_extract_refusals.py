"""`lora-ref extract`: models that cannot be compared, wrong usage, and targets that are kept."""

import os

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from tuned_models import base_tensors, extract, saved, tuned_tensors


@pytest.fixture
def models(tmp_path):
    return saved(tmp_path, base_tensors())


NAN = np.full((11, 7), np.nan)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"l.0.q.weight": np.ones((7, 11))}, "must have the shape [11, 7]"),
        ({"norm.weight": np.ones(8)}, "must have the shape [7]"),
        ({"l.0.q.weight": None}, "lacks 1: ['l.0.q.weight']"),
        ({"more.weight": np.ones((2, 3))}, "lacks 1: ['more.weight']"),
        ({"l.0.q.weight": NAN}, "'l.0.q.weight' must be finite"),
        ({"l.0.q.weight": NAN + np.inf}, "'l.0.q.weight' must be finite"),
        ({"norm.weight": np.full(7, np.nan)}, "'norm.weight' must be finite"),
        ({"l.0.q.weight": np.ones((11, 7), "int8")}, "where the models differ, got I8"),
        ({"ids": np.arange(4) + 1}, "where the models differ, got I64"),
        ({"l.0.q.weight": np.ones((11, 7), "uint8")}, "where the models differ, got U8"),
    ],
)
def test_models_that_cannot_be_compared_are_refused_in_one_line(tmp_path, capsys, change, said):
    before = base_tensors()
    after = {n: t for n, t in {**tuned_tensors(before), **change}.items() if t is not None}
    models = saved(tmp_path, before, after)
    assert extract(models, tmp_path / "out", "--rank", 2, "--leave-out") == 2
    done = capsys.readouterr()
    assert said in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert not (tmp_path / "out").exists()


def test_the_same_model_twice_gives_no_adapter(tmp_path, capsys):
    models = saved(tmp_path, base_tensors(), base_tensors())
    assert extract(models, tmp_path / "out", "--rank", 2) == 2
    assert "must differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--rank or --energy must be given"),
        (["--rank", "0"], "--rank must be at least 1, got 0"),
        (["--energy", "0"], "--energy must be a share above 0"),
        (["--energy", "nan"], "--energy must be a share above 0"),
        (["--rank", "2", "--alpha", "0"], "--alpha must be finite and not zero"),
        (["--rank", "2", "--alpha", "inf"], "--alpha must be finite and not zero"),
        (["--rank", "2", "--dtype", "int8"], "--dtype must be one of float64"),
        (["--rank", "2", "--targets", "q,,k"], "--targets must be names with commas"),
        (["--rank", "2", "--targets", "zz"], "must have a module of the name 'zz'"),
        (["--rank", "2", "--modules-to-save", "zz"], "must have a module of the name 'zz'"),
        (["--rank", "2", "--json", ""], "--json must be a path"),
        (["--rank", "2", "--json", "out"], "must be different paths"),
        (["--rank", "2", "--json", "missing/a.json"], "its directory does not exist"),
        (["--rank", "2", "--json", "base/config.json", "--force"], "part of the input"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    models, tmp_path, monkeypatch, capsys, options, said
):
    monkeypatch.chdir(tmp_path)
    assert extract(models, "out", *options) == 2
    done = capsys.readouterr()
    assert said in done.err
    assert done.err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["base", "tuned"]


def test_what_exists_is_kept_without_force_and_a_foreign_directory_with_it(
    models, tmp_path, capsys
):
    out = tmp_path / "out"
    assert extract(models, out, "--rank", 2) == 0
    before = (out / "adapter_model.safetensors").read_bytes()
    assert extract(models, out, "--rank", 1) == 2
    assert "exists already" in capsys.readouterr().err
    assert (out / "adapter_model.safetensors").read_bytes() == before
    (out / "thesis.tex").write_text("mine")
    assert extract(models, out, "--rank", 1, "--force") == 2
    assert "got ['thesis.tex']" in capsys.readouterr().err
    (out / "thesis.tex").unlink()
    assert extract(models, out, "--rank", 1, "--force") == 0
    assert extract(models, tmp_path / "base", "--rank", 1, "--force") == 2
    assert extract(models, tmp_path, "--rank", 1, "--force") == 2
    assert "must not be or hold an input" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(0, 7), (11,), (11, 7, 1)])
def test_a_target_without_rows_or_of_other_axes_is_refused(tmp_path, capsys, shape):
    before = base_tensors() | {"l.2.q.weight": np.ones(shape)}
    models = saved(tmp_path, before, tuned_tensors(before))
    assert extract(models, tmp_path / "out", "--rank", 2, "--targets", "q", "--leave-out") == 2
    assert "'l.2.q.weight' must be a matrix of" in capsys.readouterr().err
