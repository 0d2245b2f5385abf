"""Generators and conditions by themselves: the contract, by gradient checks and by shapes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lora_ref.adapters import generators
from lora_ref.adapters.generators import (
    Affine,
    Basis,
    BasisGenerator,
    ClippedGenerator,
    ComponentGenerator,
    DescriptionGenerator,
    DialectGenerator,
    Generator,
    Heads,
    LanguagePair,
    LinearGenerator,
    MLPGenerator,
    Network,
    ReferenceTokens,
    TaskId,
    TextGenerator,
    UserEmbedding,
)
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import ADAPTER_CHECKS, assert_trees_close, check_library
from lora_ref.testing.generator_examples import (
    GENERATORS,
    LAYERS,
    WIDTH,
    around,
    condition_examples,
    generator_example,
    hyperlora_example,
    reference_tokens,
)
from lora_ref.testing.gradient_check import gradcheck, random_like
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import leaves, tree_map
from lora_ref.verdict import BFLOAT16_CONTRACT, emulate, judge, oracle_of
from lora_ref.verdict.grids import BFLOAT16

each_generator = pytest.mark.parametrize("cls", GENERATORS, ids=lambda cls: cls.__name__)
each_size = pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
each_batch = pytest.mark.parametrize("examples", [None, 4], ids=["shared", "per_example"])
KINDS = ("task", "pair", "user", "text")


def generate(layer, generator, c):
    """`generate` as the gradient check calls a function: the cotangent is one tree."""
    factors, backward = generator.generate(c, layer)
    return factors, lambda d: backward(*d)


def vector(condition):
    return condition.vector()


def test_every_generator_of_the_library_has_an_example():
    named = {getattr(generators, name) for name in generators.__all__}
    assert {t for t in named if issubclass(t, Generator)} == {*GENERATORS, Generator}


@each_generator
@each_size
@each_batch
def test_a_generator_is_differentiable_in_its_parameters_and_in_the_condition(
    cls, square, examples, rng
):
    generator, c, layer = generator_example(cls, rng, square, examples)
    gradcheck(partial(generate, layer), [generator, c], rng)


@each_generator
@each_batch
def test_factors_have_the_shapes_of_the_contract(cls, examples, rng):
    generator, c, layer = generator_example(cls, rng, None, examples)
    A, B = generator.generate(c, layer)[0]
    lead = () if examples is None else (examples,)
    assert (A.shape, B.shape) == ((*lead, 3, 11), (*lead, 7, 3))


@each_generator
def test_an_example_of_a_batch_gets_the_factors_that_it_gets_alone(cls, rng):
    generator, c, layer = generator_example(cls, rng, None, 4)
    A, B = generator.generate(c, layer)[0]
    alone = generator.generate(c[2], layer)[0]
    assert_trees_close(alone, (A[2], B[2]), "routes", "example 2 alone")


@each_generator
def test_the_gradient_of_a_batch_is_the_sum_of_those_of_its_examples(cls, rng):
    generator, c, layer = generator_example(cls, rng, None, 2)
    factors, backward = generator.generate(c, layer)
    d = random_like(factors, rng)
    whole, dc = backward(*d)
    parts = [generator.generate(c[i], layer)[1](d[0][i], d[1][i]) for i in range(2)]
    summed = tree_map(lambda a, b: a + b, parts[0][0], parts[1][0])
    assert_trees_close(whole, summed, "routes", "dθ")
    assert_close(dc, np.stack([parts[0][1], parts[1][1]]), "routes", "dc")


@each_generator
@each_batch
@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
def test_an_adapter_around_a_generator_passes_the_checks(check, cls, examples, rng):
    check(partial(hyperlora_example, cls, square=4, examples=examples), rng)
    check(partial(hyperlora_example, cls, examples=examples), rng)


@each_generator
@each_batch
def test_a_generator_gives_every_library_the_numbers_of_numpy(cls, examples, library, rng):
    check_library(partial(hyperlora_example, cls, examples=examples), rng, library.convert)


@each_generator
@each_batch
def test_a_generator_that_runs_in_bfloat16_is_no_bug_to_the_verdict(cls, examples, rng):
    """Bounds, variances and the emulation read the generator's text, and agree on it."""
    case = tree_map(BFLOAT16.round, hyperlora_example(cls, rng, None, examples))
    x, W = case.args
    dy = BFLOAT16.round(rng.standard_normal(case.target.apply(x, W)[0].shape))
    inputs = {"x": x, "adapter": case.target}
    oracle = oracle_of(lambda x, adapter, W: adapter.apply(x, W), inputs, {"W": W}, dy)
    found = judge(emulate(oracle, BFLOAT16_CONTRACT), oracle, BFLOAT16_CONTRACT).findings
    assert len(found) == 2 + len([*leaves(case.target)])
    verdicts = {finding.line().split(",")[0].split(": ")[1] for finding in found}
    assert verdicts <= {"rounding", "exact", "undecidable"}


