"""`lora-ref extract`: the factors by NumPy's SVD, what is left out, and what is said."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import BFLOAT16, LAYERS, exact_merge, factors, weights
from tuned_models import base_tensors, deltas, extract, rows, saved, tuned_tensors, updates

import lora_ref
from lora_ref.checkpoint import Checkpoint
from lora_ref.checkpoint.differences import short_targets
from lora_ref.checkpoint.peft import PeftAdapter
from lora_ref.testing.tolerance import TOLERANCE, assert_close, relative_error
from lora_ref.verify import Status, verify


@pytest.fixture
def models(tmp_path):
    return saved(tmp_path, base_tensors())


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
    assert peak < 20 * one


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


def test_zeros_of_two_signs_are_equal(tmp_path):
    before = base_tensors() | {"norm.weight": np.zeros(7)}
    models = saved(tmp_path, before, tuned_tensors(before) | {"norm.weight": -np.zeros(7)})
    assert extract(models, tmp_path / "out", "--rank", 2) == 0


def test_what_was_zero_before_is_said_so(tmp_path, capsys):
    before = base_tensors() | {"norm.weight": np.zeros(7)}
    models = saved(tmp_path, before, tuned_tensors(before) | {"norm.weight": np.ones(7)})
    assert extract(models, tmp_path / "out", "--rank", 2, "--leave-out") == 0
    assert "LEFT OUT: norm.weight, changed from zero" in capsys.readouterr().out


def test_a_name_that_a_container_has_too_is_no_short_target():
    names = [f"{path}.weight" for path in ("a.dense", "b.dense.q", "b.dense.k", "c.0", "d.q")]
    assert short_targets(["a.dense", "b.dense.q", "d.q"], names) == ("a.dense", "q")
    assert short_targets(["b.dense.q", "b.dense.k", "d.q"], names) == ("q", "k")
    assert short_targets(["a.dense", "b.dense.q", "b.dense.k"], names)[0] == "a.dense"
    assert short_targets(["b.dense.q", "c.0"], names) == ("b.dense.q", "c.0")
