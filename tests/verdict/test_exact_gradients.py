"""Gradients at equal scores: exact where claimed, and wrong ones are seen at any precision."""

import ml_dtypes
import numpy as np
import pytest
from exact_attention_mutants import HEADS, KV_HEADS, causal, of, window
from exact_gradient_mutants import SIZE_MUTANTS

from lora_ref.layers import grouped_query_attention
from lora_ref.verdict import exact
from lora_ref.verdict.exact.counted import NAMESPACE, counted
from lora_ref.verdict.exact.march import AttentionCase
from lora_ref.verdict.exact.uniform_gradients import _entries, equal_score_gradients
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32

PRECISIONS = {
    "bfloat16": (BFLOAT16, ml_dtypes.bfloat16),
    "float16": (FLOAT16, np.float16),
    "float32": (FLOAT32, np.float32),
}
MASKS = {
    "causal": causal(37, 37),
    "cached": causal(21, 37),
    "window": window(7)(37, 37),
    "all": np.ones((5, 37), dtype=bool),
}
SQRT_IS_EXACT, SQRT_IS_NOT = 16, 32  # head_dim: 1/√d is 4^−1, or no power of two


def failures(mine, grid, mask, head_dim, **more):
    sizes = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": head_dim, "value_dim": head_dim}
    return exact.attention_tests(mine, grid, mask, **sizes, tests=(equal_score_gradients,), **more)


def case(grid, mask, head_dim):
    return AttentionCase(grid, HEADS, KV_HEADS, head_dim, 11, mask, head_dim**-0.5)


def recomputed(mask, dtype, on_both=False, rounded=True):
    """The backward of a fused kernel: weights from a stored logsumexp, D from o, sums in float32.

    `on_both`: √c on q and on k, each stored. `rounded`: w stored before its products.
    """
    store = lambda t: t.astype(dtype).astype(np.float32)  # noqa: E731
    group = HEADS // KV_HEADS

    def mine(q, k, v, do):
        q, k, v, do = (t.astype(np.float32) for t in (q, k, v, do))
        k, v = (np.repeat(t, group, axis=1) for t in (k, v))
        c = np.float32(q.shape[-1] ** -0.5)
        of_q, of_k = (store(np.sqrt(c) * t) if on_both else t for t in (q, k))
        z = np.where(mask, of_q @ of_k.mT * (np.float32(1) if on_both else c), -np.inf)
        top = z.max(-1, keepdims=True)
        e = np.exp(z - top)
        total = e.sum(-1, keepdims=True)
        o, p = store(e @ v / total), np.exp(z - (top + np.log(total)))
        w = p * (do @ v.mT - (do * o).sum(-1, keepdims=True))
        w, after = store(w) if rounded else w, np.sqrt(c) if on_both else c
        dq, dk, dv = w @ of_k, w.mT @ of_q, (store(p) if rounded else p).mT @ do
        if on_both:
            dq, dk = store(dq), store(dk)
        dq, dk, dv = store(after * dq), store(after * dk), store(dv)
        n, _, *rest = dk.shape
        dk, dv = (store(t.reshape(n, KV_HEADS, group, *rest).sum(2)) for t in (dk, dv))
        return {"y": o, "dq": dq, "dk": dk, "dv": dv}

    return mine


@pytest.mark.parametrize("head_dim", [SQRT_IS_EXACT, SQRT_IS_NOT])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SIZE_MUTANTS)
def test_a_wrong_gradient_is_caught_by_this_test_alone(name, precision, head_dim):
    grid, dtype = PRECISIONS[precision]
    found = failures(
        SIZE_MUTANTS[name], grid, MASKS["causal"], head_dim, adapt=lambda t: t.astype(dtype)
    )
    assert found


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("head_dim", [SQRT_IS_EXACT, SQRT_IS_NOT])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_attention_in_any_precision_passes(precision, mask, head_dim, seed):
    grid, dtype = PRECISIONS[precision]
    mine = of(MASKS[mask])
    adapt = lambda t: t.astype(dtype)  # noqa: E731
    exact.assert_none(failures(mine, grid, MASKS[mask], head_dim, adapt=adapt, seed=seed))


