"""One adapter a row: gathering and grouping against the definition, on every array library."""

import numpy as np
import pytest
from mixed_problems import CHOSEN, problem

from lora_ref.adapters import DoRA, LoRA
from lora_ref.compose.mixed_batch import mixed_batch
from lora_ref.compose.mixed_gather import mixed_gather, stacked
from lora_ref.compose.mixed_grouped import mixed_grouped
from lora_ref.testing import LAYER_CHECKS, check_library, converted
from lora_ref.testing.checks import assert_trees_close
from lora_ref.testing.examples import Case
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close
from lora_ref.trees import leaves, tree_map
from lora_ref.verdict import BFLOAT16_CONTRACT, emulate, judge, oracle_of
from lora_ref.verdict.exact import mixed_batch_tests
from lora_ref.verdict.grids import BFLOAT16, FLOAT32

ALGORITHMS = {"gather": mixed_gather, "grouped": mixed_grouped}
ALL = {"rows": mixed_batch, **ALGORITHMS}


@pytest.fixture(params=ALGORITHMS)
def algorithm(request):
    return ALGORITHMS[request.param]


@pytest.fixture(params=ALL)
def mixed(request):
    return ALL[request.param]


def case_of(mixed, square=None):
    """x and the adapters as arguments: W and `chosen` have no gradient."""

    def make(rng):
        x, W, adapters = problem(rng, square)

        def target(x, adapters, W=W):
            return mixed(x, W, CHOSEN, adapters)

        return Case(target, (x, adapters))

    return make


@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
@pytest.mark.parametrize("check", LAYER_CHECKS[:3], ids=lambda f: f.__name__)
def test_the_backward_is_a_linear_pure_transpose(mixed, check, square):
    check(case_of(mixed, square), np.random.default_rng(0))


@pytest.mark.parametrize("square", [None, 4], ids=["unequal", "equal"])
def test_an_algorithm_gives_what_the_rows_give_one_by_one(algorithm, rng, square):
    x, W, adapters = problem(rng, square)
    (y, backward), (y_rows, backward_rows) = (
        f(x, W, CHOSEN, adapters) for f in (algorithm, mixed_batch)
    )
    dy = rng.standard_normal(y_rows.shape)
    assert_close(y, y_rows, "routes", "y")
    assert_trees_close(backward(dy), backward_rows(dy), "routes", "gradients")


def test_every_library_gives_the_numbers_of_numpy(mixed, library):
    def make(rng):
        x, W, adapters = problem(rng)

        def target(x, adapters, W, chosen):
            y, backward = mixed(x, W, chosen, adapters)
            return y, backward

        return Case(target, (x, adapters, W, CHOSEN))

    check_library(make, np.random.default_rng(0), library.convert)
    case = converted(make, library.convert)(np.random.default_rng(0))
    y, backward = case.target(*case.args)
    assert [str(leaf.dtype)[-7:] for _, leaf in leaves((y, backward(y)))] == ["float64"] * 8


def test_float32_stays_float32(mixed, rng):
    x, W, adapters = tree_map(lambda t: t.astype(np.float32), problem(rng))
    y, backward = mixed(x, W, CHOSEN, adapters)
    assert {leaf.dtype for _, leaf in leaves((y, backward(y)))} == {np.dtype(np.float32)}


def test_each_row_is_what_its_adapter_alone_gives(mixed, rng):
    x, W, adapters = problem(rng)
    y = mixed(x, W, CHOSEN, adapters)[0]
    for place, e in np.ndenumerate(CHOSEN):
        alone = x[place] @ W.T if e < 0 else adapters[e].apply(x[place], W)[0]
        assert_close(y[place], alone, "routes", f"row {place}")


def test_a_row_without_an_adapter_has_the_bases_y_and_dx_bit_for_bit(algorithm, rng):
    x, W, adapters = problem(rng)
    y, backward = algorithm(x, W, CHOSEN, adapters)
    dy = rng.standard_normal(y.shape)
    bare, flat = (CHOSEN < 0).ravel(), (-1, y.shape[-1])
    assert np.array_equal(y.reshape(flat)[bare], (x.reshape(-1, 11) @ W.T)[bare])
    dx = backward(dy)[0].reshape(-1, 11)
    assert np.array_equal(dx[bare], (dy.reshape(flat) @ W)[bare])


def test_infinite_numbers_in_a_bare_row_stay_in_it(algorithm, rng):
    x, W, adapters = problem(rng)
    W = np.abs(W)
    x[0, 1], dy = np.inf, rng.standard_normal((*CHOSEN.shape, 7))
    dy[0, 1] = np.inf
    with np.errstate(invalid="ignore"):
        y, backward = algorithm(x, W, CHOSEN, adapters)
        dx, gradients = backward(dy)
    assert np.all(y[0, 1] == np.inf)
    assert np.all(dx[0, 1] == np.inf)
    finite = [np.delete(t.reshape(8, -1), 1, axis=0) for t in (y, dx)]
    assert all(np.all(np.isfinite(t)) for t in finite)
    assert all(np.all(np.isfinite(leaf)) for _, leaf in leaves(gradients))


def test_an_adapter_without_a_row_has_a_gradient_of_zeros_in_its_own_shape(mixed, rng):
    x, W, adapters = problem(rng)
    y, backward = mixed(x, W, CHOSEN, adapters)
    unused = backward(np.ones(y.shape))[1][1]
    assert type(unused) is LoRA
    assert np.array_equal(unused.A, np.zeros((2, 11)))
    assert np.array_equal(unused.B, np.zeros((7, 2)))


