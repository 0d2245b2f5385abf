"""What `lora-ref rank`, and `verify` beside it, never write over, and updates no number holds."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import arguments, factors, save_adapter, save_model, status_of, three, weights


@pytest.fixture
def adapter(tmp_path):
    return Path(save_adapter(tmp_path / "adapter", factors()))


def files(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def refused(capsys, *command):
    """The one line of a command that must not run."""
    assert status_of(*command) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.count("\n") == 1
    return done.err


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_adapter_that_is_read_gets_no_adapter_inside(adapter, tmp_path, capsys, force):
    before = files(tmp_path)
    said = refused(capsys, "rank", adapter, "--to", 2, "--out", adapter / "sub", *force)
    assert f"must not lie in an input, {adapter}" in said
    (tmp_path / "link").symlink_to(adapter)
    said = refused(capsys, "rank", adapter, "--to", 2, "--out", tmp_path / "link" / "sub", *force)
    assert "must not lie in an input" in said
    assert files(tmp_path) == before


NAMES = ["adapter_model.safetensors", "adapter_config.json", "config.json", "pytorch_model.bin"]


@pytest.mark.parametrize("name", [*NAMES, "model.safetensors.index.json"])
@pytest.mark.parametrize("command", ["rank", "verify"])
def test_a_report_never_replaces_a_file_of_a_model_or_an_adapter(name, command, tmp_path, capsys):
    base, adapter, merged = three(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / name).write_bytes(b"mine")
    (tmp_path / "report.json").symlink_to(other / name)
    given = ["rank", adapter] if command == "rank" else arguments(base, adapter, merged)
    before = files(tmp_path)
    for target in (other / name, tmp_path / "report.json"):
        said = refused(capsys, *given, "--json", target, "--force")
        assert f"{target}: is part of a model or an adapter and is never overwritten" in said
    assert files(tmp_path) == before


@pytest.mark.parametrize("command", ["rank", "verify"])
def test_force_replaces_any_other_file(command, tmp_path):
    base, adapter, merged = three(tmp_path)
    (tmp_path / "report.json").write_bytes(b"of another program")
    given = ["rank", adapter] if command == "rank" else arguments(base, adapter, merged)
    assert status_of(*given, "--json", tmp_path / "report.json", "--force") == 0
    assert (tmp_path / "report.json").read_bytes().startswith(b"{")


def test_a_report_may_have_the_name_of_a_file_that_is_not_there(adapter, tmp_path):
    assert status_of("rank", adapter, "--json", tmp_path / "config.json") == 0


def test_an_existing_output_with_a_directory_among_its_files_is_kept(adapter, tmp_path, capsys):
    out = Path(save_adapter(tmp_path / "out", factors()))
    (out / "README.md").mkdir()
    (out / "README.md" / "thesis.tex").write_text("mine")
    before = files(tmp_path)
    said = refused(capsys, "rank", adapter, "--to", 2, "--out", out, "--force")
    assert "must hold an adapter and nothing else to be overwritten, got ['README.md']" in said
    assert files(tmp_path) == before


def test_a_model_is_never_replaced_by_an_adapter(adapter, tmp_path, capsys):
    model = save_model(tmp_path / "model", weights())
    before = files(tmp_path)
    said = refused(capsys, "rank", adapter, "--to", 2, "--out", model, "--force")
    assert "must hold an adapter and nothing else to be overwritten" in said
    assert files(tmp_path) == before


def huge(directory, A, B, **fields):
    return save_adapter(directory, {"l.q": (A, B)}, **{"r": 4, "lora_alpha": 8, **fields})


@pytest.mark.parametrize(("size", "alpha"), [(1e200, 8), (1e10, 1e308), (1e-200, 8)])
@pytest.mark.parametrize("more", [(), ("--to", 2, "--out", "out"), ("--json", "-")])
def test_an_update_that_no_number_holds_is_refused_by_its_module(
    size, alpha, more, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    at = huge(tmp_path / "a", np.full((4, 7), size), np.full((9, 4), size), lora_alpha=alpha)
    said = refused(capfd, "rank", at, *more)
    assert said.startswith(f"lora-ref: {at}/adapter_model.safetensors: module 'l.q' has an update")
    assert not (tmp_path / "out").exists()


def test_factors_that_leave_the_range_of_their_type_are_refused_and_not_written(tmp_path, capsys):
    A, B = (np.full(shape, 6e4, "float16") for shape in ((4, 64), (64, 4)))
    at = huge(tmp_path / "a", A, B, use_rslora=True)
    said = refused(capsys, "rank", at, "--to", 1, "--out", tmp_path / "out")
    assert "module 'l.q' at rank 1 leaves the range of F16" in said
    assert not (tmp_path / "out").exists()