@pytest.mark.parametrize("rounded", [True, False], ids=["w rounded", "w not rounded"])
@pytest.mark.parametrize("on_both", [True, False], ids=["sqrt c on both", "c at the end"])
@pytest.mark.parametrize("head_dim", [SQRT_IS_EXACT, SQRT_IS_NOT])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_recomputed_weights_pass(precision, head_dim, on_both, rounded):
    grid, dtype = PRECISIONS[precision]
    for mask in MASKS.values():
        mine = recomputed(mask, dtype, on_both, rounded)
        exact.assert_none(failures(mine, grid, mask, head_dim))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("grid", [BFLOAT16, FLOAT16, FLOAT32])
def test_what_is_due_is_the_gradient_in_float64(grid, mask):
    """By the kernel under the whole mask, marker column included, which the count leaves out."""
    for entry in _entries(case(grid, MASKS[mask], SQRT_IS_EXACT)):
        _, backward = grouped_query_attention(entry.q, entry.k, entry.v, mask=MASKS[mask])
        for name, t in zip(("dq", "dk", "dv"), backward(entry.do), strict=True):
            looked_at = np.isfinite(entry.error[name])
            assert np.array_equal(t[looked_at], entry.due[name][looked_at])
            assert grid.holds(entry.due[name]).all()


@pytest.mark.parametrize("grid", [BFLOAT16, FLOAT16, FLOAT32])
def test_no_admitted_error_reaches_half_a_quantum_at_a_power_of_four(grid):
    """So that a number is right or is nearer to a wrong multiple."""
    for entry in _entries(case(grid, MASKS["causal"], SQRT_IS_EXACT)):
        for name in ("dq", "dk", "dv"):
            sizes = np.abs(entry.due[name])
            quantum = counted(sizes).q
            error = entry.error[name]
            assert error[np.isfinite(error)].max() < quantum / 2


@pytest.mark.parametrize("mask", MASKS)
def test_every_query_and_every_key_takes_part(mask):
    allowed = MASKS[mask]
    entries = list(_entries(case(BFLOAT16, allowed, SQRT_IS_NOT)))
    queries = np.any([np.any(e.do != 0, axis=(0, 2)) for e in entries], axis=0)
    keys = np.any([np.any(e.due["dv"] != 0, axis=(0, 2)) for e in entries], axis=0)
    assert np.array_equal(queries, allowed.sum(axis=1) >= 2)
    assert keys.all()


@pytest.mark.parametrize(
    ("name", "words"),
    [("dq without the scale", "dq is not exact at equal scores: no scale"),
     ("dk with the scale twice", "dk is not exact at equal scores: the scale applied twice")],
)  # fmt: skip
def test_the_message_names_the_scale(name, words):
    found = failures(SIZE_MUTANTS[name], BFLOAT16, MASKS["causal"], SQRT_IS_NOT)
    assert found[0].says == words


def test_nothing_is_asked_where_a_query_sees_nothing_or_a_head_is_too_narrow():
    def never(*arguments):
        raise AssertionError("the implementation was called")

    blind = causal(5, 3)
    assert not blind.any(axis=1).all()
    assert failures(never, BFLOAT16, blind, 8) == ()
    assert failures(never, BFLOAT16, MASKS["causal"], 2) == ()


def test_an_output_alone_has_no_gradients_to_look_at():
    mine = lambda q, k, v, do: {"y": of(causal)(q, k, v, do)["y"]}  # noqa: E731
    assert failures(mine, BFLOAT16, MASKS["causal"], SQRT_IS_NOT) == ()


@pytest.mark.parametrize(
    "scores", [[0.0, 1.0], [0.0, 0.0, 0.0]], ids=["not equal", "three of them"]
)
def test_weights_that_are_not_exact_are_refused(scores):
    with pytest.raises(ValueError, match="as many as a power of two"):
        NAMESPACE.softmax(counted(np.array([scores])), None)
