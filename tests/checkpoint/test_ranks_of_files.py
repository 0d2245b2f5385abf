"""Spectra of an adapter's file, the file at a lower rank, and an adapter from two models."""

import json

import ml_dtypes
import numpy as np
import pytest
from peft_files import P, content, linear, save, values

from lora_ref.adapters import LoRA
from lora_ref.checkpoint import (
    Checkpoint,
    CheckpointError,
    TensorSpec,
    dtype_name,
    write_safetensors,
)
from lora_ref.checkpoint.extracted import extracted
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_convert import to_lora
from lora_ref.checkpoint.reranked import reranked
from lora_ref.checkpoint.spectra import matrices, spectra
from lora_ref.layers.convolution import Geometry
from lora_ref.testing.tolerance import TOLERANCE, assert_close, relative_error

RNG = np.random.default_rng(11)


def random(*shape, dtype="float32"):
    return RNG.normal(size=shape).astype(dtype)


def pair(path, rank, inputs=7, outputs=11, dtype="float32"):
    A, B = random(rank, inputs, dtype=dtype), random(outputs, rank, dtype=dtype)
    return {f"{P}{path}.lora_A.weight": A, f"{P}{path}.lora_B.weight": B}


def convolution(rank, kernel=(3, 2)):
    A, B = random(rank, 4, *kernel, dtype="float64"), random(6, rank, 1, 1, dtype="float64")
    return {f"{P}c.lora_A.weight": A, f"{P}c.lora_B.weight": B}


def embedding(rank):
    A, B = random(rank, 13, dtype="float64"), random(7, rank, dtype="float64")
    return {f"{P}e.lora_embedding_A": A, f"{P}e.lora_embedding_B": B}


def experts(rank, count=4):
    A, B = random(rank * count, 7, dtype="float64"), random(9, rank * count, dtype="float64")
    return {f"{P}m.experts.lora_A.weight": A, f"{P}m.experts.lora_B.weight": B}


def biased(rank):
    beta = {f"{P}q.lora_B.bias": random(11, dtype="float64")}
    return {**pair("q", rank, dtype="float64"), **beta}