def test_rows_of_one_adapter_add_up_in_its_gradient(mixed, rng):
    x, W, adapters = problem(rng)
    y, backward = mixed(x, W, CHOSEN, adapters)
    dy = rng.standard_normal(y.shape)
    own = CHOSEN == 2
    expected = adapters[2].apply(x[own], W)[1](dy[own])[1]
    assert_trees_close(backward(dy)[1][2], expected, "routes", "adapter 2")


@pytest.mark.parametrize("e", [-1, 0, 1, 2])
def test_a_batch_of_one_adapter_is_that_adapters_layer(mixed, rng, e):
    x, W, adapters = problem(rng)
    y = mixed(x, W, np.full_like(CHOSEN, e), adapters)[0]
    assert_close(y, x @ W.T if e < 0 else adapters[e].apply(x, W)[0], "routes", "y")


def test_a_single_row_has_no_batch_axis(mixed, rng):
    x, W, adapters = problem(rng)
    y, backward = mixed(x[0, 0], W, np.array(2), adapters)
    assert_close(y, adapters[2].apply(x[0, 0], W)[0], "routes", "y")
    assert backward(y)[0].shape == (11,)


def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(mixed, rng):
    x, W, adapters = problem(rng)
    y, backward = mixed(x[:0], W, CHOSEN[:0], adapters)
    dx, gradients = backward(y)
    assert (y.shape, dx.shape) == ((0, 4, 7), (0, 4, 11))
    assert all(np.all(leaf == 0) for _, leaf in leaves(gradients))


def test_with_no_adapters_loaded_there_is_only_the_base(mixed, rng):
    x, W, _ = problem(rng)
    y, backward = mixed(x, W, np.full_like(CHOSEN, -1), ())
    assert_close(y, x @ W.T, "routes", "y")
    assert backward(y)[1] == ()


def test_adapters_of_several_kinds_share_a_batch_by_the_definition(rng):
    x, W, (lora, *_) = problem(rng)
    dora = DoRA(*(lora.A, lora.B, rng.standard_normal(7)), 1.5)

    def target(x, adapters):
        return mixed_batch(x, W, np.array([0, 1, -1, 1]), adapters)

    gradcheck(target, [x[0], (lora, dora)], rng)
    assert_close(target(x[0], (lora, dora))[0][1], dora.apply(x[0, 1], W)[0], "routes", "DoRA")


def test_the_stack_is_padded_with_zeros_and_ends_with_none(rng):
    _, W, adapters = problem(rng)
    A, B, s = stacked(adapters, W)
    assert (A.shape, B.shape, s.shape) == ((4, 5, 11), (4, 7, 5), (4, 1, 1))
    assert np.array_equal(A[1], np.concatenate([adapters[1].A, np.zeros((3, 11))]))
    assert np.array_equal(B[1], np.concatenate([adapters[1].B, np.zeros((7, 3))], axis=1))
    assert s.ravel().tolist() == [1 / 3, 2 / 3, 1.0, 0.0]
    assert not np.any(A[3])
    assert not np.any(B[3])


def wrapped(algorithm):
    """An algorithm in the form that the exact tests call."""

    def mine(x, W, b, A, B, s, chosen, dy):
        adapters = tuple(LoRA(A[e], B[e], float(s[e])) for e in range(len(A)))
        y, backward = algorithm(x, W, chosen, adapters)
        dx, gradients = backward(dy)
        dA, dB = (np.stack([getattr(g, letter) for g in gradients]) for letter in "AB")
        return {"y": y + b, "dx": dx, "dA": dA, "dB": dB}

    return mine


def test_the_exact_tests_of_the_verdict_find_nothing(mixed):
    assert mixed_batch_tests(wrapped(mixed), FLOAT32) == ()


def test_the_exact_tests_find_an_algorithm_that_forgets_to_unsort():
    def forgetful(x, W, chosen, adapters):
        order = np.argsort(chosen, kind="stable")
        y, backward = mixed_grouped(x[order], W, chosen[order], adapters)
        return x @ W.T + y - x[order] @ W.T, backward

    assert any("adapter" in f.says for f in mixed_batch_tests(wrapped(forgetful), FLOAT32))


def test_an_emulated_kernel_lies_in_its_bounds(algorithm, rng):
    """The same text gives bounds, and what low precision makes of it stays within them."""
    rounded = tree_map(BFLOAT16.round, problem(rng))
    x, W, adapters = rounded
    chosen = CHOSEN[0]
    adapters = tuple(LoRA(a.A, a.B, 0.5 * (e + 1)) for e, a in enumerate(adapters))

    def kernel(x, W, *adapters):
        y, backward = algorithm(x, W, chosen, adapters)

        def both(dy):
            dx, gradients = backward(dy)
            return dx, dy.T @ x, *gradients

        return y, both

    inputs = {"x": x[0], "W": W, **{f"a{e}": a for e, a in enumerate(adapters)}}
    oracle = oracle_of(kernel, inputs, cotangent=BFLOAT16.round(rng.standard_normal((4, 7))))
    found = judge(emulate(oracle, BFLOAT16_CONTRACT), oracle, BFLOAT16_CONTRACT)
    said = dict(f.line().split(",")[0].split(": ") for f in found.findings)
    assert {said["y"], said["dx"], said["dA"], said["da2.A"], said["da2.B"]} == {"rounding"}
    assert {*said.values()} == {"rounding", "exact"}
