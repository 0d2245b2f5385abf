"""`lora-ref extract` of embeddings: their own factors if they are targeted, else refused."""

import json

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from tuned_models import base_tensors, extract, rows, saved, tuned_tensors

from lora_ref.adapters import EmbeddingLoRA, FanInFanOut, LoRA
from lora_ref.checkpoint import SafetensorsFile, open_adapter
from lora_ref.testing.tolerance import assert_close, relative_error

NAME = "embed_tokens"
TARGETS = ["--targets", f"q,l.0.k,{NAME}"]


@pytest.fixture
def before():
    return base_tensors()


@pytest.fixture
def after(before):
    changed = before[f"{NAME}.weight"] + np.random.default_rng(4).normal(size=(5, 7))
    return tuned_tensors(before) | {f"{NAME}.weight": changed}


@pytest.fixture
def models(tmp_path, before, after):
    return saved(tmp_path, before, after)


def test_a_targeted_embedding_has_an_embeddings_factors(models, before, after, tmp_path):
    assert extract(models, tmp_path / "out", "--rank", 99, *TARGETS) == 0
    names = SafetensorsFile.open(tmp_path / "out" / "adapter_model.safetensors").tensors
    stored = {name: t.shape for name, t in names.items() if NAME in name}
    assert stored == {
        f"base_model.model.{NAME}.lora_embedding_A": (5, 5),
        f"base_model.model.{NAME}.lora_embedding_B": (7, 5),
    }
    adapter = open_adapter(tmp_path / "out").adapters[NAME]
    assert isinstance(adapter, EmbeddingLoRA)
    E, E_tuned = (model[f"{NAME}.weight"] for model in (before, after))
    assert_close(adapter.merge(E), E_tuned, "routes", "E'")


@pytest.mark.parametrize("alpha", [[], ["--alpha", -3]])
def test_an_embedding_of_a_lower_rank_is_the_nearest(models, before, after, tmp_path, alpha):
    assert extract(models, tmp_path / "out", "--rank", 2, *TARGETS, *alpha) == 0
    adapter = open_adapter(tmp_path / "out").adapters[NAME]
    E, E_tuned = (model[f"{NAME}.weight"] for model in (before, after))
    U, S, Vt = np.linalg.svd(E_tuned - E, full_matrices=False)
    assert_close(adapter.merge(E) - E, (U[:, :2] * S[:2]) @ Vt[:2], "routes", "ΔE")
    assert adapter.scale == (-3 / 2 if alpha else 1.0)


def test_the_table_has_the_embedding_as_the_model_stores_it(models, tmp_path, capsys):
    assert extract(models, tmp_path / "out", "--rank", 2, *TARGETS) == 0
    said = capsys.readouterr().out
    assert rows(said)[NAME][:4] == ["5", "×", "7", "2"]
    assert f"note: {NAME} was taken for an embedding, by its name" in said
    assert "PEFT updates no layer tied to it" in said
    assert "LEFT OUT" not in said


def test_weights_stored_inputs_first_leave_the_embedding_as_it_is(before, after, tmp_path):
    models = saved(tmp_path, before, after)
    assert extract(models, tmp_path / "out", "--rank", 99, *TARGETS, "--fan-in-fan-out") == 0
    adapters = open_adapter(tmp_path / "out").adapters
    assert isinstance(adapters["l.0.q"], FanInFanOut)
    for name in (NAME, "l.0.q"):
        merged = adapters[name].merge(before[f"{name}.weight"])
        assert_close(merged, after[f"{name}.weight"], "routes", name)


@pytest.mark.parametrize("more", [["--targets", f"q,l.0.k,{NAME}"], []])
def test_a_linear_layer_of_such_a_name_is_said_to_be_one(
    models, before, after, tmp_path, capsys, more
):
    assert extract(models, tmp_path / "out", "--rank", 99, *more, "--linear", NAME) == 0
    adapter = open_adapter(tmp_path / "out").adapters[NAME]
    assert isinstance(adapter, LoRA)
    E, E_tuned = (model[f"{NAME}.weight"] for model in (before, after))
    assert relative_error(adapter.merge(E), E_tuned) < 1e-12
    assert "note:" not in capsys.readouterr().out


def test_a_linear_layer_that_is_not_in_the_model_is_refused(models, tmp_path, capsys):
    assert extract(models, tmp_path / "out", "--rank", 2, "--linear", "zz") == 2
    assert "must have a module of the name 'zz'" in capsys.readouterr().err


@pytest.mark.parametrize("leave_out", [[], ["--leave-out"]])
def test_what_is_refused_before_the_work_is_what_the_work_would_leave(
    before, after, tmp_path, capsys, leave_out
):
    after = after | {f"{NAME}.bias": np.ones(3)}
    before = before | {f"{NAME}.bias": np.zeros(3)}
    models = saved(tmp_path, before, after)
    more = [*TARGETS, *leave_out, "--json", "-"]
    status = extract(models, tmp_path / "out", "--rank", 2, *more)
    said = capsys.readouterr()
    if leave_out:
        assert status == 0
        assert [*json.loads(said.out)["left_out"]] == [f"{NAME}.bias"]
    else:
        assert status == 2
        assert f"1 tensor has changed that the factors do not hold: {NAME}.bias (" in said.err