# Tensors at rank 5, fields, and the shape of the base weight.
KINDS = {
    "linear": (pair("q", 5, dtype="float64"), {}, (11, 7)),
    "bias": (biased(5), {"lora_bias": True}, (11, 7)),
    "embedding": (embedding(5), {}, (13, 7)),
    "convolution": (convolution(5), {}, (6, 4, 3, 2)),
    "experts": (experts(5), {"target_parameters": ["experts.w"]}, (4, 9, 7)),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def opened(directory, tensors, **fields):
    return PeftAdapter.open(save(directory, tensors, **{"r": 5, **fields}))


def delta_of(module, shape):
    return to_lora(module, Geometry.uniform(2)).weight(np.zeros(shape))[0]


def as_matrices(delta):
    if delta.ndim == 3:
        return list(delta)
    return [delta.reshape(len(delta), -1)]


def test_the_spectra_are_those_of_the_dense_updates(tmp_path, kind):
    tensors, fields, shape = KINDS[kind]
    adapter = opened(tmp_path, tensors, **fields)
    [module] = adapter.modules
    dense = as_matrices(delta_of(module, shape))
    layers = spectra(adapter)
    assert len(layers) == len(dense)
    for layer, delta in zip(layers, dense, strict=True):
        sigma = np.linalg.svd(delta, compute_uv=False)[:5]
        assert_close(layer.spectrum, sigma, "routes", layer.name)
        assert (layer.rank, layer.scale) == (5, 1.0)
        assert sorted(layer.shape) == sorted(delta.shape)
        assert layer.measures.numerical == np.linalg.matrix_rank(delta)


def test_each_expert_has_a_name_and_a_parameter_that_of_its_target(tmp_path):
    tensors, fields, _ = KINDS["experts"]
    names = [layer.name for layer in spectra(opened(tmp_path, tensors, **fields))]
    assert names == [f"m.experts.w[{e}]" for e in range(4)]


def test_two_parameters_of_one_module_have_different_names(tmp_path):
    tensors = experts(5) | {
        f"{P}m.experts.base_layer.lora_A.weight": random(20, 9),
        f"{P}m.experts.base_layer.lora_B.weight": random(3, 20),
    }
    adapter = opened(tmp_path, tensors, target_parameters=["experts.w", "experts.v"])
    names = [layer.name for layer in spectra(adapter)]
    assert len(set(names)) == len(names) == 8


def test_a_grouped_convolution_has_the_spectrum_of_its_blocks(tmp_path):
    A, B = random(6, 4, 3, 2, dtype="float64"), random(8, 3, 1, 1, dtype="float64")
    tensors = {f"{P}c.lora_A.weight": A, f"{P}c.lora_B.weight": B}
    adapter = opened(tmp_path, tensors, r=6, lora_alpha=9)
    blocks = [B[4 * g : 4 * g + 4, :, 0, 0] @ A[3 * g : 3 * g + 3].reshape(3, -1) for g in (0, 1)]
    sigma = np.linalg.svd(1.5 * np.concatenate(blocks), compute_uv=False)
    [layer] = spectra(adapter)
    assert_close(layer.spectrum, sigma[:6], "routes", "σ")
    with pytest.raises(CheckpointError, match="grouped convolution, whose B has blocks"):
        reranked(adapter, 4)
    assert reranked(adapter, 6).changes == ()


@pytest.mark.parametrize("rslora", [False, True])
def test_each_update_at_a_lower_rank_is_the_nearest(tmp_path, kind, rslora):
    tensors, fields, shape = KINDS[kind]
    adapter = opened(tmp_path, tensors, **fields, use_rslora=rslora, lora_alpha=7)
    done = reranked(adapter, 2)
    [before], [after] = adapter.modules, done.adapter.modules
    assert (after.rank, after.alpha) == (2, 7)
    assert after.scale == (7 / 2**0.5 if rslora else 7 / 2)
    missing, whole = [], []
    for old, new in zip(*(as_matrices(delta_of(m, shape)) for m in (before, after)), strict=True):
        U, S, Vt = np.linalg.svd(old, full_matrices=False)
        assert_close(new, (U[:, :2] * S[:2]) @ Vt[:2], "routes", "ΔW₂")
        missing.append(np.linalg.norm(S[2:]))
        whole.append(np.linalg.norm(S))
    [change] = done.changes
    lost = np.linalg.norm(missing) / np.linalg.norm(whole)
    assert (change.before, change.after) == (5, 2)
    assert change.error == pytest.approx(lost, rel=1e-10)
    assert change.retained == pytest.approx(1 - lost**2, rel=1e-10)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_trained_bias_keeps_its_effect(tmp_path, rslora):
    tensors, fields, _ = KINDS["bias"]
    adapter = opened(tmp_path, tensors, **fields, use_rslora=rslora, lora_alpha=7)
    [before], [after] = adapter.modules, reranked(adapter, 2).adapter.modules
    assert_close(after.scale * after.beta, before.scale * before.beta, "routes", "sβ")


@pytest.mark.parametrize("alpha", [-3, 0])
def test_alpha_may_be_negative_or_zero(tmp_path, alpha):
    tensors, fields, shape = KINDS["bias"]
    adapter = opened(tmp_path, tensors, **fields, lora_alpha=alpha)
    done = reranked(adapter, 2)
    [before], [after] = adapter.modules, done.adapter.modules
    U, S, Vt = np.linalg.svd(before.B @ before.A, full_matrices=False)
    nearest = (U[:, :2] * S[:2]) @ Vt[:2]
    if alpha:
        assert_close(delta_of(after, shape), -3 / 5 * nearest, "routes", "ΔW₂")
    else:
        assert_close(after.B @ after.A, nearest, "routes", "B A")
        assert np.array_equal(after.beta, before.beta)
        assert done.changes[0].error == pytest.approx(
            np.linalg.norm(S[2:]) / np.linalg.norm(S), rel=1e-10
        )


def mixed(tmp_path):
    """Ranks 5, 3 and 2, with the head and a bias whole."""
    tensors = pair("layer.0.q", 5) | pair("layer.1.q", 3) | pair("layer.2.q", 2)
    tensors[f"{P}head.weight"] = random(2, 7)
    fields = {
        "rank_pattern": {"layer.1.q": 3, r"layer\.2": 9, "2.q": 2},
        "alpha_pattern": {"0.q": 9},
    }
    return opened(tmp_path, tensors, **fields, modules_to_save=["head"], target_modules=["q"])


def test_what_is_not_above_the_rank_stays_to_the_byte(tmp_path):
    adapter = mixed(tmp_path / "a")
    done = reranked(adapter, 3)
    assert [change.name for change in done.changes] == ["layer.0.q"]
    changed = {f"{P}layer.0.q.lora_{slot}.weight" for slot in "AB"}
    for name, stored in adapter.stored.items():
        assert name in changed or np.array_equal(done.adapter.stored[name], stored)
    assert {m.path: (m.rank, m.scale) for m in done.adapter.modules} == {
        "layer.0.q": (3, 9 / 3),
        "layer.1.q": (3, 5 / 3),
        "layer.2.q": (2, 5 / 2),
    }


def test_the_configuration_changes_in_its_ranks_and_in_nothing_else(tmp_path):
    adapter = mixed(tmp_path / "a")
    before, after = adapter.config.raw, reranked(adapter, 2).adapter.config.raw
    assert after == {**before, "r": 2, "rank_pattern": {"layer.1.q": 2, r"layer\.2": 2, "2.q": 2}}
    plain = opened(tmp_path / "b", pair("q", 5))
    assert reranked(plain, 4).adapter.config.raw == {**plain.config.raw, "r": 4}
    assert reranked(plain, 8).adapter.config.raw == plain.config.raw


def test_what_is_written_reads_back_and_cutting_again_changes_nothing(tmp_path):
    done = reranked(mixed(tmp_path / "a"), 2)
    write_adapter(tmp_path / "b", done.adapter)
    again = reranked(PeftAdapter.open(tmp_path / "b"), 2)
    assert again.changes == ()
    write_adapter(tmp_path / "c", again.adapter)
    assert content(tmp_path / "b") == content(tmp_path / "c")


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32"])
def test_factors_keep_their_type_and_the_error_is_that_of_what_is_stored(tmp_path, dtype):
    adapter = opened(tmp_path, pair("q", 5, dtype=dtype))
    done = reranked(adapter, 4)
    [before], [after] = adapter.modules, done.adapter.modules
    assert after.A.dtype == after.B.dtype == np.dtype(dtype)
    [old], [new] = matrices(before), matrices(after)
    exact = relative_error(new.delta(), old.delta())
    [change] = done.changes
    assert change.error == pytest.approx(exact, rel=1e-6)
    assert change.error > (1 - change.retained) ** 0.5


def test_an_update_of_zero_is_kept_whole(tmp_path):
    tensors = pair("q", 5)
    tensors[f"{P}q.lora_B.weight"] *= 0
    done = reranked(opened(tmp_path, tensors), 2)
    assert (done.changes[0].retained, done.changes[0].error) == (1.0, 0.0)
    [module] = done.adapter.modules
    assert not module.B.any()


def test_a_rank_beyond_the_sizes_is_filled_up_with_zeros(tmp_path):
    adapter = opened(tmp_path, pair("q", 9, inputs=4, outputs=5, dtype="float64"), r=9)
    done = reranked(adapter, 6)
    [before], [after] = adapter.modules, done.adapter.modules
    assert (after.A.shape, after.B.shape) == ((6, 4), (5, 6))
    assert_close(
        after.scale * after.B @ after.A, before.scale * before.B @ before.A, "routes", "ΔW"
    )


def test_an_adapter_of_a_changed_base_is_not_cut(tmp_path):
    adapter = opened(tmp_path, pair("q", 5), init_lora_weights="pissa")
    with pytest.raises(
        CheckpointError, match="converted to a plain LoRA before: init_lora_weights 'pissa'"
    ):
        reranked(adapter, 2)


def test_a_rank_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="reranked: rank must be an integer of at least 1, got 0"):
        reranked(opened(tmp_path, linear(rank=5)), 0)


