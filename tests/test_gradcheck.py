"""The gradient check finds every kind of mistake that a backward can have, and says where."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lora_ref.adapters import LoRA
from lora_ref.testing import Mismatch, adapter_case, gradcheck
from lora_ref.trees import tree_map, with_leaves

S = 5 / 3


def product(**mistake: Callable[..., Any]) -> Callable[..., Any]:
    """y = s A B x with a correct backward, of which one line may be replaced by a mistake."""
    right = {
        "dA": lambda A, B, x, dy: S * (dy @ x.T @ B.T),
        "dB": lambda A, B, x, dy: S * (A.T @ dy @ x.T),
        "dx": lambda A, B, x, dy: S * (B.T @ (A.T @ dy)),
    }
    lines = {**right, **mistake}

    def f(A, B, x):
        y = S * (A @ (B @ x))
        return y, lambda dy: tuple(line(A, B, x, dy) for line in lines.values())

    return f


def square(rng: np.random.Generator, n: int = 4) -> list[np.ndarray]:
    """Square matrices, with which no mistake ends in a crash."""
    return [rng.standard_normal((n, n)) for _ in range(3)]


MISTAKES = {
    "sign": ("argument 0 (A)", {"dA": lambda A, B, x, dy: -S * (dy @ x.T @ B.T)}),
    "factor left out": ("argument 1 (B)", {"dB": lambda A, B, x, dy: A.T @ dy @ x.T}),
    "factor twice": ("argument 2 (x)", {"dx": lambda A, B, x, dy: S * S * (B.T @ (A.T @ dy))}),
    "transpose left out": ("argument 1 (B)", {"dB": lambda A, B, x, dy: S * (A @ dy @ x.T)}),
    "transposed result": ("argument 0 (A)", {"dA": lambda A, B, x, dy: S * (dy @ x.T @ B.T).T}),
    "order of a product": ("argument 2 (x)", {"dx": lambda A, B, x, dy: S * (A.T @ (B.T @ dy))}),
    "zero": ("argument 0 (A)", {"dA": lambda A, B, x, dy: 0 * A}),
    "one element": (
        "argument 1 (B)",
        {
            "dB": lambda A, B, x, dy: (
                S * (A.T @ dy @ x.T) + 1e-3 * (np.arange(16) == 7).reshape(4, 4)
            )
        },
    ),
    "too large by 1e-6": (
        "argument 2 (x)",
        {"dx": lambda A, B, x, dy: 1.000001 * S * B.T @ A.T @ dy},
    ),
    "NaN": ("argument 0 (A)", {"dA": lambda A, B, x, dy: np.nan * A}),
}


def test_a_correct_backward_passes(rng):
    gradcheck(product(), square(rng), rng)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_and_its_argument_is_named(rng, mistake):
    where, lines = MISTAKES[mistake]
    with pytest.raises(Mismatch) as found:
        gradcheck(product(**lines), square(rng), rng)
    assert f"gradient of {where}:" in str(found.value)


def test_gradients_in_the_wrong_order_are_found_in_a_square_case(rng):
    def f(A, B, x):
        y, backward = product()(A, B, x)
        return y, lambda dy: tuple(reversed(backward(dy)))

    with pytest.raises(Mismatch, match=r"gradient of argument 0 \(A\)"):
        gradcheck(f, square(rng), rng)


def test_a_missing_term_is_found(rng):
    def f(x):
        return x @ x, lambda dy: dy @ x.T

    with pytest.raises(Mismatch, match=r"argument 0 \(x\)"):
        gradcheck(f, [rng.standard_normal((4, 4))], rng)


def test_a_gradient_of_the_wrong_shape_is_named(rng):
    A, B, x = rng.standard_normal((5, 3)), rng.standard_normal((3, 7)), rng.standard_normal((7, 2))
    wrong = product(dB=lambda A, B, x, dy: (A.T @ dy @ x.T).T)
    with pytest.raises(Mismatch, match=r"argument 1 \(B\) has leaves .*\(7, 3\).*\(3, 7\)"):
        gradcheck(wrong, [A, B, x], rng)


def test_a_gradient_of_the_wrong_dtype_is_named(rng):
    wrong = product(dx=lambda A, B, x, dy: (S * B.T @ A.T @ dy).astype(np.float32))
    with pytest.raises(Mismatch, match=r"argument 2 \(x\) has leaves .*float32.*float64"):
        gradcheck(wrong, square(rng), rng)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_or_too_many_gradients_are_counted(rng, count):
    def f(A, B, x):
        y, backward = product()(A, B, x)
        return y, lambda dy: (*backward(dy), dy)[:count]

    with pytest.raises(Mismatch, match=rf"returned {count} gradients.*\(A\).*\(B\).*\(x\)"):
        gradcheck(f, square(rng), rng)


def test_a_bare_gradient_where_several_are_due_is_refused(rng):
    def f(A, B, x):
        y, backward = product()(A, B, x)
        return y, lambda dy: backward(dy)[0]

    with pytest.raises(Mismatch, match="returned 1 gradients"):
        gradcheck(f, square(rng), rng)


def test_the_leaf_of_an_adapter_is_named(rng):
    case = adapter_case(LoRA, rng, square=4)
    x, W = case.args

    def half_of_dB(adapter):
        y, backward = adapter.apply(x, W)
        return y, lambda dy: with_leaves(backward(dy)[1], B=0.5 * backward(dy)[1].B)

    with pytest.raises(Mismatch, match=r"argument 0 \(adapter\), leaf B"):
        gradcheck(half_of_dB, [case.target], rng)


def test_a_gradient_that_mixes_leaves_is_found(rng):
    """dA that is right but lands in B, in a square case."""
    case = adapter_case(LoRA, rng, square=4)

    def crossed(adapter):
        W_merged, backward = adapter.weight(case.args[1])
        return W_merged, lambda dW: with_leaves(adapter, A=backward(dW).B, B=backward(dW).A)

    with pytest.raises(Mismatch, match="leaf A"):
        gradcheck(crossed, [case.target], rng)


def test_an_argument_without_floats_has_no_gradient(rng):
    def take(x, index):
        def backward(dy):
            dx = np.zeros_like(x)
            np.add.at(dx, index, dy)
            return dx

        return x[index], backward

    gradcheck(take, [rng.standard_normal(5), np.array([1, 1, 3])], rng)


def test_values_and_arguments_may_be_trees(rng):
    def both(pair):
        a, b = pair
        value = {"sum": a + b, "product": a * b}
        return value, lambda d: (d["sum"] + b * d["product"], d["sum"] + a * d["product"])

    gradcheck(both, [(rng.standard_normal(3), rng.standard_normal(3))], rng)


def test_a_scalar_value_is_checked(rng):
    def loss(x):
        return np.sum(x * x), lambda dloss: 3 * x * dloss

    with pytest.raises(Mismatch, match=r"argument 0 \(x\)"):
        gradcheck(loss, [rng.standard_normal(3)], rng)


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1e6])
def test_the_step_follows_the_size_of_the_argument(rng, size):
    def cube(x):
        return x**3, lambda dy: 3 * x * x * dy

    gradcheck(cube, [size * (1 + rng.random(5))], rng)

    def wrong(x):
        return x**3, lambda dy: 2.999 * x * x * dy

    with pytest.raises(Mismatch):
        gradcheck(wrong, [size * (1 + rng.random(5))], rng)


def test_a_large_value_with_a_small_gradient_raises_no_false_alarm(rng):
    def far(x):
        return 1e9 + x, lambda dy: dy

    gradcheck(far, [rng.standard_normal(5)], rng)


def test_an_empty_argument_has_an_empty_gradient(rng):
    gradcheck(lambda x: (2 * x, lambda dy: 2 * dy), [np.zeros((0, 3))], rng)


def test_arrays_of_every_library_are_checked_in_that_library(rng, library):
    right, wrong = product(), product(dB=lambda A, B, x, dy: -S * (A.T @ dy @ x.T))
    args = tree_map(library.convert, square(rng))
    gradcheck(right, args, rng)
    with pytest.raises(Mismatch, match=r"argument 1 \(B\)"):
        gradcheck(wrong, args, rng)
