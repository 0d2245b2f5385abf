"""`open_adapter(directory).adapters`: of every method, of every layout, and of a changed base."""

import re
from dataclasses import replace

import numpy as np
import pytest
from peft_files import P, linear, save, values

import lora_ref.checkpoint
from lora_ref.adapters import (
    AdaLoRA,
    BiasedLoRA,
    ConvDoRA,
    ConvLoRA,
    DoRA,
    EmbeddingDoRA,
    EmbeddingLoRA,
    ExpertLoRA,
    FanInFanOut,
    LoRA,
    MiSS,
    VeRA,
)
from lora_ref.adapters.vera import shared_bases
from lora_ref.checkpoint import (
    TUNERS,
    CheckpointError,
    LoraConfig,
    from_adalora,
    from_adapters,
    from_dora,
    from_lora,
    open_adapter,
    write_adapter,
)
from lora_ref.checkpoint.tuners.vera import SharedVeRA, of_inputs
from lora_ref.init import pissa
from lora_ref.layers.convolution import Geometry
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.tolerance import assert_close

FIELDS = {"r": 3, "lora_alpha": 5}
PLANE = Geometry.uniform(2)
CONV = ConvLoRA(values(3, 4, 3, 2), values(6, 3, 1, 1), 5 / 3, PLANE)
EMBEDDING = EmbeddingLoRA(values(3, 13), values(7, 3), 5 / 3)


def a_lora(inputs=7):
    return LoRA(values(3, inputs), values(11, 3), 5 / 3)


def a_dora():
    return DoRA(values(3, 7), values(11, 3), values(11), 5 / 3, detach_norm=True)


def reopened(made, directory):
    write_adapter(directory, made)
    return open_adapter(directory)


MADE = {
    "LoRA": lambda adapter: from_lora({"a.q": adapter}, FIELDS),
    "DoRA": lambda adapter: from_dora({"a.q": adapter}, FIELDS),
    "AdaLoRA": lambda adapter: from_adalora(
        {"a.q": adapter}, {"init_r": 3, "lora_alpha": 5, "total_step": 9}
    ),
    "MiSS": lambda adapter: from_adapters({"a.q": adapter}, {"r": 3}, TUNERS["MISS"]),
}
ADAPTERS = {
    "LoRA": a_lora,
    "DoRA": a_dora,
    "AdaLoRA": lambda: AdaLoRA.init_peft(values(11, 7), 3, 5, np.random.default_rng(2)),
    "MiSS": lambda: MiSS(values(3, 11)),
}


@pytest.mark.parametrize("name", MADE)
def test_every_method_gives_its_adapters_by_path(name, tmp_path):
    adapter = ADAPTERS[name]()
    opened = reopened(MADE[name](adapter), tmp_path / "a")
    assert opened.adapters.keys() == {"a.q"}
    assert_trees_close(opened.adapters["a.q"], adapter, "identical", name)
    W = values(11, 7)
    assert np.array_equal(opened.adapters["a.q"].merge(W), adapter.merge(W))


@pytest.mark.parametrize("name", MADE)
def test_fields_without_target_modules_get_the_paths(name):
    made = MADE[name](ADAPTERS[name]())
    assert b'"target_modules": [\n    "a.q"\n  ]' in made.config.text


@pytest.mark.parametrize("name", MADE)
def test_target_modules_that_are_given_stay(name):
    fields = {"r": 3, "lora_alpha": 5, "init_r": 3, "total_step": 9, "target_modules": "all-linear"}
    given = {"a.q": ADAPTERS[name]()}
    made = {
        "LoRA": lambda: from_lora(given, fields),
        "DoRA": lambda: from_dora(given, fields),
        "AdaLoRA": lambda: from_adalora(given, fields),
        "MiSS": lambda: from_adapters(given, fields, TUNERS["MISS"]),
    }[name]()
    assert b'"target_modules": "all-linear"' in made.config.text


def test_a_lora_of_every_layout_is_among_the_adapters(tmp_path):
    given = {
        "q": FanInFanOut(a_lora()),
        "biased": FanInFanOut(BiasedLoRA(a_lora(), values(11))),
        "emb": EMBEDDING,
        "mlp.up": ExpertLoRA(values(2, 3, 7), values(2, 11, 3), 5 / 3),
        "attn": FanInFanOut(a_lora()),
        "attn.base_layer.out_proj": FanInFanOut(a_lora(11)),
    }
    fields = {**FIELDS, "fan_in_fan_out": True, "target_parameters": ["mlp.up"]}
    opened = reopened(from_lora(given, fields), tmp_path / "a")
    expected = {path.replace("base_layer.", ""): adapter for path, adapter in given.items()}
    assert opened.adapters.keys() == expected.keys()
    for path, adapter in expected.items():
        assert_trees_close(opened.adapters[path], adapter, "identical", path)
    assert opened.config.target_modules == ("attn", "biased", "emb", "q")


