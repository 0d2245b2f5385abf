"""What the members of the DoRA family have in common, and which direction each of them scales."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from lora_ref.adapters import (
    ColumnDoRA,
    ConvDoRA,
    ConvLoRA,
    DoRA,
    EmbeddingDoRA,
    EmbeddingLoRA,
    FanInFanOut,
    LoRA,
    apply_merged,
)
from lora_ref.layers.convolution import Geometry
from lora_ref.shapes import ShapeError
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import (
    ADAPTER_CHECKS,
    assert_trees_close,
    check_apply_gradient,
    check_library,
    check_weight_gradient,
)
from lora_ref.testing.examples import Case, converted
from lora_ref.testing.gradient_check import gradcheck, random_like
from lora_ref.testing.tolerance import Mismatch, assert_close, to_numpy
from lora_ref.trees import leaves

# Over which axes of W a length is taken; the others are those of m.
AXES = {ColumnDoRA: (0,), ConvDoRA: (1, 2, 3), EmbeddingDoRA: (0,)}
FILES = {ColumnDoRA: "dora_columns", ConvDoRA: "dora_conv", EmbeddingDoRA: "dora_embedding"}
GRADIENT_CHECKS = (check_apply_gradient, check_weight_gradient)
SQUARE = pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])


@pytest.fixture(params=AXES, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


def lora_in(dora):
    return getattr(dora, "lora", None) or LoRA(dora.A, dora.B, dora.scale)


def lengths(cls, W):
    return np.sqrt(np.sum(W * W, axis=AXES[cls]))


def along(cls, g):
    return g.reshape(-1, 1, 1, 1) if cls is ConvDoRA else g


def make_detached(cls, square=None):
    def make(rng):
        case = adapter_example(cls, rng, square)
        return Case(replace(case.target, detach_norm=True), case.args)

    return make


def test_the_merged_weight_has_the_magnitudes_for_lengths_and_the_directions_of_lora(cls, rng):
    case = adapter_example(cls, rng)
    W = case.args[1]
    V = lora_in(case.target).merge(W)
    merged = case.target.merge(W)
    assert_close(lengths(cls, merged), np.abs(case.target.m), "routes", "‖W'‖ = |m|")
    g = case.target.m / lengths(cls, V)
    assert_close(merged, V * along(cls, g), "routes", "W'")


def test_around_a_lora_it_starts_as_that_lora(cls, rng):
    case = adapter_example(cls, rng)
    lora, W = lora_in(case.target), case.args[1]
    dora = cls.around(lora, W)
    assert not dora.detach_norm
    assert cls.around(lora, W, detach_norm=True).detach_norm
    assert_close(dora.merge(W), lora.merge(W), "libraries", "W'")
    assert_close(dora.m, lengths(cls, lora.merge(W)), "libraries", "m")


def test_by_column_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((7, 11))
    dora = ColumnDoRA.init(W, rank=3, alpha=5, rng=rng, detach_norm=True)
    assert_close(dora.merge(W), W, "libraries", "W'")
    assert (dora.A.shape, dora.scale, dora.detach_norm) == ((3, 11), 5 / 3, True)
    assert np.max(np.abs(dora.A)) <= 11**-0.5
    assert not ColumnDoRA.init(W, rank=3, alpha=5, rng=rng).detach_norm
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        ColumnDoRA.init(W, rank=0, alpha=5, rng=rng)


def started(cls, rng, library=None, **settings):
    """The adapter that `init` makes of a weight, and the weight."""
    convert = library.convert if library else lambda t: t
    if cls is ConvDoRA:
        geometry = Geometry.uniform(2, stride=2, groups=2)
        W = convert(rng.standard_normal((6, 4, 3, 2)))
        return ConvDoRA.init(W, 4, 5, geometry, rng, **settings), W
    W = convert(rng.standard_normal((7, 11)))
    return cls.init(W, 3, 5, rng, **settings), W


def test_training_starts_at_the_base_model_to_the_last_bit(cls, library, rng):
    dora, W = started(cls, rng, library)
    assert np.array_equal(to_numpy(dora.merge(W)), to_numpy(W))


def test_training_starts_with_one_factor_zero_and_the_other_drawn(cls, rng):
    """B is zero, but of an embedding A."""
    lora = lora_in(started(cls, rng)[0])
    zero, drawn = (lora.A, lora.B) if cls is EmbeddingDoRA else (lora.B, lora.A)
    assert not zero.any()
    assert np.all(drawn != 0)
    assert lora.scale == (5 / 4 if cls is ConvDoRA else 5 / 3)


def test_training_starts_with_the_norms_of_the_weight_for_magnitudes(cls, rng):
    dora, W = started(cls, rng)
    assert_close(dora.m, lengths(cls, W), "libraries", "m")


def test_the_adapter_that_training_starts_with_has_the_gradient_that_was_asked_for(cls, rng):
    assert started(cls, rng, detach_norm=True)[0].detach_norm
    assert not started(cls, rng)[0].detach_norm


def test_a_convolution_starts_with_the_geometry_it_was_given(rng):
    dora, _ = started(ConvDoRA, rng)
    assert dora.lora.geometry == Geometry.uniform(2, stride=2, groups=2)


def test_detaching_the_norm_changes_the_gradients_of_a_and_b_alone(cls, rng):
    case = adapter_example(cls, rng)
    y, backward = case.target.apply(*case.args)
    y_held, held_backward = replace(case.target, detach_norm=True).apply(*case.args)
    assert np.array_equal(y, y_held)
    dy = rng.standard_normal(y.shape)
    (dx, d), (dx_held, held) = backward(dy), held_backward(dy)
    assert np.array_equal(d.m, held.m)
    assert dx is None or np.array_equal(dx, dx_held)
    for name, leaf in leaves(lora_in(d)):
        assert not np.allclose(leaf, dict(leaves(lora_in(held)))[name], rtol=0.01)


@SQUARE
@pytest.mark.parametrize(
    "check", [c for c in ADAPTER_CHECKS if c not in GRADIENT_CHECKS], ids=lambda c: c.__name__
)
def test_a_detached_norm_passes_what_is_no_check_of_the_derivative(
    cls, check, square, library, rng
):
    check(converted(make_detached(cls, square), library.convert), rng)


def test_a_detached_norm_gives_every_library_the_numbers_of_numpy(cls, library, rng):
    check_library(make_detached(cls), rng, library.convert)


@pytest.mark.parametrize("check", GRADIENT_CHECKS, ids=lambda c: c.__name__)
def test_a_detached_norm_is_not_the_gradient_of_the_map(cls, check, rng):
    with pytest.raises(Mismatch, match=r"leaf (lora\.)?A"):
        check(make_detached(cls), rng)


@SQUARE
def test_a_detached_norm_is_the_gradient_of_the_map_whose_norms_stay_as_they_are(cls, square, rng):
    case = make_detached(cls, square)(rng)
    W = case.args[1]
    c = lengths(cls, lora_in(case.target).merge(W))
    _, backward = case.target.weight(W)

    def held(dora):
        return lora_in(dora).merge(W) * along(cls, dora.m / c), backward

    gradcheck(held, [case.target], rng)


class Alternatives:
    """Evaluates every alternative of `either`, and keeps how many there were."""

    def __init__(self):
        self.counts = []

    def __call__(self, xp, *alternatives):
        first, *others = [alternative() for alternative in alternatives]
        self.counts.append(len(alternatives))
        for i, other in enumerate(others, start=1):
            assert_close(other, first, "libraries", f"either {len(self.counts)}, form {i}")
        return first


@SQUARE
def test_all_forms_of_each_quantity_agree(cls, square, rng, monkeypatch):
    either = Alternatives()
    module = importlib.import_module(f"lora_ref.adapters.{FILES[cls]}")
    monkeypatch.setattr(module, "either", either)
    case = adapter_example(cls, rng, square)
    for route in (case.target.apply, lambda x, W: apply_merged(case.target, x, W)):
        y, backward = route(*case.args)
        backward(random_like(y, rng))
    assert either.counts == [2] * {ColumnDoRA: 2, ConvDoRA: 5, EmbeddingDoRA: 4}[cls]


def test_by_column_it_scales_the_inputs(rng):
    """W' is V with its columns scaled, so it is LoRA of the scaled input."""
    case = adapter_example(ColumnDoRA, rng)
    dora, (x, W) = case.target, case.args
    g = dora.m / np.linalg.norm(W + dora.scale * dora.B @ dora.A, axis=0)
    expected = LoRA(dora.A, dora.B, dora.scale).apply(g * x, W)[0]
    assert_close(dora.apply(x, W)[0], expected, "routes", "y")


