"""The catalogue of known mistakes: each one is a different computation of the same shapes."""

from itertools import combinations

import numpy as np
import pytest
from mistake_cases import oracles

from lora_ref.verdict.grids import FLOAT32
from lora_ref.verdict.mistakes import names, of_attention, of_dora, of_linear, of_merge, of_rotary
from lora_ref.verdict.mistakes.mutation import changed
from lora_ref.verdict.oracles import dora_linear

ORACLES = oracles(FLOAT32)
MADE = {
    (kind, mistake.name): outputs
    for kind, oracle in ORACLES.items()
    for mistake in oracle.mistakes
    if (outputs := mistake.outputs(oracle)) is not None
}
DORA = [np.random.default_rng(5).standard_normal(s) for s in ((5, 7), (11, 7), (3, 7), (11, 3), 11)]
CATALOGUES = (of_linear(), of_merge(), of_dora(), of_attention(), of_rotary())


@pytest.mark.parametrize(("kind", "name"), MADE)
def test_a_mistake_changes_an_output_and_keeps_the_shapes(kind, name):
    right = ORACLES[kind].reference()
    assert any(
        np.linalg.norm(t - right[n]) > 1e-3 * np.linalg.norm(right[n])
        for n, t in MADE[kind, name].items()
    )
    assert {n: t.shape for n, t in MADE[kind, name].items()}.items() <= {
        n: t.shape for n, t in right.items()
    }.items()


@pytest.mark.parametrize("kind", ORACLES)
def test_no_two_mistakes_are_the_same(kind):
    right = ORACLES[kind].reference()
    found = {name: right | t for (k, name), t in MADE.items() if k == kind}
    for one, other in combinations(found, 2):
        apart = max(
            np.linalg.norm(found[one][n] - found[other][n]) / np.linalg.norm(t)
            for n, t in right.items()
        )
        assert apart > 1e-3, (one, other)


def test_every_mistake_can_be_made():
    made = {name for _, name in MADE}
    assert {m.name for catalogue in CATALOGUES for m in catalogue} <= made


@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_names_are_unique_and_of_the_shared_vocabulary(catalogue):
    found = [m.name for m in catalogue]
    assert len(set(found)) == len(found)
    assert set(found) <= {v for k, v in vars(names).items() if k.isupper()}


def test_without_a_cotangent_only_the_value_is_mistaken():
    oracle = ORACLES["linear"]
    forward = type(oracle)(oracle.kernel, oracle.inputs, oracle.static)
    for mistake in of_linear():
        assert set(mistake.outputs(forward) or {}) <= {"y"}, mistake.name


def test_a_factor_that_is_misread_gets_its_gradient_through_the_same_layout():
    """⟨dA, E⟩ is the derivative of ⟨y, dy⟩ along E, with A misread too."""
    oracle = ORACLES["linear"]
    misread = next(m for m in oracle.mistakes if m.name == names.A_TRANSPOSED)
    A = oracle.inputs["adapter"].A
    E = np.random.default_rng(3).standard_normal(A.shape)

    def objective(step):
        y = changed(oracle, ("y",), A=(A + step * E).reshape(A.shape[::-1]).T)["y"]
        return float(np.vdot(y, oracle.cotangent))

    slope = objective(0.5) - objective(-0.5)
    assert np.isclose(slope, np.vdot(misread.outputs(oracle)["dA"], E))


@pytest.mark.parametrize("detach_norm", [False, True])
@pytest.mark.parametrize(
    ("name", "weight"),
    [
        (names.COLUMN_NORMS, lambda m, V, c: m[:, None] * V / c),
        (names.COLUMN_NORMS_ON_ROWS, lambda m, V, c: (m / c)[:, None] * V),
        (names.ALONG_INPUTS, lambda m, V, c: V * (m / c)),
    ],
)
def test_a_norm_along_the_other_axis_is_the_layer_with_that_weight(name, weight, detach_norm, rng):
    """y = x W'ᵀ + b with W' as the formula says, and ⟨dA, E⟩ the derivative of ⟨y, dy⟩ along E."""
    x, W, A, B = (rng.standard_normal(shape) for shape in ((5, 7), (7, 7), (3, 7), (7, 3)))
    m, b, dy, E = (rng.standard_normal(shape) for shape in ((7,), (7,), (5, 7), (3, 7)))
    oracle = dora_linear(x, W, A, B, m, scale=1.25, b=b, dy=dy, detach_norm=detach_norm)
    made = next(t for t in oracle.mistakes if t.name == name).outputs(oracle)

    def value(A, m=m):
        V = W + 1.25 * B @ A
        c = np.linalg.norm(W + 1.25 * B @ fixed if detach_norm else V, axis=0)
        return x @ weight(m, V, c).T + b

    fixed, step = A, 1e-5
    assert np.allclose(made["y"], value(A), rtol=1e-12)
    slope = np.vdot(value(A + step * E) - value(A - step * E), dy) / (2 * step)
    if name != names.ALONG_INPUTS or detach_norm:  # that one holds its norms
        assert np.isclose(np.vdot(made["dA"], E), slope, rtol=1e-6)
    if "dm" in made:
        assert np.isclose(made["dm"] @ m, np.vdot(value(A) - b, dy), rtol=1e-10)


@pytest.mark.parametrize("detach_norm", [False, True])
def test_the_other_gradient_of_the_norm_says_which_one_it_is(detach_norm):
    oracle = dora_linear(*DORA, scale=1.25, dy=np.ones((5, 11)), detach_norm=detach_norm)
    made = {m.name for m in oracle.mistakes if m.outputs(oracle) is not None}
    expected = names.NORM_NOT_HELD if detach_norm else names.NORM_HELD
    assert made & {names.NORM_HELD, names.NORM_NOT_HELD} == {expected}