def model(directory, tensors):
    directory.mkdir()
    given = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in tensors.items()]
    write_safetensors(directory / "model.safetensors", given, {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({}))
    return directory


def base_tensors(dtype="float64"):
    sizes = {"l.0.q": (11, 7), "l.1.q": (7, 9), "head": (3, 7), "emb": (5, 7)}
    named = {f"{name}.weight": random(*size, dtype=dtype) for name, size in sizes.items()}
    return {**named, "norm.weight": random(7, dtype=dtype), "ids": np.arange(4)}


def tuned_tensors(before):
    """The base with updates of rank 3 on q, and with another head and norm."""
    after, updates = dict(before), {}
    for layer in ("l.0.q", "l.1.q"):
        m, n = before[f"{layer}.weight"].shape
        updates[layer] = random(m, 3, dtype="float64") @ random(3, n, dtype="float64")
        moved = before[f"{layer}.weight"].astype("float64") + updates[layer]
        after[f"{layer}.weight"] = moved.astype(before[f"{layer}.weight"].dtype)
    after["head.weight"] = 2 * before["head.weight"]
    after["norm.weight"] = before["norm.weight"] * np.float64(1.25)
    return after, updates


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (5, 5 / 3), (-2, -2 / 3)])
def test_the_extracted_adapter_is_what_the_model_was_tuned_by(tmp_path, alpha, scale):
    before = base_tensors()
    after, updates = tuned_tensors(before)
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    seen = []
    done = extracted(base, tuned, 3, ["q"], alpha=alpha, progress=seen.append)
    found = {module.path: module for module in done.adapter.modules}
    assert set(found) == set(updates)
    for path, module in found.items():
        assert (module.rank, module.scale) == (3, scale)
        assert_close(to_lora(module).delta(), updates[path], "routes", path)
        assert done.retained[path] == pytest.approx(1.0, abs=1e-12)
        assert done.spectra[path].shape == (7,)
    assert seen == [*Checkpoint.open(base).names]
    assert done.left == pytest.approx({"head.weight": 1.0, "norm.weight": 0.25})


