"""The attention benchmark: its competitors compute the same, and the post's slip is no rounding."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from lora_ref.adapters.lora import LoRA
from lora_ref.compose.lora_of_data import lora_of_data
from lora_ref.layers.attention import attention
from lora_ref.layers.factored_attention import Product, factored_attention
from lora_ref.layers.linear import linear
from lora_ref.layers.linear_of_data import linear_of_data
from lora_ref.testing import assert_close, gradcheck
from lora_ref.testing.tolerance import Mismatch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BATCH, EMBEDDING, HIDDEN = 13, 7, 11
RANKS = (1, 3)


@pytest.fixture
def forms(monkeypatch):
    """The benchmark's module, which lies beside the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("attention_forms")


@pytest.fixture
def grid(monkeypatch):
    """The benchmark's command."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("attention_grid")


def peer(package):
    reason = f"{package} is in the [peers] extra"
    return pytest.param(package, marks=pytest.mark.peers, id=f"{package}: {reason}")


def draw(rng, m=HIDDEN, n=EMBEDDING, r=3):
    adapter = LoRA(rng.standard_normal((r, n)), rng.standard_normal((m, r)), 5 / 3)
    return rng.standard_normal((BATCH, n)), rng.standard_normal((m, n)), adapter


@pytest.mark.parametrize(("m", "n"), [(11, 7), (7, 7)])
@pytest.mark.parametrize("r", RANKS)
def test_lora_of_data_is_apply_without_dx(rng, m, n, r):
    x, W, adapter = draw(rng, m, n, r)
    y, backward = adapter.apply(x, W)
    y_data, backward_data = lora_of_data(x, W, adapter)
    assert_close(y_data, y, "routes", "y")
    dy = rng.standard_normal(y.shape)
    (_, expected), found = backward(dy), backward_data(dy)
    assert_close(found.A, expected.A, "routes", "dA")
    assert_close(found.B, expected.B, "routes", "dB")


@pytest.mark.parametrize("r", RANKS)
def test_lora_of_data_passes_the_gradient_check(rng, r):
    x, W, adapter = draw(rng, r=r)
    gradcheck(lambda adapter: lora_of_data(x, W, adapter), [adapter], rng)


def test_linear_of_data_is_linear_without_dx(rng):
    x, W, _ = draw(rng)
    y, backward = linear(x, W)
    y_data, backward_data = linear_of_data(x, W)
    dy = rng.standard_normal(y.shape)
    assert_close(y_data, y, "routes", "y")
    assert_close(backward_data(dy), backward(dy)[1], "routes", "dW")


def test_factored_attention_is_attention_with_its_cotangents_as_products(rng):
    q, k, v = (rng.standard_normal((BATCH, d)) for d in (HIDDEN, HIDDEN, EMBEDDING))
    o, backward = attention(q, k, v)
    o_factored, backward_factored = factored_attention(q, k, v)
    assert_close(o_factored, o, "routes", "o")
    do = rng.standard_normal(o.shape)
    for name, found, expected in zip("qkv", backward_factored(do), backward(do), strict=True):
        assert_close(found.dense(), expected, "routes", f"d{name}")


@pytest.mark.parametrize("columns", [1, 40])  # the factors apart, or multiplied first
def test_a_product_times_a_matrix_is_the_dense_product_in_either_order(rng, columns):
    product = Product(rng.standard_normal((4, 9)), rng.standard_normal((9, 6)))
    t, left = rng.standard_normal((6, columns)), rng.standard_normal((4, columns))
    assert_close(product @ t, product.L @ product.R @ t, "routes", "L R t")
    assert_close(product.T @ left, (product.L @ product.R).T @ left, "routes", "(L R)ᵀ t")


def test_lora_of_data_takes_a_product_for_its_cotangent(rng):
    x, W, adapter = draw(rng)
    dy = Product(rng.standard_normal((BATCH, 5)), rng.standard_normal((5, HIDDEN)))
    _, backward = lora_of_data(x, W, adapter)
    assert_close(backward(dy).A, backward(dy.dense()).A, "routes", "dA")
    assert_close(backward(dy).B, backward(dy.dense()).B, "routes", "dB")


def test_the_kernels_run_on_every_array_library(library, rng):
    x, W, adapter = draw(rng)
    there = LoRA(library.convert(adapter.A), library.convert(adapter.B), adapter.scale)

    def step(x, W, adapter):
        q, q_backward = lora_of_data(x, W, adapter)
        v, v_backward = linear_of_data(x, W)
        o, o_backward = factored_attention(q, v, v)
        dq, dk, _ = o_backward(o)
        return o, q_backward(dq).A, q_backward(dq).B, v_backward(dk)

    found = step(library.convert(x), library.convert(W), there)
    for name, a, b in zip(("o", "dA", "dB", "dW"), found, step(x, W, adapter), strict=True):
        assert_close(a, b, "libraries", name)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("package", [peer("jax"), peer("torch")])
@pytest.mark.parametrize("kind", ["LoRA", "full"])
def test_the_competitors_return_the_same_output_and_gradients(forms, package, kind, rank):
    pytest.importorskip(package, reason=f"{package} is in the [peers] extra")
    problem = forms.Problem.draw(BATCH, EMBEDDING, HIDDEN, rank)
    name = f"{'JAX' if package == 'jax' else 'PyTorch'} {kind}"
    o, gradients = forms.FORMS[name](problem)()
    our_o, ours = forms.FORMS[f"our {kind}"](problem)()
    assert_close(o, our_o, "float32", f"{name}: o")
    found = forms.in_our_layout(name, gradients)
    assert found.keys() == ours.keys()
    for key, expected in ours.items():
        assert_close(found[key], expected, "float32", f"{name}: {key}")


@pytest.mark.peers
def test_the_slip_of_the_post_differs_by_far_more_than_rounding(forms):
    jax = pytest.importorskip("jax", reason="jax is in the [peers] extra")
    problem = forms.Problem.draw(BATCH, EMBEDDING, HIDDEN, 3)
    ours = forms.our_lora(problem)()[1]
    factors = {"qA": problem.query.A, "qB": problem.query.B}
    factors |= {"kA": problem.key.A, "kB": problem.key.B}

    def slipped(f):
        Wk = problem.Wk.T + f["kA"].T @ f["kB"].T
        Wq = problem.Wq.T + f["qA"].T @ f["kB"].T  # as in the listing: the key's B
        return forms.jax_attention(problem.x, Wk, Wq, problem.Wv.T).sum()

    found = jax.grad(slipped)(factors)
    assert not np.any(np.asarray(found["qB"]))
    for key, expected in ours.items():
        with pytest.raises(Mismatch):
            assert_close(found[key], expected, "float32", key)


@pytest.mark.peers
def test_the_data_of_the_post_saturates_its_softmax(forms):
    jax = pytest.importorskip("jax", reason="jax is in the [peers] extra")
    rng = np.random.default_rng(0)
    n, m, r = 256, 256, 3
    uniform = {name: rng.random(s, np.float32) for name, s in {"A": (n, r), "B": (r, m)}.items()}
    x, *weights = (rng.random(s, np.float32) for s in [(64, n), *[(n, m)] * 3])
    Wk, Wq, Wv = weights

    def loss(f):
        return forms.jax_attention(x, Wk + f["A"] @ f["B"], Wq + f["A"] @ f["B"], Wv).sum()

    assert not any(np.any(np.asarray(t)) for t in jax.grad(loss)(uniform).values())


def test_the_quick_grid_is_24_points_of_the_whole_one(grid):
    assert len(grid.points(quick=False)) == 192
    quick = grid.points(quick=True)
    assert len({*quick}) == 24
    assert {*quick} <= {*grid.points(quick=False)}


def test_the_summary_names_the_worst_point_and_counts_those_below_one(grid):
    name = "our LoRA / our full"
    points = [(2, 256, 256, 1), (64, 512, 256, 3)]
    rows = [dict(zip(grid.AXES, p, strict=True)) for p in points]
    found = grid.summary([rows[0] | {name: 0.5}, rows[1] | {name: 2.0}])[name]
    assert found["geometric mean"] == pytest.approx(1.0)
    assert (found["worst at"], found["below one"], found["points"]) == (points[1], 1, 2)