def test_by_column_it_is_dora_of_the_transposed_weight(rng):
    case = adapter_example(ColumnDoRA, rng)
    dora, W = case.target, case.args[1]
    turned = DoRA(dora.B.T, dora.A.T, dora.m, dora.scale)
    dW = rng.standard_normal(W.shape)
    assert_close(dora.merge(W), turned.merge(W.T).T, "routes", "W'")
    d, d_turned = dora.weight(W)[1](dW), turned.weight(W.T)[1](dW.T)
    assert_close(d.A, d_turned.B.T, "routes", "dA")
    assert_close(d.m, d_turned.m, "routes", "dm")


def test_by_row_and_by_column_are_other_maps_on_a_square_weight(rng):
    case = adapter_example(ColumnDoRA, rng, square=4)
    dora, W = case.target, case.args[1]
    by_row = DoRA(dora.A, dora.B, dora.m, dora.scale)
    assert np.linalg.norm(by_row.merge(W) - dora.merge(W)) > 0.1 * np.linalg.norm(W)


def test_a_kernel_of_size_one_is_dora_of_a_linear_layer(rng):
    dora = adapter_example(DoRA, rng).target
    W, x = rng.standard_normal((7, 11)), rng.standard_normal((2, 5, 11))
    A, B = dora.A[:, :, None], dora.B[:, :, None]
    conv = ConvDoRA(ConvLoRA(A, B, dora.scale, Geometry.uniform(1)), dora.m)
    (y, backward), (z, z_backward) = conv.apply(x.mT, W[:, :, None]), dora.apply(x, W)
    dy = rng.standard_normal(z.shape)
    (dx, d), (dx_linear, d_linear) = backward(dy.mT), z_backward(dy)
    assert_close(y.mT, z, "routes", "y")
    assert_close(dx.mT, dx_linear, "routes", "dx")
    found = d.lora.A[:, :, 0], d.lora.B[:, :, 0], d.m
    assert_trees_close(found, (d_linear.A, d_linear.B, d_linear.m), "routes", "dθ")