@each_generator
def test_another_layer_gets_another_adapter(cls, rng):
    generator, c, layer = generator_example(cls, rng, square=4)
    other = (0, layer[1]) if isinstance(layer, tuple) else 0
    here, there = (generator.generate(c, at)[0] for at in (layer, other))
    assert not np.allclose(here[0], there[0], atol=0.01)
    assert not np.allclose(here[1], there[1], atol=0.01)


@each_generator
def test_a_layer_that_is_not_there_is_an_error_that_says_so(cls, rng):
    generator, c, layer = generator_example(cls, rng)
    name = {ClippedGenerator: "LinearGenerator"}.get(cls, cls.__name__)
    if cls is DialectGenerator:  # its layers are numbers, of any size
        return
    wrong = (LAYERS, layer[1]) if isinstance(layer, tuple) else LAYERS
    what = "depth" if isinstance(layer, tuple) else "layer"
    for at, said in ((wrong, LAYERS), (negative(layer), -1)):
        with pytest.raises(IndexError) as error:
            generator.generate(c, at)
        assert str(error.value).startswith(f"{name}: {what} must be in [0, {LAYERS})")
        assert str(error.value).endswith(f"got {said}")


def negative(layer):
    return (-1, layer[1]) if isinstance(layer, tuple) else -1


def test_a_kind_of_module_that_has_no_heads_is_an_error(rng):
    generator, c, _ = generator_example(TextGenerator, rng)
    with pytest.raises(IndexError, match=r"TextGenerator: kind must be in \[0, 2\)"):
        generator.generate(c, (0, 2))
    with pytest.raises(ValueError, match="heads must hold 2, one for each row of F, got 1"):
        replace(generator, heads=generator.heads[:1])


@pytest.mark.parametrize("kind", KINDS)
@each_batch
def test_a_condition_is_differentiable(kind, examples, rng):
    condition = condition_examples(rng, examples)[kind]
    gradcheck(vector, [condition], rng)
    lead = () if examples is None else (examples,)
    assert condition.vector()[0].shape == (*lead, WIDTH)


def test_reference_tokens_are_differentiable_and_each_is_of_length_one(rng):
    condition = reference_tokens(rng)
    gradcheck(vector, [condition], rng)
    c = condition.vector()[0]
    assert c.shape == (2 * LAYERS, WIDTH)
    assert_close(np.sum(c * c, axis=-1), np.ones(2 * LAYERS), "float32", "‖c‖² for ε = 1e-8")
    zero = ReferenceTokens(np.zeros((2, 4, 3)))
    assert not np.any(zero.vector()[0])


def test_the_mean_of_references_comes_before_the_norm(rng):
    tokens = rng.standard_normal((2, 2, 3)) * np.array([1.0, 100.0])[:, None, None]
    c = ReferenceTokens(tokens).vector()[0]
    mean = np.mean(tokens, axis=0)
    assert_close(c, mean / np.linalg.norm(mean, axis=-1, keepdims=True), "golden", "c")


def test_a_task_is_a_row_of_its_table(rng):
    E = rng.standard_normal((4, 3))
    assert np.array_equal(TaskId(E, 2).vector()[0], E[2])
    assert np.array_equal(TaskId(E, (3, 0, 3)).vector()[0], E[[3, 0, 3]])


def test_a_task_that_is_asked_for_twice_has_the_sum_of_both_gradients(rng):
    dc = rng.standard_normal((3, 5))
    d = TaskId(rng.standard_normal((4, 5)), (1, 3, 1)).vector()[1](dc)
    expected = np.zeros((4, 5))
    expected[1], expected[3] = dc[0] + dc[2], dc[1]
    assert_close(d.E, expected, "golden", "dE")


