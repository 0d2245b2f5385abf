"""Several adapters as one file: every rule against dense NumPy, whatever the inputs' scales are."""

import numpy as np
import pytest
from combined_files import (
    DENSITY,
    SHAPES,
    WEIGHTS,
    adapter,
    by_hand,
    dense,
    linear,
    made,
    random,
    three,
    updates,
)
from peft_files import BFLOAT16, P, save

from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.combination import METHODS, OF_FACTORS, OF_UPDATES, rules
from lora_ref.checkpoint.combined import combined
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.compose.ties import by_count, by_total
from lora_ref.testing.tolerance import assert_close, relative_error


@pytest.mark.parametrize("elect", [by_total, by_count])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_read_back_is_the_combination_by_its_definition(tmp_path, method, elect):
    directories = three(tmp_path)
    found = updates(made(directories, method, 4, elect=elect).adapter, tmp_path / "out")
    parts, rng = [dense(d) for d in directories], np.random.default_rng(9)
    assert set(found) == set(SHAPES)
    for path in PeftAdapter.open(directories[0]).modules:
        own = [part[path.path] for part in parts]
        wanted = by_hand(own, WEIGHTS, method, 4, rng, elect)
        assert_close(found[path.path], wanted, "routes", f"{method} of {path.path}")


@pytest.mark.parametrize("method", METHODS)
def test_the_figures_are_those_of_what_is_stored(tmp_path, method):
    directories = three(tmp_path)
    done = made(directories, method, 2, dtype=BFLOAT16)
    found, rng = updates(done.adapter, tmp_path / "out"), np.random.default_rng(9)
    parts = [dense(d) for d in directories]
    assert {spec.dtype for spec in done.adapter.specs} == {"BF16"}
    for module in done.modules:
        own, name = [part[module.name] for part in parts], module.name
        wanted = by_hand(own, WEIGHTS, method, 99, rng)
        total = sum(w * s * B @ A for w, (s, A, B) in zip(WEIGHTS, own, strict=True))
        S = np.linalg.svd(wanted, compute_uv=False)
        kept = (S[:2] ** 2).sum() / (S**2).sum() if method in OF_UPDATES else 1.0
        assert module.retained == pytest.approx(kept)
        assert module.error == pytest.approx(relative_error(found[name], wanted), rel=1e-3)
        assert module.off == pytest.approx(relative_error(found[name], total), rel=1e-9)
        assert module.shape == SHAPES[name]
        assert module.ranks == (2, 2, 2) if name == "b.q" else (3, 3, 3)


def test_every_scale_of_the_result_is_one_and_ranks_are_in_the_pattern(tmp_path):
    adapter = made(three(tmp_path), "cat").adapter
    assert not adapter.config.use_rslora
    assert {m.path: (m.rank, m.scale) for m in adapter.modules} == {
        "a.q": (9, 1.0), "a.v": (9, 1.0), "b.q": (6, 1.0)
    }  # fmt: skip
    assert (adapter.config.r, adapter.config.rank_pattern) == (9, {"b.q": 6})
    assert adapter.config.target_modules == ("q", "v")


def unequal(folder):
    """Other ranks in each, and modules that one alone has."""
    return [
        adapter(folder / "one", {"a.q": 3, "b.q": 3}, r=3, lora_alpha=5),
        adapter(folder / "two", {"a.q": 5, "a.v": 5}, r=5, lora_alpha=4),
    ]


@pytest.mark.parametrize("method", ["cat", "svd", "ties_svd", "magnitude_prune_svd"])
def test_a_module_that_only_one_has_is_made_of_that_one(tmp_path, method):
    directories, weights = unequal(tmp_path), (0.7, -0.4)
    done = made(directories, method, weights=weights)
    found = updates(done.adapter, tmp_path / "out")
    parts = [dense(d) for d in directories]
    assert {m.name: m.ranks for m in done.modules} == {"a.q": (3, 5), "b.q": (3, 0), "a.v": (0, 5)}
    for path, shape in SHAPES.items():
        # As if the other's update were zero: also for the votes and the means of TIES.
        own = [
            part.get(path, (1.0, *map(np.zeros, ((1, shape[1]), (shape[0], 1))))) for part in parts
        ]
        wanted = by_hand(own, weights, method, 5, None) if path in found else None
        assert_close(found[path], wanted, "routes", path)


def test_without_a_rank_it_is_the_largest_of_the_adapters(tmp_path):
    ranks = {m.name: m.rank for m in made(unequal(tmp_path), "svd", weights=(1, 1)).modules}
    # b.q has three directions and no more: they are not filled up.
    assert ranks == {"a.q": 5, "b.q": 3, "a.v": 5}


def test_a_rank_above_the_sizes_is_that_of_the_weight(tmp_path):
    done = made(unequal(tmp_path), "ties_svd", 99, weights=(1, 1))
    assert {m.name: (m.rank, m.retained) for m in done.modules} == {
        "a.q": (7, 1.0), "b.q": (8, 1.0), "a.v": (7, 1.0)
    }  # fmt: skip


