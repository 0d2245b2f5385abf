"""What is special to HyperLoRA: one generator for layers and conditions, per example and shared."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from lora_ref.adapters import HyperLoRA, HyperLoRAPerExample, LoRA
from lora_ref.adapters.generators import (
    BasisGenerator,
    ComponentGenerator,
    DialectGenerator,
    Heads,
    LanguagePair,
    LinearGenerator,
    MLPGenerator,
    TaskId,
    TextGenerator,
    UserEmbedding,
)
from lora_ref.adapters.hyperlora import adapters_of
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_config import LoraConfig
from lora_ref.checkpoint.peft_convert import from_lora, to_lora
from lora_ref.layers.activations import gelu
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.examples import SCALE
from lora_ref.testing.generator_examples import generator_example
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import leaves, tree_map

LAYERS = 3
SIZE = 5


def add(a, b):
    return tree_map(lambda s, t: s + t, a, b)


def test_it_is_the_lora_that_is_generated(rng):
    case = adapter_example(HyperLoRA, rng)
    x, W = case.args
    lora, _ = case.target.lora()
    assert type(lora) is LoRA
    assert lora.scale == SCALE
    assert np.array_equal(case.target.merge(W), lora.merge(W))
    assert np.array_equal(case.target.apply(x, W)[0], lora.apply(x, W)[0])


def test_the_gradient_of_the_generated_lora_is_handed_on(rng):
    case = adapter_example(HyperLoRA, rng)
    x, W = case.args
    lora, generator_backward = case.target.lora()
    dy = rng.standard_normal((2, 3, 7))
    handed_on = generator_backward(lora.apply(x, W)[1](dy)[1])
    assert_trees_close(case.target.apply(x, W)[1](dy)[1], handed_on, "golden", "dθ")


def test_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((7, 11))
    generator = LinearGenerator.init(W, 3, rng, condition=4, layers=2, embedding=2)
    adapter = HyperLoRA(generator, UserEmbedding(rng.standard_normal(4)), 1, SCALE)
    assert np.array_equal(adapter.merge(W), W)


def per_example(rng, ids=(0, 2, 2)):
    generator, _, layer = generator_example(MLPGenerator, rng)
    table = rng.standard_normal((4, 6))
    adapter = HyperLoRAPerExample(generator, TaskId(table, ids), layer, SCALE)
    x, W = rng.standard_normal((len(ids), 5, 11)), rng.standard_normal((7, 11))
    return adapter, x, W


def alone(adapter, i):
    """The adapter of example i by itself."""
    condition = TaskId(adapter.condition.E, adapter.condition.ids[i])
    return HyperLoRA(adapter.generator, condition, adapter.at, adapter.scale)


def test_each_example_gets_what_its_own_adapter_gives(rng):
    adapter, x, W = per_example(rng)
    y, weights = adapter.apply(x, W)[0], adapter.merge(W)
    for i in range(3):
        assert_close(y[i], alone(adapter, i).apply(x[i], W)[0], "routes", f"y of example {i}")
        assert_close(weights[i], alone(adapter, i).merge(W), "routes", f"W' of example {i}")


def test_the_gradient_of_the_batch_is_the_sum_over_its_examples(rng):
    adapter, x, W = per_example(rng)
    dy = rng.standard_normal((3, 5, 7))
    dx, d = adapter.apply(x, W)[1](dy)
    parts = [alone(adapter, i).apply(x[i], W)[1](dy[i]) for i in range(3)]
    assert_close(dx, np.stack([part[0] for part in parts]), "routes", "dx")
    generator = add(add(parts[0][1].generator, parts[1][1].generator), parts[2][1].generator)
    assert_trees_close(d.generator, generator, "routes", "dθ")
    assert_close(d.condition.E, sum(part[1].condition.E for part in parts), "routes", "dE")


def test_equal_conditions_are_one_shared_adapter(rng):
    adapter, x, W = per_example(rng, ids=(2, 2, 2))
    y, shared = adapter.apply(x, W)[0], alone(adapter, 0).apply(x, W)[0]
    assert_close(y, shared, "routes", "y")


def test_another_condition_gives_another_output_for_the_same_input(rng):
    adapter, x, W = per_example(rng)
    y = adapter.apply(np.stack([x[0]] * 3), W)[0]
    assert np.max(np.abs(y[0] - y[1])) > 0.1
    assert np.array_equal(y[1], y[2])


def test_a_condition_for_each_example_is_refused_where_one_is_wanted(rng):
    adapter, x, W = per_example(rng)
    shared = HyperLoRA(adapter.generator, adapter.condition, adapter.at, SCALE)
    what = r"one for the whole batch, so that A is \(r, n\), got an A of \(3, 3, 11\);"
    for call in (shared.lora, lambda: shared.merge(W), lambda: shared.apply(x, W)):
        with pytest.raises(ShapeError, match=f"HyperLoRA: condition must be {what}"):
            call()
    with pytest.raises(ShapeError, match=f"adapters_of: condition must be {what}"):
        adapters_of(adapter.generator, adapter.condition, [1], SCALE)


def test_one_condition_is_refused_where_one_for_each_example_is_wanted(rng):
    adapter, x, W = per_example(rng)
    one = replace(adapter, condition=TaskId(adapter.condition.E, 1))
    for call in (lambda: one.merge(W), lambda: one.apply(x, W)):
        with pytest.raises(ShapeError, match=r"one for each of N examples, .* \(3, 11\)$"):
            call()


def test_a_batch_of_another_size_is_refused_also_where_it_would_broadcast(rng):
    adapter, x, W = per_example(rng)
    for wrong in (x[:2], x[:1]):
        with pytest.raises(ShapeError, match=r"x must be \(..., N, T, n\) with N = 3 from"):
            adapter.apply(wrong, W)


def test_a_weight_of_another_shape_is_refused(rng):
    adapter, _, W = per_example(rng)
    for wrong in (W[:, :1], W[:1], W.T):
        with pytest.raises(ShapeError, match=r"W must be \(m, n\) = \(7, 11\) from generator"):
            adapter.merge(wrong)
    with pytest.raises(ShapeError, match="W must be"):
        alone(adapter, 0).merge(W[:1])


@dataclass(frozen=True, eq=False)
class Model:
    """Three layers that share one generator, and a table of languages."""

    generator: Any
    table: np.ndarray


def network(x, model, Ws, pairs):
    """x through all layers once for each pair of languages; backward: dy -> (dx, dmodel)."""
    outputs, backwards = [], []
    for source, target in pairs:
        condition, h, steps = LanguagePair(model.table, source, target), x, []
        for layer, W in enumerate(Ws):
            u, u_backward = HyperLoRA(model.generator, condition, layer, SCALE).apply(h, W)
            h, activation_backward = gelu(u)
            steps.append((u_backward, activation_backward))
        outputs.append(h)
        backwards.append(steps)

    def backward(dy):
        dx, dmodel = np.zeros_like(x), tree_map(np.zeros_like, model)
        for i, steps in enumerate(backwards):
            d = dy[i]
            for u_backward, activation_backward in reversed(steps):
                d, dadapter = u_backward(activation_backward(d))
                own = Model(dadapter.generator, dadapter.condition.E)
                dmodel = add(dmodel, own)
            dx = dx + d
        return dx, dmodel

    return np.stack(outputs), backward


PAIRS = ((0, 1), (1, 0), (3, 1))


@pytest.fixture
def whole(rng):
    """The model, its input and its frozen weights; language 2 takes part in no pair."""
    sizes = {"condition": 6, "layers": LAYERS, "embedding": 2, "width": 4}
    W = rng.standard_normal((SIZE, SIZE))
    generator = MLPGenerator.init(W, 2, rng, **sizes)
    generator = tree_map(lambda t: t + 0.3 * rng.standard_normal(t.shape), generator)
    Ws = [rng.standard_normal((SIZE, SIZE)) / SIZE**0.5 for _ in range(LAYERS)]
    return Model(generator, rng.standard_normal((4, 3))), rng.standard_normal((3, SIZE)), Ws


def test_gradients_added_over_layers_and_conditions_are_the_gradient_of_the_whole(whole, rng):
    model, x, Ws = whole
    gradcheck(lambda x, model: network(x, model, Ws, PAIRS), [x, model], rng)
    dy = rng.standard_normal((3, 3, SIZE))
    dmodel = network(x, model, Ws, PAIRS)[1](dy)[1]
    assert not np.any(dmodel.table[2])
    assert np.all(dmodel.table[[0, 1, 3]] != 0)
    assert np.all(dmodel.generator.E != 0)


def test_a_step_along_the_gradient_lowers_the_loss_of_every_condition_together(whole):
    model, x, Ws = whole
    target = np.zeros((3, 3, SIZE))

    def loss(model):
        y, backward = network(x, model, Ws, PAIRS)
        return 0.5 * np.sum((y - target) ** 2), backward(y - target)[1]

    before, gradient = loss(model)
    size = sum(float(np.sum(d * d)) for _, d in leaves(gradient))
    step = 1e-6 * before / size  # a millionth of the loss, were it linear
    after, _ = loss(tree_map(lambda t, d: t - step * d, model, gradient))
    assert 0.99e-6 < (before - after) / before < 1.01e-6


def test_adapters_of_gives_every_layer_and_adds_their_gradients(whole, rng):
    model, x, Ws = whole
    condition = LanguagePair(model.table, 3, 1)
    loras, backward = adapters_of(model.generator, condition, range(LAYERS), SCALE)
    dloras, parts = [], []
    for layer, (lora, W) in enumerate(zip(loras, Ws, strict=True)):
        adapter = HyperLoRA(model.generator, condition, layer, SCALE)
        dy = rng.standard_normal((3, SIZE))
        assert np.array_equal(lora.apply(x, W)[0], adapter.apply(x, W)[0])
        dloras.append(lora.apply(x, W)[1](dy)[1])
        parts.append(adapter.apply(x, W)[1](dy)[1])
    dgenerator, dcondition = backward(dloras)
    summed = add(add(parts[0], parts[1]), parts[2])
    assert_trees_close(dgenerator, summed.generator, "routes", "dθ")
    assert_trees_close(dcondition, summed.condition, "routes", "dcondition")


def test_adapters_of_wants_a_gradient_for_each_layer_and_a_layer_at_all(whole):
    model, _, _ = whole
    condition = LanguagePair(model.table, 0, 1)
    loras, backward = adapters_of(model.generator, condition, [2], SCALE)
    with pytest.raises(ValueError, match="argument"):
        backward(loras * 2)
    with pytest.raises(ValueError, match="adapters_of: layers must hold at least one layer"):
        adapters_of(model.generator, condition, [], SCALE)


@pytest.mark.parametrize(
    "generator",
    [ComponentGenerator, DialectGenerator, LinearGenerator, MLPGenerator, TextGenerator],
)
@pytest.mark.parametrize("change", [1, -1])
def test_a_condition_of_another_width_is_refused_with_the_width_that_is_wanted(
    rng, generator, change
):
    made, c, layer = generator_example(generator, rng)
    k = c.shape[-1]
    name, got = generator.__name__, k + change
    said = rf"{name}: condition must be \(\.\.\., {k}\), .* got \(.*{got},?\)$"
    for lead in ((), (3,)):
        wrong = rng.standard_normal((*lead, got))
        with pytest.raises(ShapeError, match=said):
            made.generate(wrong, layer)


@pytest.mark.parametrize("adapter", [HyperLoRA, HyperLoRAPerExample])
def test_a_bare_vector_is_no_condition_and_a_matrix_no_generator(rng, adapter):
    generator, c, layer = generator_example(LinearGenerator, rng)
    name = adapter.__name__
    said = rf"{name}: condition must be a Condition, such as UserEmbedding\(c\).* got ndarray"
    with pytest.raises(TypeError, match=said):
        adapter(generator, c, layer, SCALE)
    with pytest.raises(TypeError, match=f"{name}: generator must be a Generator, got ndarray"):
        adapter(c, UserEmbedding(c), layer, SCALE)
    with pytest.raises(TypeError, match="adapters_of: condition must be a Condition"):
        adapters_of(generator, c, [layer], SCALE)


def test_layers_of_different_shapes_share_a_trunk(rng):
    generator, c, _ = generator_example(TextGenerator, rng)
    wide, tall = rng.standard_normal((7, 11)), rng.standard_normal((11, 7))
    condition = UserEmbedding(c)
    first = HyperLoRA(generator, condition, (2, 1), SCALE)
    second = HyperLoRA(generator, condition, (2, 0), SCALE)
    assert first.merge(wide).shape == (7, 11)
    assert second.merge(tall).shape == (11, 7)
    with pytest.raises(ShapeError):
        first.merge(tall)


def test_what_is_generated_is_saved_and_read_as_a_plain_lora(rng, tmp_path):
    generator, c, _ = generator_example(BasisGenerator, rng, square=4)
    loras, _ = adapters_of(generator, UserEmbedding(c), [0, 1], 0.5)
    names = {f"layers.{i}.q": lora for i, lora in enumerate(loras)}
    config = LoraConfig.from_fields({"r": 4, "lora_alpha": 2, "target_modules": ["q"]})
    write_adapter(tmp_path / "out", from_lora(names, config))
    read = PeftAdapter.open(tmp_path / "out")
    found = {module.place: to_lora(module) for module in read.modules}
    W = rng.standard_normal((4, 4))
    for name, lora in names.items():
        assert_close(found[name].merge(W), lora.merge(W), "golden", name)


def test_heads_at_their_start_learn_from_the_first_step(rng):
    W, x = rng.standard_normal((7, 11)), rng.standard_normal((2, 11))
    generator = LinearGenerator.init(W, 3, rng, condition=4, layers=2, embedding=2)
    adapter = HyperLoRA(generator, UserEmbedding(rng.standard_normal(4)), 1, SCALE)
    d = adapter.apply(x, W)[1](rng.standard_normal((2, 7)))[1]
    assert np.all(d.generator.heads.q != 0)
    assert not np.any(d.generator.heads.p)
    assert type(d.generator.heads) is Heads
