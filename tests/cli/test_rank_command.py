"""`lora-ref rank`: the table, what it writes, and refusals."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import LAYERS, RANK, SCALE, factors, save_adapter, status_of

from lora_ref.checkpoint.peft import PeftAdapter
from lora_ref.checkpoint.spectra import spectra
from lora_ref.testing.tolerance import relative_error

MINILM = Path(__file__).parents[1] / "vectors" / "minilm"
NAMES = sorted(p.name for p in MINILM.iterdir() if p.is_dir())


def rank(*args):
    return status_of("rank", *args)


@pytest.fixture
def adapter(tmp_path):
    return Path(save_adapter(tmp_path / "adapter", factors()))


def rows(text):
    """The cells of the table by the first one."""
    table = text.split("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in table}


def test_the_table_has_the_ranks_of_every_module(adapter, capsys):
    assert rank(adapter) == 0
    out = capsys.readouterr().out
    found = rows(out)
    assert list(found) == ["module", *LAYERS]
    for layer in spectra(PeftAdapter.open(adapter)):
        m = layer.measures
        figures = [f"{m.effective:.2f}", f"{m.stable:.2f}", str(m.energy90), str(m.energy99)]
        assert found[layer.name] == ["11", "×", "7", "3", "3", *figures]
    assert "keeps 99% of all updates together" in out


def test_the_rank_asked_for_is_shown_with_what_it_keeps(adapter, capsys):
    assert rank(adapter, "--to", 2) == 0
    found = rows(capsys.readouterr().out)
    assert found["module"][-4:] == ["‖ΔW‖²", "kept", "at", "2"]
    for layer in LAYERS:
        A, B = (t.astype("float64") for t in factors()[layer])
        squares = np.linalg.svd(B @ A, compute_uv=False) ** 2
        assert found[layer][-1] == f"{squares[:2].sum() / squares.sum():.2%}"


def test_an_embedding_has_the_shape_of_its_weight_a_row_for_each_token(tmp_path, capsys):
    prefix = "base_model.model.embed.lora_embedding"
    more = {f"{prefix}_A": np.eye(3, 13, dtype="float32"), f"{prefix}_B": np.eye(5, 3, dtype="f4")}
    assert rank(save_adapter(tmp_path / "a", factors(), more), "--to", 2) == 0
    found = rows(capsys.readouterr().out)
    assert found["embed"][:5] == ["13", "×", "5", "3", "3"]
    assert found["layer.0.q"][:3] == ["11", "×", "7"]


def test_the_spectrum_is_drawn_with_a_bar_for_each_direction(tmp_path, capsys):
    A, B = np.eye(4, 7, dtype="float32"), np.eye(11, 4, dtype="float32")
    lora = {"layer.0.q": (A, B * np.array([1, 0.5, 0.01, 0], "float32"))}
    lora["layer.1.q"] = (A, 0 * B)
    assert rank(save_adapter(tmp_path / "a", lora, r=4), "--plot") == 0
    found = rows(capsys.readouterr().out)
    assert found["module"][-1] == "spectrum"
    assert (found["layer.0.q"][-1], found["layer.1.q"][-1]) == ("█▅▁·", "····")
    assert found["layer.1.q"][4:8] == ["0", "0.00", "0.00", "0"]


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_adapter_of_the_real_model_has_its_table(name, capsys):
    assert rank(MINILM / name, "--plot", "--to", 2) == 0
    done = capsys.readouterr()
    adapter = PeftAdapter.open(MINILM / name)
    found = rows(done.out)
    assert list(found)[1:] == [module.path for module in adapter.modules]
    for module in adapter.modules:
        assert found[module.path][3] == found[module.path][4] == str(module.rank)
    assert done.err == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_adapter_of_the_real_model_is_written_at_a_lower_rank(name, tmp_path, capsys):
    out = tmp_path / "out"
    assert rank(MINILM / name, "--to", 2, "--out", out) == 0
    before, after = PeftAdapter.open(MINILM / name), PeftAdapter.open(out)
    assert set(before.stored) == set(after.stored)
    for old, new in zip(before.modules, after.modules, strict=True):
        whole, cut = (m.scale * m.B.astype("float64") @ m.A.astype("float64") for m in (old, new))
        U, S, Vt = np.linalg.svd(whole, full_matrices=False)
        assert new.rank == min(old.rank, 2)
        assert new.A.dtype == old.A.dtype
        wanted = (U[:, :2] * S[:2]) @ Vt[:2]
        assert relative_error(cut, wanted) < (1e-2 if "bf16" in name else 1e-6)
    assert "modules cut to 2" in capsys.readouterr().out


def test_the_json_has_every_figure_and_is_the_same_each_time(adapter, tmp_path, capsys):
    assert rank(adapter, "--json", "-", "--to", 2, "--out", tmp_path / "out") == 0
    done = capsys.readouterr()
    fields = json.loads(done.out)
    assert fields["schema"] == "lora-ref/rank"
    assert fields["adapter"] == {
        "r": 3, "lora_alpha": 5, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}
    }  # fmt: skip
    for layer, found in zip(LAYERS, fields["layers"], strict=True):
        A, B = (t.astype("float64") for t in factors()[layer])
        S = np.linalg.svd(SCALE * B @ A, compute_uv=False)[:RANK]
        assert found["name"] == layer
        assert found["shape"] == [11, 7]
        assert (found["r"], found["scale"], found["numerical_rank"]) == (3, SCALE, 3)
        assert found["spectrum"] == pytest.approx(S)
        assert found["retained"] == pytest.approx(np.cumsum(S**2) / (S**2).sum())
        assert found["stable_rank"] == pytest.approx((S**2).sum() / S[0] ** 2)
        assert set(found["energy_rank"]) == {"0.9", "0.99"}
    assert fields["suggestion"]["share"] == 0.99
    assert set(fields["suggestion"]["ranks"]) == set(LAYERS)
    written = fields["reranked"]
    assert (written["rank"], written["out"]) == (2, str(tmp_path / "out"))
    assert [m["name"] for m in written["modules"]] == list(LAYERS)
    for module, found in zip(written["modules"], fields["layers"], strict=True):
        assert module["retained"] == pytest.approx(found["retained"][1])
        assert module["error"] == pytest.approx((1 - module["retained"]) ** 0.5, rel=1e-5)
    assert rank(adapter, "--json", "-", "--to", 2, "--out", tmp_path / "out", "--force") == 0
    assert capsys.readouterr().out == done.out
    assert rank(adapter, "--json", tmp_path / "report.json") == 0
    assert json.loads((tmp_path / "report.json").read_text())["reranked"] is None


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_the_picture_is_of_the_format_that_its_name_says(adapter, tmp_path, capsys, suffix, begins):
    pytest.importorskip("matplotlib", reason="matplotlib is in the [plot] extra")
    assert rank(adapter, "--picture", tmp_path / f"spectra{suffix}") == 0
    assert (tmp_path / f"spectra{suffix}").read_bytes().startswith(begins)
    assert "written: " in capsys.readouterr().err


def test_what_was_left_is_said_and_so_is_what_was_lost_most(tmp_path, capsys):
    lora = factors()
    A, B = lora["layer.1.q"]
    lora["layer.1.q"] = A[:1], B[:, :1]
    adapter = save_adapter(tmp_path / "adapter", lora, rank_pattern={"layer.1.q": 1})
    assert rank(adapter, "--to", 2, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "2 of 3 modules cut to 2" in out
    assert "1 left as they are, of a rank not above 2" in out
    kept = {}
    for layer in ("layer.0.q", "layer.2.q"):
        squares = np.linalg.svd(factors()[layer][1] @ factors()[layer][0], compute_uv=False) ** 2
        kept[layer] = squares[:2].sum() / squares.sum()
    worst = min(kept, key=kept.get)
    assert f"least kept: {kept[worst]:.2%} of ‖ΔW‖² of {worst}" in out
    error = (1 - kept[worst]) ** 0.5
    assert f"largest error, as stored: {error:.2%} of ‖ΔW‖ of {worst}" in out


def test_an_adapter_on_a_changed_base_is_measured_with_a_note_and_not_cut(tmp_path, capsys):
    adapter = save_adapter(tmp_path / "adapter", factors(), init_lora_weights="olora")
    assert rank(adapter) == 0
    assert "initialisation (olora) changed" in capsys.readouterr().out
    assert rank(adapter, "--to", 2, "--out", tmp_path / "out") == 2
    assert "converted to a plain LoRA" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["--out", "--json", "--picture"])
def test_what_exists_is_kept_without_force(adapter, tmp_path, capsys, kind):
    target = tmp_path / "there.png"
    if kind == "--out":
        save_adapter(target, factors())
    else:
        target.write_bytes(b"mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert rank(adapter, "--to", 2, kind, target) == 2
    done = capsys.readouterr()
    assert "exists already and is not overwritten" in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert rank(adapter, "--to", 2, kind, target, "--force") == 0


@pytest.mark.parametrize("target", ["adapter", "."])
def test_the_input_is_never_the_target(adapter, tmp_path, capsys, target):
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert rank(adapter, "--to", 2, "--out", tmp_path / target, "--force") == 2
    assert "must not be or hold an input" in capsys.readouterr().err
    report = adapter / "adapter_config.json"
    assert rank(adapter, "--json", report, "--force") == 2
    assert "part of the input" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_directory_with_something_else_in_it_is_never_replaced(adapter, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    assert rank(adapter, "--to", 2, "--out", out, "--force") == 2
    assert os.listdir(out) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "x"], "--out needs --to"),
        (["--to", "0"], "--to must be a rank of at least 1, got 0"),
        (["--to", "2", "--out", ""], "--out must be a path, got an empty one"),
        (["--picture", "a.txt"], "--picture must end in .png, .svg, .pdf"),
        (["--json", "a.png", "--picture", "a.png"], "must be different paths"),
        (["--json", "missing/a.json"], "its directory does not exist"),
        (["--json", "."], "is a directory, not a file"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    adapter, tmp_path, monkeypatch, capsys, options, said
):
    monkeypatch.chdir(tmp_path)
    assert rank(adapter, *options) == 2
    done = capsys.readouterr()
    assert said in done.err
    assert done.err.count("\n") == 1
    assert os.listdir(tmp_path) == ["adapter"]


def test_what_is_no_adapter_is_refused(tmp_path, capsys):
    assert rank(tmp_path / "nothing") == 2
    assert "must be a directory with an adapter in it" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(adapter, tmp_path, monkeypatch, capsys):
    import sys

    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert rank(adapter, "--picture", tmp_path / "a.png") == 2
    assert "pip install 'lora-ref[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