def test_a_pair_of_languages_is_ordered_and_shares_one_table(rng):
    E = rng.standard_normal((4, 3))
    c = LanguagePair(E, 1, 2).vector()[0]
    assert np.array_equal(c, np.concatenate([E[1], E[2]]))
    assert not np.array_equal(c, LanguagePair(E, 2, 1).vector()[0])
    dc = rng.standard_normal(6)
    d = LanguagePair(E, 3, 3).vector()[1](dc)
    assert_close(d.E[3], dc[:3] + dc[3:], "golden", "dE of a language that is both")


def test_a_pair_must_have_a_target_for_each_source(rng):
    E = rng.standard_normal((4, 3))
    for source, target in (((1, 2), (0,)), (1, (2,)), ((1,), 2)):
        with pytest.raises(ValueError, match="LanguagePair: target must hold as many languages"):
            LanguagePair(E, source, target)


@pytest.mark.parametrize("i", [-1, 4])
def test_a_task_that_is_not_in_the_table_is_an_error(i, rng):
    E = rng.standard_normal((4, 3))
    with pytest.raises(IndexError, match=r"TaskId: ids must be in \[0, 4\), .*got"):
        TaskId(E, (0, i)).vector()
    with pytest.raises(IndexError, match=r"LanguagePair: target must be in \[0, 4\)"):
        LanguagePair(E, 0, i).vector()


def test_heads_start_as_lora_for_every_condition(rng):
    W = rng.standard_normal((7, 11))
    sizes = {"condition": 5, "layers": 3, "embedding": 4}
    for generator in (
        LinearGenerator.init(W, 3, rng, **sizes),
        MLPGenerator.init(W, 3, rng, **sizes, width=6),
    ):
        (A, B), backward = generator.generate(rng.standard_normal(5), 1)
        (other, _), _ = generator.generate(rng.standard_normal(5), 2)
        assert not np.any(B)
        assert np.array_equal(A, other)
        assert 0.2 < np.max(A) <= 11**-0.5
        assert 0.2 < -np.min(A) <= 11**-0.5
        assert (A.shape, B.shape) == ((3, 11), (7, 3))
        d, _ = backward(np.zeros((3, 11)), rng.standard_normal((7, 3)))
        assert np.all(d.heads.Q != 0)
        assert generator.E.shape == (3, 4)
        assert 0.2 < np.std(generator.E) < 3


def test_an_mlp_starts_with_weights_of_its_width(rng):
    W = rng.standard_normal((7, 11))
    made = MLPGenerator.init(W, 3, rng, condition=5, layers=3, embedding=4, width=6)
    assert made.hidden.V.shape == (6, 9)
    assert 0.25 < np.max(made.hidden.V) <= 1 / 3
    assert 0.25 < -np.min(made.hidden.V) <= 1 / 3
    assert not np.any(made.hidden.v)


def test_every_start_has_the_dtype_of_its_weight(rng):
    W = rng.standard_normal((7, 11)).astype(np.float32)
    sizes = {"condition": 5, "layers": 3, "embedding": 4}
    made = (
        LinearGenerator.init(W, 3, rng, **sizes),
        MLPGenerator.init(W, 3, rng, **sizes, width=6),
        DialectGenerator.init(W, 3, rng, condition=5),
        BasisGenerator.zeros([W], 3, condition=5),
    )
    assert {leaf.dtype for _, leaf in leaves(made)} == {np.dtype(np.float32)}


def test_heads_of_rank_zero_are_an_error(rng):
    with pytest.raises(ValueError, match="Heads: rank must be an integer of at least 1, got 0"):
        Heads.init(rng.standard_normal((7, 11)), 0, 5, rng)
    assert Heads.init(rng.standard_normal((7, 11)), 1, 5, rng).P.shape == (1, 11, 5)


def test_the_dialect_network_starts_at_1e_7_and_its_update_far_below(rng):
    W = rng.standard_normal((7, 11))
    generator = DialectGenerator.init(W, 3, rng, condition=5)
    drawn = generator.down.first.V, generator.down.second.V, generator.up.second.V
    assert all(0.3e-7 < np.std(V) < 2e-7 for V in drawn)
    assert [V.shape for V in drawn] == [(8, 6), (33, 8), (21, 8)]
    assert not np.any(generator.down.first.v)
    A, B = generator.generate(rng.standard_normal(5), 23)[0]
    assert 0 < np.max(np.abs(B @ A)) < 1e-22


