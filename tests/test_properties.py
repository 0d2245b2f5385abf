"""Properties of LoRA and of the linear layers, over sizes and values that Hypothesis draws."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lora_ref.adapters import (
    ADAPTERS,
    OFT,
    Bat,
    BiasedLoRA,
    ColumnDoRA,
    ConvDoRA,
    DoRA,
    EmbeddingDoRA,
    LoRA,
    MiSS,
    apply_merged,
)
from lora_ref.adapters.lora import scaling, stabilised_scaling, swap
from lora_ref.arrays import rows
from lora_ref.layers.linear import affine, linear
from lora_ref.shapes import ShapeError
from lora_ref.testing import TOLERANCE, gradcheck
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.checks import check_routes_agree
from lora_ref.testing.strategies import EVERY, adapter_cases, adapters, cases, from_spec, undrawn
from lora_ref.trees import leaves, map_arrays, tree_map, with_leaves

UNIT = 2.0**-53  # the largest relative error of one rounding in float64
ROUTES = TOLERANCE["routes"]


RELATED = {Bat, MiSS, OFT}  # some of their sizes divide others, which specs cannot say
DORAS = {DoRA, ColumnDoRA, ConvDoRA, EmbeddingDoRA}
DRAWN = [
    cls
    for cls in ADAPTERS
    if cls not in RELATED and not undrawn(cls) and {"x", "W"} <= {*cls.apply.__shapes__}
]


def size_of_terms(case):
    """|y| if nothing cancelled: the same map of absolute values."""
    adapter, args = map_arrays(np.abs, (case.target, case.args))
    if hasattr(adapter, "scale"):
        adapter = with_leaves(adapter, scale=abs(adapter.scale))
    return adapter.apply(*args)[0]


@pytest.mark.parametrize("cls", DRAWN, ids=lambda cls: cls.__name__)
def test_apply_is_the_layer_with_the_merged_weight(cls):
    @given(adapter_cases(cls))
    def holds(case):
        y, _ = case.target.apply(*case.args)
        merged, _ = apply_merged(case.target, *case.args)
        assert np.all(np.abs(y - merged) <= ROUTES * size_of_terms(case))

    holds()


@given(adapter_cases(LoRA), st.integers(0, 99))
def test_backward_of_apply_is_linear(case, seed):
    y, backward = case.target.apply(*case.args)
    v, w = np.random.default_rng(seed).standard_normal((2, *y.shape))
    together, apart = backward(3 * v - w), (backward(v), backward(w))
    for (_, t), (_, a), (_, b) in zip(leaves(together), *map(leaves, apart), strict=True):
        size = np.linalg.norm(np.abs(a) + np.abs(b))
        assert np.linalg.norm(t - (3 * a - b)) <= 3 * ROUTES * size


@given(adapter_cases(LoRA, leading=st.tuples(st.integers(1, 4))), st.integers(0, 99))
def test_the_gradient_of_a_batch_is_the_sum_over_its_rows(case, seed):
    x, W = case.args
    y, backward = case.target.apply(x, W)
    dy = np.random.default_rng(seed).standard_normal(y.shape)
    dx, dadapter = backward(dy)
    alone = [case.target.apply(x[i], W)[1](dy[i]) for i in range(len(x))]
    for name in ("A", "B"):
        parts = [getattr(d, name) for _, d in alone]
        size = np.linalg.norm(sum(map(np.abs, parts)))
        assert np.linalg.norm(getattr(dadapter, name) - sum(parts)) <= ROUTES * size
    size = np.linalg.norm(np.abs(dy) @ np.abs(W)) + np.linalg.norm(dx)
    assert all(np.linalg.norm(dx[i] - alone[i][0]) <= ROUTES * size for i in range(len(x)))


@given(adapter_cases(LoRA))
def test_unmerge_undoes_merge_within_two_roundings(case):
    W = case.args[1]
    merged = case.target.merge(W)
    back = case.target.unmerge(merged)
    assert np.all(np.abs(back - W) <= (1 + 4 * UNIT) * UNIT * (np.abs(merged) + np.abs(back)))


@given(adapter_cases(LoRA))
def test_merging_is_not_the_identity_unless_the_update_is_lost(case):
    W, delta = case.args[1], case.target.delta()
    seen = np.abs(delta) > 2 * UNIT * np.abs(W)
    assert np.all((case.target.merge(W) != W)[seen])


@given(adapter_cases(LoRA), st.data())
def test_swap_is_unmerge_then_merge(case, data):
    specs, sizes = LoRA.__shapes__, dict(zip("rn", case.target.A.shape, strict=True))
    sizes["m"] = case.args[1].shape[0]
    A, B = (data.draw(from_spec(specs[name], sizes)) for name in "AB")
    old, new = case.target, LoRA(A, B, 0.25)
    W = case.args[1]
    size = np.abs(W) + 2 * np.abs(old.delta()) + np.abs(new.delta())
    assert np.all(np.abs(swap(old.merge(W), old, new) - new.merge(W)) <= 8 * UNIT * size)


@given(adapter_cases(LoRA), st.integers(-6, 6))
def test_a_scale_that_is_a_power_of_two_may_be_folded_into_b_without_rounding(case, k):
    A, B = case.target.A, case.target.B
    apart, folded = LoRA(A, B, 2.0**k), LoRA(A, 2.0**k * B, 1.0)
    assert np.array_equal(apart.apply(*case.args)[0], folded.apply(*case.args)[0])
    assert np.array_equal(apart.merge(case.args[1]), folded.merge(case.args[1]))


@given(adapter_cases(LoRA), st.integers(0, 99))
def test_folding_the_scale_into_b_scales_the_gradient_of_b_back(case, seed):
    lora = case.target
    folded = LoRA(lora.A, lora.scale * lora.B, 1.0)
    dW = np.random.default_rng(seed).standard_normal(case.args[1].shape)
    d, d_folded = (adapter.weight(case.args[1])[1](dW) for adapter in (lora, folded))
    size = np.abs(dW) @ np.abs(lora.A.T)
    assert np.all(np.abs(d.B - lora.scale * d_folded.B) <= ROUTES * abs(lora.scale) * size)


@given(st.floats(0.01, 1e4), st.integers(1, 1024))
def test_the_two_scales_are_alpha_over_r_and_alpha_over_root_r(alpha, rank):
    s, stabilised = scaling(alpha, rank), stabilised_scaling(alpha, rank)
    assert abs(s * rank - alpha) <= 2 * UNIT * alpha
    assert abs(stabilised * stabilised * rank - alpha * alpha) <= 8 * UNIT * alpha * alpha
    assert type(s) is type(stabilised) is float


@given(st.integers(1, 8), st.integers(8, 64), st.integers(0, 99))
def test_init_spreads_a_over_its_interval_and_leaves_the_weight_alone(rank, n, seed):
    W, bound = np.random.default_rng(seed).standard_normal((5, n)), n**-0.5
    lora = LoRA.init(W, rank, 5.0, np.random.default_rng(seed))
    assert -bound <= lora.A.min() < -bound / 4
    assert bound / 4 < lora.A.max() <= bound
    assert np.array_equal(lora.merge(W), W)
    assert lora.scale == scaling(5.0, rank)


@pytest.mark.parametrize("init", [LoRA.init, LoRA.init_gaussian])
def test_a_rank_of_one_is_a_rank_and_zero_is_none(init, rng):
    W = np.ones((5, 7))
    assert init(W, 1, 5.0, rng).A.shape == (1, 7)
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        init(W, 0, 5.0, rng)


@given(adapter_cases(LoRA, leading=st.tuples(st.integers(2, 4))), st.data())
def test_nan_in_one_row_of_x_reaches_that_row_of_y_and_dx_only(case, data):
    x, W = case.args
    row = data.draw(st.integers(0, len(x) - 1))
    spoilt = x.copy()
    spoilt[row, 0] = np.nan
    with np.errstate(all="ignore"):
        y, y_spoilt = (case.target.apply(t, W)[0] for t in (x, spoilt))
    others = np.arange(len(x)) != row
    assert np.all(np.isnan(y_spoilt[row]))
    assert np.array_equal(np.isnan(y_spoilt[others]), np.isnan(y[others]))


@given(adapter_cases(LoRA, regimes=EVERY))
def test_special_values_pass_as_ieee_says(case):
    """Elementwise sums in plain Python floats, which know IEEE 754 and nothing of matrices."""
    x, W = rows(case.args[0]) if case.args[0].ndim > 1 else case.args[0][None], case.args[1]
    A, B, s = case.target.A, case.target.B, case.target.scale
    with np.errstate(all="ignore"):
        y = case.target.apply(x, W)[0]
        u = np.array([[_dot(xi, a) for a in A] for xi in x]).reshape(len(x), len(A))
        expected = [
            [_dot(xi, w) + s * _dot(ui, b) for w, b in zip(W, B, strict=True)]
            for xi, ui in zip(x, u, strict=True)
        ]
    expected = np.array(expected).reshape(y.shape)
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    assert np.array_equal(np.isinf(y), np.isinf(expected))


def _dot(a, b):
    return sum((float(p) * float(q) for p, q in zip(a, b, strict=True)), 0.0)


@pytest.mark.parametrize("cls", DRAWN, ids=lambda cls: cls.__name__)
def test_a_leading_axis_of_size_zero_gives_empty_y_and_zero_gradients(cls):
    @given(adapter_cases(cls, leading=st.sampled_from([(0,), (2, 0), (0, 3)])))
    def holds(case):
        y, backward = case.target.apply(*case.args)
        dx, dadapter = backward(np.zeros(y.shape))
        assert y.size == 0
        assert dx is None or dx.shape == case.args[0].shape
        for path, leaf in leaves(case.target):
            assert np.array_equal(dict(leaves(dadapter))[path], np.zeros(leaf.shape))

    holds()


@given(cases(affine), st.integers(0, 99))
def test_the_gradients_of_affine_hold_at_every_size(case, seed):
    x = case.args[0]
    moderate = tree_map(lambda t: t / max(np.max(np.abs(t), initial=0.0), 1e-300), case.args)
    if x.size:
        gradcheck(affine, moderate, np.random.default_rng(seed))


@given(cases(linear), st.data())
def test_a_size_that_disagrees_is_a_shape_error_with_who_what_and_whence(case, data):
    x, W = case.args
    n = x.shape[-1] + data.draw(st.sampled_from([-1, 1, 2]))
    wrong = np.ones((W.shape[0], n))
    with pytest.raises(ShapeError) as error:
        linear(x, wrong)
    assert str(error.value) == (
        f"linear: W must be (m, n) with n = {x.shape[-1]} from x, got {wrong.shape}"
    )


@given(adapter_cases(LoRA), st.sampled_from(["W", "x"]), st.sampled_from(["more", "less", "size"]))
def test_every_wrong_shape_of_lora_is_a_shape_error_that_names_its_argument(case, name, how):
    x, W = case.args
    wrong = {
        ("W", "more"): W[None],
        ("W", "less"): W[0],
        ("W", "size"): np.ones((W.shape[0] + 1, W.shape[1])),
        ("x", "more"): np.ones((*x.shape, x.shape[-1] + 1)),
        ("x", "less"): np.ones(()),
        ("x", "size"): np.ones((*x.shape[:-1], x.shape[-1] + 1)),
    }[name, how]
    with pytest.raises(ShapeError) as error:
        case.target.apply(**{"x": x, "W": W, name: wrong})
    message = str(error.value)
    assert message.startswith(f"LoRA.apply: {name} must be (")
    assert "from LoRA.A" in message
    assert message.endswith(f"got {wrong.shape}")


def test_a_strategy_says_which_field_it_cannot_draw():
    with pytest.raises(TypeError, match="adapters: BiasedLoRA needs a strategy for lora"):
        adapters(BiasedLoRA)


@given(adapters(LoRA))
def test_an_adapter_is_drawn_with_fields_that_fit(lora):
    assert lora.A.shape[0] == lora.B.shape[1]


@pytest.mark.parametrize("cls", ADAPTERS, ids=lambda cls: cls.__name__)
def test_the_routes_of_every_adapter_agree_at_many_points(cls):
    @given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 2, 3]))
    def holds(seed, square):
        # A row of one entry cannot turn: what DoRA gives for dA and dB there is rounding alone.
        assume(cls not in DORAS or square != 1)
        check_routes_agree(
            lambda rng: adapter_example(cls, rng, square), np.random.default_rng(seed)
        )

    holds()