def test_a_module_of_a_targeted_parameter_is_no_target(tmp_path):
    fields = {**FIELDS, "target_parameters": ["mlp.up"]}
    made = from_lora({"mlp": a_lora(), "q": a_lora()}, fields)
    assert made.config.target_modules == ("q",)
    assert made.adapters.keys() == {"mlp.up", "q"}


def test_the_fields_of_a_configuration_are_as_good_as_the_configuration(tmp_path):
    fields = {**FIELDS, "target_modules": ["q"]}
    by_fields = from_lora({"q": a_lora()}, fields)
    by_config = from_lora({"q": a_lora()}, LoraConfig.from_fields(fields))
    assert by_fields.config == by_config.config
    assert by_fields.header == by_config.header


@pytest.mark.parametrize("dora", [False, True])
def test_a_convolution_needs_its_geometry(dora, tmp_path):
    adapter = ConvDoRA(CONV, values(6), detach_norm=True) if dora else CONV
    made = (from_dora if dora else from_lora)({"c": adapter}, FIELDS)
    opened = reopened(made, tmp_path / "a")
    with pytest.raises(ValueError, match="geometry must be given, since c is a convolution"):
        _ = opened.adapters
    found = opened.adapters_with({"c": PLANE})["c"]
    assert_trees_close(found, adapter, "identical", "c")


def test_an_embedding_with_magnitudes_is_among_the_adapters(tmp_path):
    adapter = EmbeddingDoRA(EMBEDDING, values(7), detach_norm=True)
    opened = reopened(from_dora({"emb": adapter}, FIELDS), tmp_path / "a")
    assert_trees_close(opened.adapters["emb"], adapter, "identical", "emb")


@pytest.mark.parametrize("dora", [False, True])
def test_factors_of_a_changed_base_are_given_only_on_its_residual(dora, tmp_path):
    start, residual = pissa(values(11, 7, dtype="float64"), 3, 5 / 3)
    trained = replace(start, B=start.B + values(11, 3))
    fields = {**FIELDS, "init_lora_weights": "pissa"}
    given = DoRA(trained.A, trained.B, np.ones(11), 5 / 3, True) if dora else trained
    made = (from_dora if dora else from_lora)({"q": given}, fields)
    opened = reopened(made, tmp_path / "a")
    message = r"init_lora_weights 'pissa' changed.*on_residual=True.*pissa\(W, rank, scale\)\[1\]"
    with pytest.raises(CheckpointError, match=message):
        _ = opened.adapters
    found = opened.adapters_with(on_residual=True)["q"]
    assert_close(found.merge(residual), given.merge(residual), "identical", "W'")


def veras():
    """Two layers that share bases, neither the larger in both directions."""
    A, B = shared_bases(3, 11, 8, np.random.default_rng(5), np.ones(1))
    inits = {"q": (11, 5), "v": (7, 8)}
    shaped = {path: VeRA.init(np.ones(shape), A, B) for path, shape in inits.items()}
    return {path: replace(a, lambda_b=a.lambda_b + 0.3) for path, a in shaped.items()}, inits


@pytest.mark.parametrize("turned", [False, True])
def test_a_vera_of_a_file_takes_the_columns_of_each_weight(turned, rng, tmp_path):
    modules, shapes = veras()
    given = {path: FanInFanOut(a) if turned else a for path, a in modules.items()}
    made = from_adapters(given, {"r": 3, "fan_in_fan_out": turned}, TUNERS["VERA"])
    opened = reopened(made, tmp_path / "a")
    for path, shape in shapes.items():
        W = rng.standard_normal(shape[::-1] if turned else shape)
        x = rng.standard_normal((4, shape[1]))
        found, expected = opened.adapters[path], given[path]
        assert_close(found.merge(W), expected.merge(W), "identical", "W'")
        (y, backward), (y_expected, backward_expected) = (a.apply(x, W) for a in (found, expected))
        assert_close(y, y_expected, "identical", "y")
        (dx, d), (dx_expected, d_expected) = backward(y), backward_expected(y_expected)
        assert_close(dx, dx_expected, "identical", "dx")
        _, weight_backward = found.weight(W)
        for gradient in (d, weight_backward(W)):
            assert type(gradient) is type(found)
        d, d_expected = (getattr(t, "inner", t) for t in (d, d_expected))
        assert_close(d.vera.lambda_b, d_expected.lambda_b, "identical", "dλ_b")
        assert_close(d.vera.lambda_d, d_expected.lambda_d, "identical", "dλ_d")


