"""Exactness is proved, not hoped for: of products by counting quanta, of attention by scores."""

from itertools import permutations

import numpy as np
import pytest

from lora_ref.layers import attention, causal_mask
from lora_ref.verdict import exact
from lora_ref.verdict.exact.addresses import KeySet, code_for, one_best
from lora_ref.verdict.exact.counted import NAMESPACE, counted
from lora_ref.verdict.exact.draw import sparse
from lora_ref.verdict.exact.linear import SHAPES, _linear_draft
from lora_ref.verdict.exact.march import AttentionCase, expected, march
from lora_ref.verdict.grids import BFLOAT16, FLOAT8_E4M3, FLOAT16, FLOAT32, FLOAT64


def test_the_bound_covers_every_order_of_every_partial_sum(rng):
    a, b = rng.integers(-5, 6, size=(2, 1, 6)).astype(float)
    terms = (a * b)[0]
    product = counted(a) @ counted(b.T)
    largest = max(np.abs(np.cumsum(p)).max() for p in permutations(terms))
    assert largest <= product.a[0, 0] == np.abs(terms).sum()


@pytest.mark.parametrize(
    ("values", "quantum"), [([6.0, 4.0], 2.0), ([0.5, 3.0], 0.5), ([0.0], 1.0), ([-8.0], 8.0)]
)
def test_the_quantum_is_the_largest_power_of_two_that_divides_all(values, quantum):
    assert counted(np.array(values)).q == quantum


def test_what_is_no_small_multiple_is_refused():
    with pytest.raises(ValueError, match="multiples of 2"):
        counted(np.array([1 / 3]))


def test_a_division_that_is_not_exact_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        counted(np.ones(2)) / counted(np.array([2.0, 3.0]))


def test_a_norm_that_is_not_exact_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        NAMESPACE.norm(counted(np.array([[1.0, 1.0]])), axis=1)


def test_an_intermediate_counts_even_if_it_cancels_later():
    t = counted(np.array([1024.0, 1.0]))
    assert (t - t).worst == 2048.0


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 3, 7), (6,)])
def test_no_row_and_no_column_is_empty(rng, shape):
    t = sparse(rng, shape, 0.0)
    assert np.all(np.count_nonzero(t, axis=-1) > 0)
    assert t.ndim < 2 or np.all(np.count_nonzero(t, axis=-2) > 0)


@pytest.mark.parametrize("grid", [BFLOAT16, FLOAT16, FLOAT32, FLOAT64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rounds_of_a_linear_layer_are_within_the_grid(grid, shape):
    for scale in (2.0, 0.5, 3.0):
        found = exact.exact_round(_linear_draft(shape, True)(scale), grid, 0)
        assert exact.quanta(found.oracle) <= 2.0**grid.precision
        assert all(grid.holds(t).all() for t in found.oracle.reference().values())


def test_shapes_that_cannot_be_exact_are_refused():
    with pytest.raises(exact.NotExact, match=r"below 2\^4 quanta on float8_e4m3fn"):
        exact.exact_round(_linear_draft((64, 64, 64, 8), True)(3.0), FLOAT8_E4M3, 0)


@pytest.mark.parametrize(("keys", "head_dim"), [(9, 8), (15, 9), (37, 16), (200, 16), (900, 64)])
def test_every_query_has_one_best_key_by_a_whole_unit(rng, keys, head_dim):
    code = code_for(keys, head_dim, head_dim**-0.5, BFLOAT16)
    assert code.unit * head_dim**-0.5 >= 768
    allowed = causal_mask(keys, keys, np.ones(1))
    addresses = KeySet.draw(code, keys, head_dim, rng)
    for shift in (0, 1, keys // 2):
        targets = (np.arange(keys) + shift) % keys
        q, answers = addresses.queries(targets, allowed)
        scores = q @ addresses.keys().T
        assert one_best(scores, allowed, answers, code.unit)
        products = q[:, None] * addresses.keys()
        assert np.all(products[np.arange(keys), answers] == 0)
        asked = scores[np.arange(keys), targets]
        seen = allowed[np.arange(keys), targets]
        assert np.all(answers[seen] == targets[seen])
        assert np.all(asked[~seen] >= code.unit)


def test_too_many_keys_for_a_head_are_refused():
    with pytest.raises(ValueError, match="head_dim = 4 has no addresses for 100 keys"):
        code_for(100, 4, 0.5, BFLOAT16)


def test_scores_beyond_the_range_of_the_grid_are_refused():
    with pytest.raises(ValueError, match="which float16 does not hold"):
        code_for(64, 64, 1e-4, FLOAT16)


def case(T, S, head_dim=16, heads=4, kv_heads=2):
    mask = causal_mask(T, S, np.ones(1), offset=S - T)
    return AttentionCase(BFLOAT16, heads, kv_heads, head_dim, 5, mask, head_dim**-0.5)


def test_the_march_asks_every_query_of_every_head_for_every_key():
    a_case = case(11, 13)
    targets = np.concatenate([step.targets for step in march(a_case)])
    for h in range(4):
        for i in range(11):
            assert {*targets[:, h, i].tolist()} == {*range(13)}


def test_attention_in_float64_is_one_hot_to_the_last_bit():
    a_case = case(7, 9, heads=2)
    for step in march(a_case):
        o, backward = attention(step.q, step.k, step.v, mask=a_case.allowed)
        due = expected(a_case, step)
        assert np.array_equal(o, due["y"])
        for name, gradient in zip(("dq", "dk", "dv"), backward(step.do), strict=True):
            assert np.array_equal(gradient, due[name])
