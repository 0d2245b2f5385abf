"""What is special to OFT: rotations, exact and as a series, blocks of them, one for all blocks."""

import numpy as np
import pytest

from lora_ref.adapters import OFT, apply_merged
from lora_ref.adapters.oft import Neumann, cayley
from lora_ref.arrays import inverse
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import ADAPTER_CHECKS, assert_trees_close, check_library
from lora_ref.testing.examples import Case, converted
from lora_ref.testing.gradient_check import gradcheck
from lora_ref.testing.tolerance import assert_close

ROTATIONS = [cayley, *map(Neumann, (1, 2, 4, 7))]


def named(rotation):
    """Its name for test ids: that of a function holds no address."""
    return getattr(rotation, "__name__", str(rotation))


def drawn(rng, rotation=cayley, blocks=3, width=4, inputs=12, size=0.5):
    q = size * rng.standard_normal((blocks, width * (width - 1) // 2))
    args = rng.standard_normal((2, 5, inputs)), rng.standard_normal((7, inputs))
    return Case(OFT(q, rotation), args)


def skew(rng, size=1.0, width=4):
    U = size * np.triu(rng.standard_normal((3, width, width)), 1)
    return U - np.swapaxes(U, 1, 2)


def test_q_lies_above_the_diagonal_row_by_row():
    seen = []

    def kept(Q):
        seen.append(Q)
        return cayley(Q)

    OFT(np.arange(1.0, 7).reshape(1, 6), kept).merge(np.ones((2, 4)))
    upper = [[0, 1, 2, 3], [0, 0, 4, 5], [0, 0, 0, 6], [0, 0, 0, 0]]
    assert np.array_equal(seen[0], [np.array(upper) - np.array(upper).T])


def test_the_exact_rotation_is_orthogonal_and_proper(rng):
    R, _ = cayley(skew(rng))
    for one in R:
        assert_close(one.T @ one, np.eye(4), "routes", "Rᵀ R")
        assert_close(np.linalg.det(one), np.float64(1), "routes", "det R")


def test_the_exact_rotation_is_the_cayley_map(rng):
    Q = skew(rng)
    expected = [np.linalg.solve((np.eye(4) - one).T, (np.eye(4) + one).T).T for one in Q]
    assert_close(cayley(Q)[0], np.array(expected), "routes", "R")


def test_the_negated_skew_matrix_turns_back(rng):
    Q = skew(rng)
    assert_close(cayley(-Q)[0], np.swapaxes(cayley(Q)[0], 1, 2), "routes", "R(−Q)")


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7])
def test_the_series_is_the_cayley_map_with_its_inverse_cut(rng, degree):
    Q = skew(rng)
    powers = sum(np.linalg.matrix_power(Q, p) for p in range(degree))
    assert_close(Neumann(degree)(Q)[0], (np.eye(4) + Q) @ powers, "routes", "R")


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_what_the_series_lacks_shrinks_with_the_power_after_its_last(rng, degree):
    Q = skew(rng)
    errors = [
        np.linalg.norm(Neumann(degree)(size * Q)[0] - cayley(size * Q)[0]) for size in (1e-2, 1e-3)
    ]
    assert degree - 0.2 < np.log10(errors[0] / errors[1]) < degree + 1.2


@pytest.mark.parametrize("rotation", ROTATIONS, ids=named)
def test_the_backward_of_a_rotation_is_the_transpose_of_its_derivative(rng, rotation):
    gradcheck(rotation, [skew(rng, 0.5)], rng)


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("rotation", ROTATIONS[1:], ids=named)
def test_a_series_passes_every_check(rng, rotation, check):
    check(lambda rng: drawn(rng, rotation), rng)


@pytest.mark.parametrize("rotation", [Neumann(1), Neumann(4)], ids=named)
def test_a_series_gives_every_library_the_numbers_of_numpy(library, rng, rotation):
    check_library(lambda rng: drawn(rng, rotation), rng, library.convert)


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("rotation", [cayley, Neumann(4)], ids=named)
def test_one_rotation_for_all_blocks_passes_every_check(rng, library, rotation, check):
    check(converted(lambda rng: drawn(rng, rotation, blocks=1), library.convert), rng)


@pytest.mark.parametrize("rotation", [cayley, Neumann(4)], ids=named)
def test_one_rotation_for_all_blocks_is_as_many_that_are_equal(rng, rotation):
    case = drawn(rng, rotation, blocks=1)
    x, W = case.args
    many = OFT(np.concatenate([case.target.q] * 3), rotation)
    dy = rng.standard_normal((2, 5, 7))
    (y, backward), (expected, many_backward) = (a.apply(x, W) for a in (case.target, many))
    assert_close(y, expected, "routes", "y")
    (dx, d), (dx_many, d_many) = backward(dy), many_backward(dy)
    assert_close(dx, dx_many, "routes", "dx")
    assert_close(d.q, d_many.q.sum(axis=0, keepdims=True), "routes", "dq")