@pytest.mark.parametrize("method", OF_FACTORS)
def test_factors_of_different_ranks_are_not_added(tmp_path, method):
    with pytest.raises(CheckpointError, match=r"'a.q' must have one rank .* got \[3, 5\]"):
        made(unequal(tmp_path), method, weights=(1, 1))


def test_one_adapter_is_scaled_pruned_and_truncated_too(tmp_path):
    [one, *_] = three(tmp_path)
    found = updates(made([one], "magnitude_prune_svd", 1, weights=(2,)).adapter, tmp_path / "out")
    for path, part in dense(one).items():
        wanted = by_hand([part], (2,), "magnitude_prune_svd", 1, None)
        assert_close(found[path], wanted, "routes", path)


def test_weights_that_cancel_leave_a_zero_update(tmp_path):
    [one, *_] = three(tmp_path)
    done = made([one, one], "cat", weights=(1, -1))
    for update in updates(done.adapter, tmp_path / "out").values():
        assert np.abs(update).max() < 1e-12


KINDS = {
    "embedding": lambda r: {
        f"{P}e.lora_embedding_A": random(r, 13), f"{P}e.lora_embedding_B": random(7, r)
    },
    "convolution": lambda r: {
        f"{P}c.lora_A.weight": random(r, 4, 3, 2), f"{P}c.lora_B.weight": random(6, r, 1, 1)
    },
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_and_convolutions_keep_their_layout(tmp_path, kind, method):
    directories = [save(tmp_path / n, KINDS[kind](3), target_modules=[kind[0]]) for n in "ab"]
    write_adapter(tmp_path / "out", made(directories, method, 2, weights=(0.7, -0.4)).adapter)
    read = [PeftAdapter.open(d).modules[0] for d in (*directories, tmp_path / "out")]

    def pair(module):
        A, B = module.A, module.B
        return module.scale, A.reshape(len(A), -1), B.reshape(B.shape[0], B.shape[1])

    rng = np.random.default_rng(9)
    wanted = by_hand([pair(m) for m in read[:2]], (0.7, -0.4), method, 2, rng)
    s, A, B = pair(read[2])
    assert_close(s * B @ A, wanted, "routes", kind)
    assert read[2].kind == read[0].kind
    assert read[2].A.shape[1:] == read[0].A.shape[1:]


@pytest.mark.parametrize(
    ("kinds", "stored"),
    [
        (("float32", "float32"), "F32"),
        (("float16", "float16"), "F16"),
        (("float16", "float32"), "F32"),
        (("float32", "float64"), "F64"),
        (("float16", BFLOAT16), "F32"),
    ],
)
def test_the_type_is_that_of_all_or_one_that_holds_them(tmp_path, kinds, stored):
    given = [adapter(tmp_path / f"{i}", {"a.q": 3}, dtype=k) for i, k in enumerate(kinds)]
    done = made(given, "cat", weights=(1, 1))
    assert {spec.dtype for spec in done.adapter.specs} == {stored}


def test_dare_draws_the_same_from_the_same_seed_and_other_entries_from_another(tmp_path):
    directories = three(tmp_path)

    def factors(seed):
        rule = rules(DENSITY, by_total, np.random.default_rng(seed))["dare_linear"]
        return combined(directories, WEIGHTS, rule).adapter.modules[0].A

    assert np.array_equal(factors(1), factors(1))
    assert not np.array_equal(factors(1), factors(2))


def test_copies_of_base_tensors_stay_if_all_adapters_have_the_same(tmp_path):
    copy = {f"{P}head.weight": random(3, 7)}
    fields = {"modules_to_save": ["head"], "target_modules": ["q"]}
    given = [save(tmp_path / n, linear("a.q", 3, (11, 7)) | copy, **fields) for n in "ab"]
    done = made(given, "cat", weights=(1, 1))
    write_adapter(tmp_path / "out", done.adapter)
    read = PeftAdapter.open(tmp_path / "out")
    assert np.array_equal(read.replaced["head.weight"], copy[f"{P}head.weight"])


def test_a_path_takes_the_place_of_targets_that_are_an_expression(tmp_path):
    one = save(tmp_path / "a", linear("a.q", 3, (11, 7)), target_modules=r".*\.q")
    two = save(tmp_path / "b", linear("b.q", 3, (8, 8)), target_modules=["q"])
    config = made([one, two], "cat", weights=(1, 1)).adapter.config
    assert config.target_modules == ("a.q", "b.q")


def test_paths_take_the_place_of_names_that_hold_in_some_layers_only(tmp_path):
    fields = {"layers_to_transform": [0], "target_modules": ["q"]}
    one = save(tmp_path / "a", linear("l.0.q", 3, (11, 7)), **fields)
    two = save(tmp_path / "b", linear("l.0.v", 3, (8, 8)), target_modules=["v"])
    done = made([one, two], "cat", weights=(1, 1)).adapter
    # q of the other layers would be a target of the name, and is in neither file.
    assert done.config.target_modules == ("l.0.q", "l.0.v")


def test_progress_has_every_module(tmp_path):
    seen = []
    made(three(tmp_path), "cat", progress=seen.append)
    assert sorted(seen) == sorted(SHAPES)