def test_the_number_of_a_layer_is_the_last_feature(rng):
    """With the condition's weights at zero, ReLU of an affine map of the number is left."""
    generator, c, _ = generator_example(DialectGenerator, rng)
    V = np.zeros_like(generator.down.first.V)
    V[:, -1] = 1.0
    first = Affine(V, np.zeros(V.shape[0]))
    second = Affine(generator.down.second.V)
    linear = replace(generator, down=Network(first, second))
    A1, A5 = (linear.generate(c, layer)[0][0] for layer in (1, 5))
    assert_close(A5, 5 * A1, "golden", "A of layer 5")


def test_a_rank_that_does_not_divide_a_network_is_an_error(rng):
    generator, _, _ = generator_example(DialectGenerator, rng)
    with pytest.raises(ShapeError, match="rank must divide the 33 outputs of down, got 7"):
        replace(generator, rank=7)
    with pytest.raises(ShapeError, match="rank must divide the 21 outputs of up, got 11"):
        replace(generator, rank=11)
    with pytest.raises(ShapeError, match="got 0"):
        replace(generator, rank=0)
    assert replace(generator, rank=1).rank == 1


def test_bases_of_zero_are_a_stationary_point(rng):
    W = rng.standard_normal((7, 11))
    generator = BasisGenerator.zeros([W, W.T], 3, condition=5)
    assert generator.layers[0].D.shape == (5, 11, 3)
    assert generator.layers[1].U.shape == (5, 3, 11)
    (A, B), backward = generator.generate(rng.standard_normal((4, 5)), 0)
    dW = rng.standard_normal(W.shape)
    d, dc = backward(B.T @ dW, dW @ A.T)
    assert not any(np.any(leaf) for _, leaf in leaves((d, dc)))


def test_a_layer_takes_its_own_two_tokens(rng):
    generator, c, layer = generator_example(BasisGenerator, rng)
    basis = generator.layers[layer]
    A, B = generator.generate(c, layer)[0]
    assert_close(A, np.einsum("k,knr->rn", c[2 * layer], basis.D), "routes", "A")
    assert_close(B, np.einsum("k,krm->mr", c[2 * layer + 1], basis.U), "routes", "B")


def test_tokens_that_do_not_fit_the_layers_are_an_error(rng):
    generator, c, layer = generator_example(BasisGenerator, rng)
    for wrong in (c[1:], c[:, 1:]):
        with pytest.raises(ShapeError, match=r"c must be \(..., 2 L, k\) with L = 3 from layers"):
            generator.generate(wrong, layer)
    with pytest.raises(ShapeError, match=r"Basis: Basis.U must be \(k, r, m\)"):
        Basis(np.ones((2, 5, 3)), np.ones((2, 4, 7)))


def test_components_of_a_description_must_be_even(rng):
    generator, c, layer = generator_example(DescriptionGenerator, rng)
    with pytest.raises(ShapeError, match=r"c must be \(..., L, 2 r, k\)"):
        generator.generate(c[:, 1:], layer)
    with pytest.raises(ShapeError, match=r"c must be \(..., L, 2 r, k\)"):
        generator.generate(c[:, :0], layer)


def test_a_description_of_rank_one_is_read_as_it_is_written(rng):
    generator, c, layer = generator_example(DescriptionGenerator, rng)
    A, B = generator.generate(c[:, :2], layer)[0]
    assert (A.shape, B.shape) == ((1, 11), (7, 1))
    whole = generator.generate(c[:, [0, 1, 2, 1, 1, 1]], layer)[0][1]
    assert_close(whole[:, :1], B, "routes", "column 0 of B")


def test_a_description_writes_columns_of_B_and_scatters_rows_over_A(rng):
    """A change of component 0 moves column 0 of B, and every row of A."""
    generator, c, layer = generator_example(DescriptionGenerator, rng)
    A, B = generator.generate(c, layer)[0]
    moved = c.copy()
    moved[layer, [0, 3]] += 1
    A_moved, B_moved = generator.generate(moved, layer)[0]
    assert np.array_equal(np.any(B_moved != B, axis=0), [True, False, False])
    assert np.array_equal(np.any(A_moved != A, axis=1), [True, True, True])


