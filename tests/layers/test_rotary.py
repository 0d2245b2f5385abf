"""What is special to rotary embeddings: rotation, relative positions, pairings, angles."""

import math

import numpy as np
import pytest

from lora_ref.layers import rotary_angles, rotary_half, rotary_interleaved
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close, to_numpy

BOTH = pytest.mark.parametrize("turn", [rotary_half, rotary_interleaved], ids=lambda f: f.__name__)


def angles(positions, width=8, base=50.0):
    cos, sin = rotary_angles(np.asarray(positions), width, base=base)
    return {"cos": cos, "sin": sin}


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, 3, 5, 8))


@BOTH
def test_a_rotation_keeps_the_norm_of_every_row(turn, x):
    y, _ = turn(x, **angles([7, -2, 0, 400, 5]))
    norms = np.linalg.norm(x, axis=-1)
    assert_close(np.linalg.norm(y, axis=-1), norms, "libraries", "norms")


@BOTH
def test_backward_is_the_inverse(turn, x):
    y, backward = turn(x, **angles([7, -2, 0, 400, 5], width=6))
    assert_close(backward(y), x, "libraries", "back again")


@BOTH
def test_the_rotation_of_the_negative_position_is_the_inverse(turn, x):
    y, _ = turn(x, **angles([7, -2, 0, 400, 5], width=6))
    again, _ = turn(y, **angles([-7, 2, 0, -400, -5], width=6))
    assert_close(again, x, "libraries", "back again")


@BOTH
@pytest.mark.parametrize("shift", [1, -30, 1000])
def test_scores_depend_on_the_difference_of_positions_alone(turn, rng, shift):
    q, k = rng.standard_normal((2, 5, 8))
    p = np.array([7, -2, 0, 40, 5])

    def scores(shift):
        turned = angles(p + shift, width=6)
        return turn(q, **turned)[0] @ turn(k, **turned)[0].T

    assert_close(scores(shift), scores(0), "routes", "q k")
    assert not np.allclose(scores(0), q @ k.T, rtol=0.01)


@BOTH
def test_two_rotations_add_their_positions(turn, x):
    p, more = np.array([7, -2, 0, 40, 5]), np.array([1, 2, 3, 4, 5])
    twice = turn(turn(x, **angles(p))[0], **angles(more))[0]
    assert_close(twice, turn(x, **angles(p + more))[0], "routes", "sum of positions")


@BOTH
def test_position_zero_changes_nothing(turn, x):
    np.testing.assert_array_equal(turn(x, **angles([0] * 5))[0], x)


@BOTH
def test_features_beyond_the_width_are_not_turned(turn, x):
    y, backward = turn(x, **angles([1, 2, 3, 4, 5], width=6))
    dx = backward(x)
    np.testing.assert_array_equal(y[..., 6:], x[..., 6:])
    np.testing.assert_array_equal(dx[..., 6:], x[..., 6:])
    assert_close(y[..., :6], turn(x[..., :6], **angles([1, 2, 3, 4, 5], width=6))[0], "routes", "y")
    assert np.all(y[..., :6] != x[..., :6])