def test_a_lower_rank_keeps_the_first_directions(tmp_path):
    before = base_tensors()
    after, updates = tuned_tensors(before)
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    done = extracted(base, tuned, 1, ["q"])
    for module in done.adapter.modules:
        U, S, Vt = np.linalg.svd(updates[module.path])
        assert_close(to_lora(module).delta(), S[0] * np.outer(U[:, 0], Vt[0]), "routes", "ΔW₁")
        assert done.retained[module.path] == pytest.approx(S[0] ** 2 / (S**2).sum())


def test_modules_to_save_are_taken_whole(tmp_path):
    before = base_tensors()
    after, _ = tuned_tensors(before)
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    done = extracted(base, tuned, 3, ["q"], modules_to_save=["head"])
    assert np.array_equal(done.adapter.replaced["head.weight"], after["head.weight"])
    assert set(done.left) == {"norm.weight"}
    write_adapter(tmp_path / "out", done.adapter)
    assert PeftAdapter.open(tmp_path / "out").config.modules_to_save == ("head",)


def test_weights_stored_inputs_first_give_factors_outputs_first(tmp_path):
    before = base_tensors()
    after, updates = tuned_tensors(before)
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    done = extracted(base, tuned, 3, ["q"], fan_in_fan_out=True)
    assert done.adapter.config.fan_in_fan_out
    for module in done.adapter.modules:
        update = updates[module.path]
        found = to_lora(module).weight(np.zeros(update.shape))[0]
        assert_close(found, update, "routes", module.path)
        assert module.A.shape[1] == len(update)


def test_factors_are_float32_for_a_model_of_less_than_64_bits(tmp_path):
    before = base_tensors("float16")
    after, _ = tuned_tensors(before)
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    done = extracted(base, tuned, 7, ["q"])
    for module in done.adapter.modules:
        assert module.A.dtype == module.B.dtype == np.float32
        W, W_tuned = (t[f"{module.path}.weight"].astype("float64") for t in (before, after))
        [lora] = matrices(module)
        assert relative_error(lora.delta(), W_tuned - W) < TOLERANCE["float32"]


def test_tensors_of_one_model_only_are_reported(tmp_path):
    before = base_tensors()
    after = dict(before) | {"new.weight": values(3)}
    del after["emb.weight"]
    after["head.weight"] = values(4, 7)
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    done = extracted(base, tuned, 3, ["q"])
    assert done.left == dict.fromkeys(("head.weight", "emb.weight", "new.weight"), np.inf)