def test_the_rows_of_the_weight_keep_their_lengths_and_angles(rng):
    case = drawn(rng)
    W = case.args[1]
    merged = case.target.merge(W)
    assert_close(merged @ merged.T, W @ W.T, "routes", "W' W'ᵀ")


def test_blocks_turn_their_own_inputs(rng):
    case = drawn(rng)
    W = case.args[1]
    merged = case.target.merge(W)
    R = [OFT(case.target.q[i : i + 1]).merge(np.eye(4)).T for i in range(3)]
    expected = np.concatenate([W[:, 4 * i : 4 * i + 4] @ R[i].T for i in range(3)], axis=1)
    assert_close(merged, expected, "routes", "W diag(R)ᵀ")


def test_inputs_are_turned_before_the_weight(rng):
    case = drawn(rng, blocks=1, width=4, inputs=4)
    x, W = case.args
    R, _ = cayley(np.swapaxes(_skew_of(case.target.q), 1, 2) * -1)
    assert_close(case.target.apply(x, W)[0], (x @ R[0]) @ W.T, "routes", "(x R) Wᵀ")


def _skew_of(q):
    U = np.zeros((1, 4, 4))
    U[0][np.triu_indices(4, 1)] = q[0]
    return U - np.swapaxes(U, 1, 2)


def test_training_starts_at_the_base_model(rng):
    W = rng.standard_normal((7, 12))
    for rotation in ROTATIONS:
        oft = OFT.init(W, 4, rotation)
        assert np.array_equal(oft.merge(W), W)
        assert oft.q.shape == (3, 6)
        assert oft.rotation is rotation
    assert OFT.init(W, 2).rotation is cayley
    assert OFT.init(W, 2).q.shape == (6, 1)


@pytest.mark.parametrize("width", [2, 3, 9, 17, 64])
def test_the_width_of_a_block_is_known_from_the_numbers_of_its_triangle(width):
    assert OFT(np.ones((1, width * (width - 1) // 2))).width == width


@pytest.mark.parametrize("width", [1, 0, 5, 24])
def test_a_width_that_does_not_cut_the_inputs_is_refused(width):
    need = f"width must be at least 2 and divide n = 12 from W, got {width}"
    with pytest.raises(ValueError, match=need):
        OFT.init(np.ones((7, 12)), width)


@pytest.mark.parametrize("count", [0, 2, 4, 5, 7])
def test_a_row_that_is_the_triangle_of_no_matrix_is_refused(count):
    with pytest.raises(ShapeError, match=r"OFT: OFT.q must be \(g, t\) with t = w \(w − 1\) / 2"):
        OFT(np.ones((3, count)))


@pytest.mark.parametrize(("blocks", "inputs"), [(2, 12), (3, 10), (4, 12)])
def test_blocks_that_do_not_make_up_the_inputs_are_refused(rng, blocks, inputs):
    case = drawn(rng, blocks=blocks, inputs=inputs)
    for call in (lambda: case.target.apply(*case.args), lambda: case.target.weight(case.args[1])):
        with pytest.raises(ShapeError, match=f"n / w rows, or one, with n = {inputs} from W"):
            call()


def test_a_series_of_no_degree_is_refused():
    with pytest.raises(ValueError, match="Neumann: degree must be at least 1, got 0"):
        Neumann(0)


class ReadingOf:
    """A namespace that looks like a reading's, over plain arrays."""

    is_reading = True

    def __getattr__(self, name):
        return getattr(np, name)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_elimination_gives_the_inverse(rng, monkeypatch, width):
    M = np.eye(width) - skew(rng, width=width)
    expected = np.linalg.inv(M)
    monkeypatch.setattr("lora_ref.arrays.namespace", lambda *arrays: ReadingOf())
    assert_close(inverse(M), expected, "routes", "M⁻¹")


def test_two_rotations_do_not_commute(rng):
    W = rng.standard_normal((7, 12))
    first, second = (drawn(rng).target for _ in range(2))
    there, back = second.merge(first.merge(W)), first.merge(second.merge(W))
    assert np.linalg.norm(there - back) > 0.1 * np.linalg.norm(W)


def test_a_series_far_out_is_no_rotation(rng):
    case = drawn(rng, Neumann(4), size=2.0)
    merged = case.target.merge(case.args[1])
    assert np.linalg.norm(merged) > 2 * np.linalg.norm(case.args[1])
    y, expected = case.target.apply(*case.args)[0], apply_merged(case.target, *case.args)[0]
    assert_trees_close(y, expected, "routes", "y")