def complex_pairs(a, b, positions, width):
    """The pairs as complex numbers, multiplied by exp(i p θ)."""
    theta = np.array([50.0 ** (-2 * j / width) for j in range(width // 2)])
    return (a + 1j * b) * np.exp(1j * np.multiply.outer(positions, theta))


def test_halves_pair_a_feature_with_the_one_half_a_width_on(rng):
    x, p = rng.standard_normal((5, 9)), np.array([7, -2, 0, 40, 5])
    y, _ = rotary_half(x, **angles(p, width=6))
    expected = complex_pairs(x[:, 0:3], x[:, 3:6], p, 6)
    assert_close(y[:, 0:3], expected.real, "routes", "first half")
    assert_close(y[:, 3:6], expected.imag, "routes", "second half")


def test_interleaved_pairs_neighbours(rng):
    x, p = rng.standard_normal((5, 9)), np.array([7, -2, 0, 40, 5])
    y, _ = rotary_interleaved(x, **angles(p, width=6))
    expected = complex_pairs(x[:, [0, 2, 4]], x[:, [1, 3, 5]], p, 6)
    assert_close(y[:, [0, 2, 4]], expected.real, "routes", "even features")
    assert_close(y[:, [1, 3, 5]], expected.imag, "routes", "odd features")


def test_the_pairings_are_one_another_with_the_features_permuted(x):
    turned, order = angles([7, -2, 0, 40, 5]), [0, 2, 4, 6, 1, 3, 5, 7]
    y, _ = rotary_interleaved(x, **turned)
    by_halves, _ = rotary_half(x[..., order], **turned)
    np.testing.assert_array_equal(by_halves, y[..., order])


@BOTH
def test_every_sequence_of_a_batch_may_have_its_own_positions(turn, x):
    p = np.array([[0, 1, 2, 3, 4], [9, 7, 30, 1, -1]])
    y, _ = turn(x, **angles(p[:, None, :]))
    for i in range(2):
        np.testing.assert_array_equal(y[i], turn(x[i], **angles(p[i]))[0])


@BOTH
def test_heads_may_come_after_the_positions(turn, x):
    p = np.array([[0, 1, 2, 3, 4], [9, 7, 30, 1, -1]])
    y, _ = turn(x, **angles(p[:, None, :]))
    heads_last, _ = turn(np.moveaxis(x, 1, 2), **angles(p[:, :, None]))
    np.testing.assert_array_equal(np.moveaxis(heads_last, 1, 2), y)


@BOTH
def test_the_callers_cos_and_sin_are_taken_as_they_are(turn, x, rng):
    """Backward is then the transpose and no longer the inverse."""
    cos, sin = rng.standard_normal((2, 5, 4))
    y, backward = turn(x, cos=cos, sin=sin)
    back = backward(y).reshape(2, 3, 5, 2, 4) if turn is rotary_half else backward(y)
    back = back if turn is rotary_half else back.reshape(2, 3, 5, 4, 2)
    size = cos**2 + sin**2
    size = size[:, None, :] if turn is rotary_half else size[..., None]
    assert_close(back, x.reshape(back.shape) * size, "routes", "Rᵀ R x")


def test_angles_are_computed_in_float64_whatever_they_are_cast_to(library):
    p = library.convert(np.array([3, 131071]))
    cos, sin = rotary_angles(p, 6, base=500.0, dtype=library.convert(np.ones(1, np.float32)).dtype)
    for i, position in enumerate((3, 131071)):
        for j in range(3):
            phi = position * 500.0 ** (-2 * j / 6)
            assert to_numpy(cos).dtype == np.float32
            assert abs(to_numpy(cos)[i, j] - math.cos(phi)) < 2**-24
            assert abs(to_numpy(sin)[i, j] - math.sin(phi)) < 2**-24


def test_angles_are_float64_unless_a_dtype_is_given(library):
    cos, sin = rotary_angles(library.convert(np.array([3, 5])), 6)
    assert to_numpy(cos).dtype == to_numpy(sin).dtype == np.float64


def test_the_base_is_that_of_the_paper_unless_given():
    cos, _ = rotary_angles(np.array([100]), 4)
    assert_close(cos, np.array([[math.cos(100.0), math.cos(1.0)]]), "libraries", "base 10000")


def test_two_features_make_one_pair_that_turns_by_the_position():
    cos, sin = rotary_angles(np.array([5]), 2)
    assert_close(cos, np.array([[math.cos(5.0)]]), "libraries", "cos")
    assert_close(sin, np.array([[math.sin(5.0)]]), "libraries", "sin")


@pytest.mark.parametrize("width", [-2, 0, 1, 7])
def test_a_width_that_makes_no_pairs_is_refused(width):
    wanted = f"rotary_angles: width must be even and at least 2, got {width}"
    with pytest.raises(ValueError, match=wanted):
        rotary_angles(np.arange(3), width)


def test_positions_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="rotary_angles: positions must hold integral numbers"):
        rotary_angles(np.ones(3), 4)


@BOTH
def test_more_angles_than_pairs_of_features_are_refused(turn, rng):
    wanted = rf"{turn.__name__}: cos must be \(..., w/2\) with w at most d = 7 from x, got \(5, 4\)"
    with pytest.raises(ShapeError, match=wanted):
        turn(rng.standard_normal((5, 7)), **angles(range(5)))


@BOTH
@pytest.mark.parametrize("positions", [(4,), (3, 5), (2, 1, 5)])
def test_angles_that_do_not_broadcast_to_x_are_refused(turn, rng, positions):
    wanted = rf"{turn.__name__}: the leading axes of cos must broadcast to those of x, \(2, 5, 8\)"
    with pytest.raises(ShapeError, match=wanted):
        turn(rng.standard_normal((2, 5, 8)), **angles(np.zeros(positions, dtype=np.int64)))


@BOTH
def test_cos_and_sin_of_different_shapes_are_refused(turn, rng):
    wanted = rf"{turn.__name__}: sin must be .* got \(1, 4\)"
    with pytest.raises(ShapeError, match=wanted):
        turn(rng.standard_normal((5, 8)), cos=np.ones((5, 4)), sin=np.ones((1, 4)))