@pytest.mark.parametrize(
    ("change", "targets", "said"),
    [
        ({}, ["k"], "must have a weight of"),
        ({}, ["norm"], "must be a matrix of F64"),
        ({"l.0.q.weight": np.ones((11, 7), "int8")}, ["q"], r"got I8 \[11, 7\]"),
        ({"l.0.q.weight": np.full((11, 7), np.nan)}, ["q"], "must be finite"),
        ({"l.0.q.weight": np.ones((7, 11))}, ["q"], r"got \[7, 11\]"),
        ({"l.0.q.weight": None}, ["q"], "no tensor 'l.0.q.weight'"),
        ({"more.q.weight": np.ones((2, 3))}, ["q"], "no tensor 'more.q.weight'"),
    ],
)
def test_models_that_give_no_adapter_are_refused(tmp_path, change, targets, said):
    before = base_tensors()
    after = {n: t for n, t in {**before, **change}.items() if t is not None}
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    with pytest.raises(CheckpointError, match=said) as refused:
        extracted(base, tuned, 2, targets)
    assert "\n" not in str(refused.value)


def test_a_scale_of_zero_extracts_nothing(tmp_path):
    base = model(tmp_path / "base", base_tensors())
    with pytest.raises(ValueError, match="extracted: scale must not be zero"):
        extracted(base, base, 2, ["q"], alpha=0)


def test_what_did_not_change_is_an_adapter_of_zero(tmp_path):
    base = model(tmp_path / "base", base_tensors())
    done = extracted(base, base, 2, ["q"])
    assert done.left == {}
    assert all(not m.B.any() and not m.A.any() for m in done.adapter.modules)
    assert isinstance(to_lora(done.adapter.modules[0]), LoRA)


def test_a_module_of_one_matrix_has_its_path_for_a_name_and_experts_a_number(tmp_path):
    assert [x.name for x in spectra(opened(tmp_path / "a", pair("q", 5)))] == ["q"]
    tensors = experts(5, count=2)
    adapter = opened(tmp_path / "b", tensors, target_parameters=["experts.w"])
    assert [x.name for x in spectra(adapter)] == ["m.experts.w[0]", "m.experts.w[1]"]


def test_rank_one_is_a_rank(tmp_path):
    [module] = reranked(opened(tmp_path, pair("q", 5)), 1).adapter.modules
    assert module.rank == 1


def test_each_tensor_keeps_its_own_type_and_none_can_be_written_to(tmp_path):
    tensors = pair("q", 5)
    tensors[f"{P}q.lora_B.weight"] = tensors[f"{P}q.lora_B.weight"].astype("float64")
    tensors[f"{P}q.lora_B.bias"] = random(11, dtype="float16")
    [module] = reranked(opened(tmp_path, tensors, lora_bias=True), 2).adapter.modules
    found = [module.A, module.B, module.beta]
    assert [str(t.dtype) for t in found] == ["float32", "float64", "float16"]
    assert not any(t.flags.writeable for t in found)


def test_a_change_is_relative_and_nan_that_stays_is_none(tmp_path):
    same = {"l.0.q.weight": random(11, 7), "norm.weight": np.array([np.nan, 1.0])}
    before = same | {"small.bias": np.array([0.25]), "zero.bias": np.zeros(2)}
    after = same | {"small.bias": np.array([0.5]), "zero.bias": np.ones(2)}
    base, tuned = model(tmp_path / "base", before), model(tmp_path / "tuned", after)
    assert extracted(base, tuned, 2, ["q"]).left == {"small.bias": 1.0, "zero.bias": np.inf}


def test_patterns_keep_their_order_of_which_the_first_that_fits_counts(tmp_path):
    tensors = pair("layers.0.v_proj", 5) | pair("layers.1.v_proj", 5)
    alpha = {"v_proj": 16, "layers.0.v_proj": 32}
    adapter = opened(tmp_path / "a", tensors, alpha_pattern=alpha, target_modules=["v_proj"])
    before = {m.path: m.alpha for m in adapter.modules}
    write_adapter(tmp_path / "b", reranked(adapter, 3).adapter)
    after = {m.path: m.alpha for m in PeftAdapter.open(tmp_path / "b").modules}
    assert before == after == {"layers.0.v_proj": 16, "layers.1.v_proj": 16}


def test_a_module_that_did_not_change_has_rank_one_and_no_error(tmp_path):
    base = model(tmp_path / "base", base_tensors())
    done = extracted(base, base, None, ["q"], energy=0.9)
    assert {module.rank for module in done.adapter.modules} == {1}
    assert set(done.errors.values()) == {0.0}
