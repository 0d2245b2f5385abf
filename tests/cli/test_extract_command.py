"""`lora-ref extract`: the factors by NumPy's SVD, what is left out and said, and refusals."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import BFLOAT16, LAYERS, exact_merge, factors, save_model, status_of, weights

import lora_ref
from lora_ref.checkpoint import Checkpoint
from lora_ref.checkpoint.peft import PeftAdapter
from lora_ref.testing.tolerance import TOLERANCE, assert_close, relative_error
from lora_ref.verify import Status, verify

SIZES = {"l.0.q": (11, 7), "l.1.q": (7, 13), "l.0.k": (9, 9), "l.1.k": (9, 9)}


def extract(models, out, *more):
    base, tuned = models
    return status_of("extract", "--base", base, "--tuned", tuned, "--out", out, *more)


def base_tensors(dtype="float64"):
    rng = np.random.default_rng(1)
    named = {f"{name}.weight": rng.normal(size=size) for name, size in SIZES.items()}
    named |= {"l.0.q.bias": rng.normal(size=11), "norm.weight": rng.normal(size=7)}
    named |= {"embed_tokens.weight": rng.normal(size=(5, 7))}
    return {name: t.astype(dtype) for name, t in named.items()} | {"ids": np.arange(4)}


def tuned_tensors(before, names=("l.0.q", "l.1.q", "l.0.k")):
    """The base with full-rank changes of the named weights."""
    rng = np.random.default_rng(2)
    after = dict(before)
    for name in names:
        W = before[f"{name}.weight"]
        decay = (0.8 if name == "l.0.k" else 0.5) ** np.arange(W.shape[1])
        after[f"{name}.weight"] = (W + rng.normal(size=W.shape) * decay).astype(W.dtype)
    return after


@pytest.fixture
def models(tmp_path):
    return saved(tmp_path, base_tensors())


def saved(folder, before, after=None, **config):
    after = tuned_tensors(before) if after is None else after
    return save_model(folder / "base", before, **config), save_model(folder / "tuned", after)


def deltas(before, after):
    return {
        name.removesuffix(".weight"): after[name].astype("float64") - W.astype("float64")
        for name, W in before.items()
        if not np.array_equal(after[name], W)
    }


def updates(directory):
    adapter = PeftAdapter.open(directory)
    return {
        m.path: m.scale * m.B.astype("float64") @ m.A.astype("float64") for m in adapter.modules
    }


def rows(text):
    table = text.split("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in table}


@pytest.mark.parametrize("alpha", [[], ["--alpha", 5], ["--alpha", -3]])
def test_the_factors_are_the_first_terms_of_each_svd(models, tmp_path, capsys, alpha):
    assert extract(models, tmp_path / "out", "--rank", 2, *alpha) == 0
    dense, found = deltas(base_tensors(), tuned_tensors(base_tensors())), updates(tmp_path / "out")
    table = rows(capsys.readouterr().out)
    assert set(found) == set(dense) == set(table) - {"module"} == {"l.0.q", "l.1.q", "l.0.k"}
    for name, delta in dense.items():
        U, S, Vt = np.linalg.svd(delta, full_matrices=False)
        assert_close(found[name], (U[:, :2] * S[:2]) @ Vt[:2], "routes", name)
        share = (S[:2] ** 2).sum() / (S**2).sum()
        error = np.linalg.norm(delta - found[name]) / np.linalg.norm(delta)
        m, n = delta.shape
        assert table[name] == [str(m), "×", str(n), "2", f"{share:.2%}", f"{error:.2%}"]
    for module in PeftAdapter.open(tmp_path / "out").modules:
        assert module.scale == (alpha[1] / 2 if alpha else 1.0)


@pytest.mark.parametrize("alpha", [[], ["--alpha", 5]])
@pytest.mark.parametrize("cap", [None, 2])
def test_the_energy_asked_for_gives_each_module_its_least_rank(models, tmp_path, alpha, cap):
    limit = [] if cap is None else ["--rank", cap]
    assert extract(models, tmp_path / "out", "--energy", 0.97, *limit, *alpha) == 0
    dense, found = deltas(base_tensors(), tuned_tensors(base_tensors())), updates(tmp_path / "out")
    ranks = {}
    for name, delta in dense.items():
        U, S, Vt = np.linalg.svd(delta, full_matrices=False)
        kept = np.cumsum(S**2) / (S**2).sum()
        r = min(int(np.argmax(kept >= 0.97)) + 1, cap or 99)
        assert_close(found[name], (U[:, :r] * S[:r]) @ Vt[:r], "routes", name)
        ranks[name] = r
    adapter = PeftAdapter.open(tmp_path / "out")
    assert {m.path: m.rank for m in adapter.modules} == ranks
    assert cap or len(set(ranks.values())) > 1
    for module in adapter.modules:
        assert module.scale == pytest.approx(alpha[1] / module.rank if alpha else 1.0)


def test_a_rank_above_the_sizes_is_that_of_the_weight_and_loses_nothing(models, tmp_path):
    assert extract(models, tmp_path / "out", "--rank", 99) == 0
    ranks = {m.path: m.rank for m in PeftAdapter.open(tmp_path / "out").modules}
    assert ranks == {"l.0.q": 7, "l.1.q": 7, "l.0.k": 9}
    dense = deltas(base_tensors(), tuned_tensors(base_tensors()))
    for name, update in updates(tmp_path / "out").items():
        assert_close(update, dense[name], "routes", name)


def test_targets_are_short_where_all_of_the_name_changed_and_whole_where_not(models, tmp_path):
    assert extract(models, tmp_path / "out", "--rank", 2) == 0
    assert PeftAdapter.open(tmp_path / "out").config.target_modules == ("l.0.k", "q")


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "F16"), ("bfloat16", "BF16")])
def test_the_error_is_that_of_what_is_stored(tmp_path, capsys, dtype, kind):
    models = saved(tmp_path, base_tensors("float32"))
    assert extract(models, tmp_path / "out", "--rank", 99, "--dtype", dtype, "--json", "-") == 0
    fields = json.loads(capsys.readouterr().out)
    dense = deltas(base_tensors("float32"), tuned_tensors(base_tensors("float32")))
    adapter, found = PeftAdapter.open(tmp_path / "out"), updates(tmp_path / "out")
    assert {spec.dtype for spec in adapter.specs} == {kind}
    for row in fields["modules"]:
        error = relative_error(found[row["name"]], dense[row["name"]])
        assert row["error"] == pytest.approx(error, rel=1e-6)
        assert 1e-5 < error < 1e-2


def test_a_merged_adapter_is_found_again_and_passes_verify(tmp_path, capsys):
    base, lora = weights(), factors()
    models = saved(tmp_path, base, exact_merge(base, lora))
    assert extract(models, tmp_path / "out", "--rank", 3) == 0
    found = updates(tmp_path / "out")
    for layer in LAYERS:
        delta = 5 / 3 * lora[layer][1].astype("float64") @ lora[layer][0].astype("float64")
        assert relative_error(found[layer], delta) < 1e-6
    report = verify(models[0], str(tmp_path / "out"), models[1])
    assert report.count(Status.BUG) == 0


@pytest.mark.parametrize(
    "case", ["norm.weight", "l.0.q.bias", "embed_tokens.weight", "l.1.k.weight"]
)
def test_what_factors_do_not_hold_is_refused_until_it_is_said_what_becomes_of_it(
    tmp_path, capsys, case
):
    before = base_tensors()
    after = tuned_tensors(before) | {case: before[case] * 1.25}
    models = saved(tmp_path, before, after)
    targets = ["--targets", "q,l.0.k"]
    assert extract(models, tmp_path / "out", "--rank", 2, *targets) == 2
    said = capsys.readouterr()
    assert "1 tensor has changed that the factors do not hold: " + case in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert extract(models, tmp_path / "out", "--rank", 2, *targets, "--leave-out") == 0
    said = capsys.readouterr()
    assert f"LEFT OUT: {case}, changed by 25.00% of its norm" in said.out
    module = case.rpartition(".")[0]
    if module != "l.0.q":
        more = ["--modules-to-save", module]
        assert extract(models, tmp_path / "whole", "--rank", 2, *targets, *more) == 0
        assert f"stored whole: {case}" in capsys.readouterr().out
        assert np.array_equal(PeftAdapter.open(tmp_path / "whole").replaced[case], after[case])


def test_a_changed_module_that_is_stored_whole_is_no_target(models, tmp_path):
    assert extract(models, tmp_path / "out", "--rank", 2, "--modules-to-save", "l.0.k") == 0
    adapter = PeftAdapter.open(tmp_path / "out")
    assert {m.path for m in adapter.modules} == {"l.0.q", "l.1.q"}
    assert list(adapter.replaced) == ["l.0.k.weight"]


def test_weights_stored_inputs_first(tmp_path):
    before = base_tensors()
    after = tuned_tensors(before)
    models = saved(tmp_path, before, after, model_type="gpt2")
    assert extract(models, tmp_path / "out", "--rank", 99, "--fan-in-fan-out") == 0
    assert PeftAdapter.open(tmp_path / "out").config.fan_in_fan_out
    for name, update in updates(tmp_path / "out").items():
        assert_close(update, deltas(before, after)[name].T, "routes", name)


def test_a_model_known_to_store_inputs_first_needs_the_flag(tmp_path, capsys):
    models = saved(tmp_path, base_tensors(), model_type="gpt2")
    assert extract(models, tmp_path / "out", "--rank", 2) == 2
    assert "--fan-in-fan-out must be given: 'gpt2'" in capsys.readouterr().err


def test_the_json_has_every_figure_and_is_the_same_each_time(models, tmp_path, capsys):
    more = ["--rank", 2, "--json", "-", "--force"]
    assert extract(models, tmp_path / "out", *more) == 0
    first = capsys.readouterr().out
    assert extract(models, tmp_path / "out", *more) == 0
    assert capsys.readouterr().out == first
    fields = json.loads(first)
    assert (fields["schema"], fields["schema_version"]) == ("lora-ref/extract", 1)
    dense = deltas(base_tensors(), tuned_tensors(base_tensors()))
    whole = {name: np.linalg.svd(delta, compute_uv=False) for name, delta in dense.items()}
    assert {row["name"] for row in fields["modules"]} == set(dense)
    for row in fields["modules"]:
        assert row["spectrum"] == pytest.approx(whole[row["name"]])
        assert row["norm"] == pytest.approx(np.linalg.norm(dense[row["name"]]))
        assert row["shape"] == list(dense[row["name"]].shape)
    kept = sum((S[:2] ** 2).sum() for S in whole.values())
    assert fields["retained"] == pytest.approx(kept / sum((S**2).sum() for S in whole.values()))


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


def test_nan_that_is_the_same_in_both_models_is_no_difference(tmp_path):
    before = base_tensors() | {"norm.weight": np.full(7, np.nan)}
    models = saved(tmp_path, before, tuned_tensors(before))
    assert extract(models, tmp_path / "out", "--rank", 2) == 0


def test_models_of_two_dtypes_are_compared_by_value(tmp_path):
    before = base_tensors(BFLOAT16)
    after = {name: t.astype("float32") if t.dtype == BFLOAT16 else t for name, t in before.items()}
    after["l.0.q.weight"] = after["l.0.q.weight"] + np.float32(0.25)
    models = saved(tmp_path, before, after)
    assert extract(models, tmp_path / "out", "--rank", 1) == 0
    found = updates(tmp_path / "out")
    assert list(found) == ["l.0.q"]
    wanted = after["l.0.q.weight"].astype("float64") - before["l.0.q.weight"].astype("float64")
    assert relative_error(found["l.0.q"], wanted) < TOLERANCE["float32"]


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


def test_memory_is_that_of_the_largest_tensor_and_not_of_the_model(tmp_path):
    rng = np.random.default_rng(3)
    before = {f"l.{i}.q.weight": rng.normal(size=(96, 80)) for i in range(60)}
    after = {name: W + rng.normal(size=W.shape) for name, W in before.items()}
    models = saved(tmp_path, before, after)
    assert extract(models, tmp_path / "once", "--rank", 1) == 0  # imports are not counted
    one = before["l.0.q.weight"].nbytes
    tracemalloc.start()
    try:
        assert extract(models, tmp_path / "out", "--rank", 1) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * one < 60 * one


def test_the_example_of_the_package_gives_its_adapter_back(tmp_path, capsys):
    example = Path(lora_ref.__file__).parent / "example"
    assert extract((example / "base", example / "merged"), tmp_path / "out", "--rank", 6) == 0
    assert len(rows(capsys.readouterr().out)) == 1 + len(
        PeftAdapter.open(example / "adapter").modules
    )
    found, wanted = updates(tmp_path / "out"), updates(example / "adapter")
    assert set(found) == set(wanted)
    before, after = (Checkpoint.open(example / name) for name in ("base", "merged"))
    for name, update in wanted.items():
        delta = np.subtract(
            *(m.tensor(f"{name}.weight").astype("float64") for m in (after, before))
        )
        # The update has rank 6 too, and no matrix of it is nearer to the difference.
        rounding = np.linalg.norm(delta - update)
        assert 0 < np.linalg.norm(found[name] - update) <= 2 * rounding


def test_the_output_on_the_page_is_that_of_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = Path(lora_ref.__file__).parent / "example"
    page = (Path(__file__).parents[2] / "docs" / "extract.md").read_text("utf-8")
    shown = page.split("--energy 0.99 --out DIR\n")[1].split("```")[0]
    assert extract((example / "base", example / "merged"), "DIR", "--energy", 0.99) == 0
    assert capsys.readouterr().out == shown