def test_an_embedding_is_dora_of_the_transposed_table_at_one_hot_inputs(rng):
    case = adapter_example(EmbeddingDoRA, rng)
    dora, (ids, E) = case.target, case.args
    turned = FanInFanOut(DoRA(dora.lora.A, dora.lora.B, dora.m, dora.lora.scale))
    one_hot = np.eye(E.shape[0])[ids]
    (y, backward), (z, z_backward) = dora.apply(ids, E), turned.apply(one_hot, E)
    dy = rng.standard_normal(y.shape)
    d, d_turned = backward(dy)[1], z_backward(dy)[1].inner
    assert_close(y, z, "routes", "y")
    found, expected = (d.lora.A, d.lora.B, d.m), (d_turned.A, d_turned.B, d_turned.m)
    assert_trees_close(found, expected, "routes", "dθ")


def test_only_with_a_detached_norm_do_ids_outside_of_the_batch_keep_a_gradient_of_zero(rng):
    case = adapter_example(EmbeddingDoRA, rng)
    dora, (_, E) = case.target, case.args
    ids, others = np.array([0, 2]), [1, *range(3, E.shape[0])]
    dy = rng.standard_normal((2, E.shape[1]))
    held = replace(dora, detach_norm=True).apply(ids, E)[1](dy)[1]
    full = dora.apply(ids, E)[1](dy)[1]
    assert np.all(held.lora.A[:, others] == 0)
    assert np.all(full.lora.A[:, others] != 0)


def test_a_slice_of_zeros_is_nan(cls, rng):
    case = adapter_example(cls, rng)
    lora, W = lora_in(case.target), np.array(case.args[1])
    W[(2,) if cls is ConvDoRA else (slice(None), 2)] = 0
    lora = replace(lora, A=0 * lora.A)
    with np.errstate(divide="ignore", invalid="ignore"):
        merged = cls.around(lora, W).merge(W)
    first = merged if cls is ConvDoRA else merged.T
    assert [bool(np.all(np.isnan(t))) for t in first] == [i == 2 for i in range(len(first))]


def test_magnitudes_of_another_number_are_refused(rng):
    A, B = rng.standard_normal((3, 11)), rng.standard_normal((7, 3))
    with pytest.raises(ShapeError, match=r"ColumnDoRA.m must be \(n,\) with n = 11 .* got \(7,\)"):
        ColumnDoRA(A, B, np.ones(7), 1.0)
    with pytest.raises(ShapeError, match=r"EmbeddingDoRA.m must be \(d,\) with d = 7 .* \(11,\)"):
        EmbeddingDoRA(EmbeddingLoRA(A, B, 1.0), np.ones(11))
    lora = ConvLoRA(A[:, :, None], B[:, :, None], 1.0, Geometry.uniform(1))
    with pytest.raises(ShapeError, match=r"ConvDoRA.m must be \(m,\) with m = 7 .* got \(1, 7\)|m"):
        ConvDoRA(lora, np.ones(11))
    with pytest.raises(ShapeError, match=r"ConvDoRA.m"):
        ConvDoRA(lora, np.ones((1, 7, 1)))