def test_a_vera_of_a_file_is_cut_and_laid_out_again_as_the_file(tmp_path):
    modules, shapes = veras()
    made = from_adapters(modules, {"r": 3}, TUNERS["VERA"])
    assert all(isinstance(adapter, SharedVeRA) for adapter in made.adapters.values())
    cut = {path: of_inputs(made.adapters[path], shapes[path][1]) for path in shapes}
    assert_trees_close(cut, modules, "identical", "cut")
    for again in (cut, made.adapters):
        laid_out = from_adapters(again, {"r": 3}, TUNERS["VERA"])
        assert laid_out.header == made.header
        for name, t in made.stored.items():
            assert np.array_equal(laid_out.stored[name], t)


def test_the_vera_of_one_weight_is_in_fan_in_fan_out_where_the_shared_one_is():
    modules, _ = veras()
    given = {path: FanInFanOut(adapter) for path, adapter in modules.items()}
    made = from_adapters(given, {"r": 3, "fan_in_fan_out": True}, TUNERS["VERA"])
    assert_trees_close(of_inputs(made.adapters["q"], 5), given["q"], "identical", "q")


def test_a_weight_wider_than_the_shared_bases_is_refused_with_their_size():
    modules, _ = veras()
    made = from_adapters(modules, {"r": 3}, TUNERS["VERA"])
    with pytest.raises(ValueError, match="from 1 to 8, the columns of A, got 9"):
        made.adapters["q"].merge(np.ones((11, 9)))


def test_adalora_starts_at_the_scale_that_a_file_needs(rng):
    adapter = AdaLoRA.init_peft(rng.standard_normal((11, 7)), 3, 5, rng)
    assert adapter.scale == 5 / (3 + 1e-5)
    assert not adapter.lam.any()


def test_a_file_of_adalora_at_another_scale_names_the_remedy(rng):
    adapter = AdaLoRA.init(rng.standard_normal((11, 7)), 3, 5, rng)
    fields = {"init_r": 3, "lora_alpha": 5, "total_step": 9}
    with pytest.raises(ValueError, match=r"scale=peft_scaling\(lora_alpha, init_r\).*init_peft"):
        from_adalora({"q": adapter}, fields)


@pytest.mark.parametrize("kind", ["linear", "turned", "convolution", "embedding"])
def test_a_dora_with_the_full_gradient_has_no_file(kind):
    full = replace(a_dora(), detach_norm=False)
    adapter = {
        "linear": full,
        "turned": FanInFanOut(full),
        "convolution": ConvDoRA(CONV, values(6)),
        "embedding": EmbeddingDoRA(EMBEDDING, values(7)),
    }[kind]
    with pytest.raises(ValueError, match="detach_norm of the adapter at q must be True"):
        from_dora({"q": adapter}, {**FIELDS, "fan_in_fan_out": kind == "turned"})


@pytest.mark.parametrize(
    ("peft_type", "hint"),
    [
        ("LOHA", "lora_ref.checkpoint.open_adapter reads adapters of this method"),
        ("ADALORA", "lora_ref.checkpoint.open_adapter reads adapters of this method"),
        ("BOFT", "nothing here reads adapters of this method"),
        (None, "nothing here reads adapters of this method"),
        (["LOHA"], "nothing here reads adapters of this method"),
    ],
)
def test_only_a_method_that_is_read_gets_the_hint_of_its_reader(peft_type, hint, tmp_path):
    directory = save(tmp_path / "a", linear(), peft_type=peft_type)
    with pytest.raises(CheckpointError, match=f"got {re.escape(repr(peft_type))}; {hint}$"):
        lora_ref.checkpoint.PeftAdapter.open(directory)


def test_every_public_name_of_the_room_is_there():
    for name in lora_ref.checkpoint.__all__:
        assert getattr(lora_ref.checkpoint, name) is not None
    assert {*lora_ref.checkpoint.__all__} <= {*dir(lora_ref.checkpoint)}


def test_two_parameters_that_the_file_leaves_open_are_told_apart_by_their_places(tmp_path):
    tensors = {
        f"{P}mlp.lora_A.weight": values(6, 7),
        f"{P}mlp.lora_B.weight": values(11, 6),
        f"{P}mlp.base_layer.lora_A.weight": values(6, 5),
        f"{P}mlp.base_layer.lora_B.weight": values(7, 6),
    }
    fields = {"target_parameters": ["mlp.up", "mlp.down"]}
    opened = open_adapter(save(tmp_path / "a", tensors, **fields))
    assert {path: a.A.shape for path, a in opened.adapters.items()} == {
        "mlp": (2, 3, 7),
        "mlp.base_layer": (2, 3, 5),
    }