def test_a_component_writes_one_row_of_A_and_one_column_of_B(rng):
    generator, c, layer = generator_example(ComponentGenerator, rng)
    A, B = generator.generate(c, layer)[0]
    E_A, E_B = generator.E_A.copy(), generator.E_B.copy()
    E_A[layer, 0] += 1
    E_B[layer, 2] += 1
    A_moved, B_moved = replace(generator, E_A=E_A, E_B=E_B).generate(c, layer)[0]
    assert np.array_equal(np.any(A_moved != A, axis=1), [True, False, False])
    assert np.array_equal(np.any(B_moved != B, axis=0), [False, False, True])


def test_the_scale_of_both_factors_enters_the_update_squared(rng):
    inner, c, layer = generator_example(LinearGenerator, rng)
    A, B = inner.generate(c, layer)[0]
    A_scaled, B_scaled = ClippedGenerator(inner, scale=3.0).generate(c, layer)[0]
    assert_close(B_scaled @ A_scaled, 9.0 * (B @ A), "routes", "ΔW")


def test_what_is_clipped_has_no_gradient_and_the_rest_has_the_scale(rng):
    generator, c, layer = generator_example(ClippedGenerator, rng)
    (A, B), backward = generator.generate(c, layer)
    assert 0 < np.count_nonzero(np.abs(A) == 1) < A.size
    at_bound, inside = np.abs(A) == 1, np.abs(A) < 1
    d, _ = backward(np.where(at_bound, 1.0, 0.0), np.zeros_like(B))
    assert not any(np.any(leaf) for _, leaf in leaves(d))
    d, _ = backward(np.where(inside, 1.0, 0.0), np.zeros_like(B))
    assert_close(d.inner.heads.p, 0.75 * inside, "golden", "dp")


def test_at_the_bound_itself_there_is_no_gradient():
    p = np.array([[4.0, -4.0, 3.9375]])
    heads = Heads(np.zeros((1, 3, 2)), p, np.zeros((2, 1, 2)), np.ones((2, 1)))
    generator = ClippedGenerator(LinearGenerator(np.ones((1, 1)), heads), scale=0.5, bound=2.0)
    (A, B), backward = generator.generate(np.ones(1), 0)
    assert A.tolist() == [[2.0, -2.0, 1.96875]]
    assert backward(np.ones_like(A), np.ones_like(B))[0].inner.heads.p.tolist() == [[0.0, 0.0, 0.5]]


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf, np.nan])
def test_a_bound_that_is_none_is_an_error(bound, rng):
    inner, _, _ = generator_example(LinearGenerator, rng)
    with pytest.raises(ValueError, match="ClippedGenerator: bound must be positive and finite"):
        ClippedGenerator(inner, 1.0, bound)
    assert ClippedGenerator(inner, 1.0).bound == 1000.0


def test_a_condition_of_the_wrong_width_is_an_error_of_shapes(rng):
    for cls in (LinearGenerator, MLPGenerator):
        generator, c, layer = generator_example(cls, rng)
        with pytest.raises(ShapeError):
            generator.generate(c[1:], layer)


def test_parts_that_do_not_fit_are_errors_of_shapes_at_construction():
    with pytest.raises(ShapeError, match=r"Heads: Heads.q must be \(m, r\) with"):
        Heads(np.ones((3, 5, 2)), np.ones((3, 5)), np.ones((7, 3, 2)), np.ones((7, 4)))
    with pytest.raises(ShapeError, match=r"Affine: Affine.v must be \(m,\)"):
        Affine(np.ones((3, 5)), np.ones(5))


def test_a_read_only_condition_stays_as_it_is(rng):
    generator, c, layer = generator_example(TextGenerator, rng)
    c.flags.writeable = False
    generator.generate(c, layer)[1](np.ones((3, 11)), np.ones((7, 3)))
    assert UserEmbedding(c).vector()[0] is c


def test_every_library_gets_the_examples_of_conditions(library, rng):
    def make(rng):
        generator, _, layer = generator_example(LinearGenerator, rng)
        return around(generator, condition_examples(rng, 3)["text"], layer, rng)

    check_library(make, rng, library.convert)
