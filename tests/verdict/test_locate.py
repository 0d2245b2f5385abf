"""Planted patterns of wrong elements are named, and nothing that is not there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lora_ref.verdict.locate import locate

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
ATTENTION = ("batch", "head", "query", "feature")


def mask_of(shape, *index):
    mask = np.zeros(shape, dtype=bool)
    mask[index] = True
    return mask


def located(mask, axes=None):
    return locate(np.where(mask, 3.0, 0.3), axes)


def triangle(shape, offset, *, above):
    row, column = np.indices(shape)
    return column - row >= offset if above else column - row <= offset


def block(shape, size, *places):
    return np.logical_or.reduce(
        [
            mask_of(shape, slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size))
            for i, j in places
        ]
    )


def in_memory_order(shape, part):
    mask = np.zeros(shape, dtype=bool)
    mask.reshape(-1)[part] = True
    return mask


PLANTED = {
    "first row": (mask_of((12, 17), 0), "the first row: all 17 elements"),
    "row": (mask_of((12, 17), 5), "row 5: all 17 elements"),
    "rows": (mask_of((12, 17), [3, 5, 6, 7]), "rows 3 and 5 to 7: all 68 elements"),
    "last rows": (mask_of((12, 17), slice(9, 12)), "the last 3 rows (9 to 11): all 51 elements"),
    "all rows but one": (mask_of((12, 17), slice(1, 12)), "every row but the first: all"),
    "last column": (mask_of((12, 17), ..., -1), "the last column: all 12 elements"),
    "odd columns": (mask_of((12, 24), ..., slice(1, None, 2)), "every 2nd column from column 1:"),
    "rotary half": (
        np.broadcast_to(np.arange(24) % 8 >= 4, (5, 24)),
        "columns 4 to 7 of every 8: all 60 elements",
    ),
    "batch element": (mask_of((3, 12, 17), 1), "index 1 of axis 0: all 204 elements"),
    "last slice": (mask_of((3, 12, 17), 2), "the last index of axis 0: all 204 elements"),
    "quarter": (
        mask_of((12, 17), slice(3), slice(4)),
        "the first 3 rows (0 to 2), the first 4 columns (0 to 3): all 12 elements",
    ),
    "one tile": (
        block((256, 320), 64, (1, 2)),
        "rows 64 to 127 (one block of 64), columns 128 to 191 (one block of 64): all 4,096",
    ),
    "tiles": (
        block((256, 320), 64, (0, 0), (1, 2)),
        "the tiles (0, 0) and (1, 2) of 64 × 64 elements: all 8,192 elements",
    ),
    "small tiles": (
        block((96, 80), 16, (0, 0), (1, 2), (5, 4)),
        "the tiles (0, 0), (1, 2) and (5, 4) of 16 × 16 elements: all 768 elements",
    ),
    "tail rows": (
        mask_of((200, 30), slice(192, None)),
        "the last 8 rows (192 to 199: all past the last whole block of 64): all 240",
    ),
    "future": (
        triangle((20, 20), 1, above=True),
        "above the diagonal (column − row >= 1): all 190 elements",
    ),
    "past": (triangle((20, 20), -1, above=False), "below the diagonal (column − row <= -1): all"),
    "past and present": (
        triangle((11, 20), 0, above=False),
        "on and below the diagonal (column − row <= 0): all 66 elements",
    ),
    "aligned at the end": (triangle((5, 20), 16, above=True), "a corner (column − row >= 16): all"),
    "diagonal": (np.eye(20, dtype=bool), "the diagonal: all 20 elements"),
    "other diagonal": (np.eye(20, 30, k=3, dtype=bool), "the diagonal column = row +3: all 20"),
    "window": (
        triangle((40, 40), -2, above=True) & triangle((40, 40), 2, above=False),
        "a band along the diagonal (-2 <= column − row <= 2): all 194 elements",
    ),
    "grid tail": (
        in_memory_order((12, 24), slice(100, None)),
        "a run in memory order from (4, 4) to the end: all 188 elements",
    ),
    "lane": (
        in_memory_order((12, 24), slice(3, None, 7)),
        "every 7th element in memory order from (0, 3): all 41 elements",
    ),
    "every other one": (
        in_memory_order((5, 7), slice(1, None, 2)),
        "every 2nd element in memory order from (0, 1): all 17 elements",
    ),
    "present and future": (
        triangle((20, 20), 0, above=True),
        "on and above the diagonal (column − row >= 0): all 210 elements",
    ),
    "tiles of 32": (
        block((96, 128), 32, (0, 0), (1, 2)),
        "the tiles (0, 0) and (1, 2) of 32 × 32 elements: all 2,048 elements",
    ),
    "many tiles": (
        np.kron(np.indices((8, 8)).sum(axis=0) % 2 == 0, np.ones((16, 16), dtype=bool)),
        "32 of 64 tiles of 16 × 16 elements ((0, 0), (0, 2), (0, 4), …): all 8,192 elements",
    ),
    "every 21st": (
        mask_of((4, 63), ..., slice(5, None, 21)),
        "every 21st column from column 5: all 12 elements",
    ),
    "two of two": (mask_of((9, 2), ..., 1), "the last column: all 9 elements"),
    "a row of two": (mask_of((9, 2), 4), "row 4: all 2 elements"),
    "three elements": (
        mask_of((12, 24), [3, 4, 9], [7, 4, 20]),
        "3 single elements: (3, 7), (4, 4) and (9, 20)",
    ),
    "one element": (mask_of((12, 24), 3, 7), "a single element, (3, 7)"),
    "corner": (
        mask_of((12, 24), 0, 23),
        "a single element, (0, 23), in the first row and the last column",
    ),
    "two elements": (mask_of((12, 24), [3, 4], [7, 4]), "2 single elements: (3, 7) and (4, 4)"),
    "vector": (mask_of((100,), slice(97, None)), "the last 3 elements (97 to 99)"),
    "places of a vector": (mask_of((9,), [1, 2, 5, 7]), "elements 1 to 2, 5 and 7"),
    "row of one batch": (mask_of((1, 12, 17), 0, 3), "row 3: all 17 elements"),
    "everything": (np.ones((3, 4), dtype=bool), "everywhere: all 12 elements"),
    "a number": (np.ones((), dtype=bool), "its only element"),
}


@pytest.mark.parametrize(("mask", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_planted_pattern_is_named_in_one_sentence(mask, expected):
    (sentence,) = located(mask)
    complete = not expected.endswith(("all", ":", *"0123456789"))
    assert sentence == expected if complete else sentence.startswith(expected)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (mask_of((2, 8, 12, 17), slice(None), 5), "head 5: all 408 elements"),
        (mask_of((3, 8, 12, 17), 1, slice(4, None)), "batch 1, the last 4 heads (4 to 7): all 816"),
        (mask_of((2, 8, 12, 17), ..., [3, 9], slice(None)), "queries 3 and 9: all 544 elements"),
    ],
)
def test_axes_go_by_the_callers_names(mask, expected):
    assert located(mask, ATTENTION)[0].startswith(expected)


def test_a_triangle_of_some_heads_names_both():
    mask = np.zeros((5, 20, 20), dtype=bool)
    mask[[1, 3]] = triangle((20, 20), 1, above=True)
    expected = "heads 1 and 3, above the diagonal (key − query >= 1): all 380 elements"
    assert located(mask, ("head", "query", "key")) == (expected,)


@pytest.mark.parametrize(
    ("mask", "start"),
    [
        (mask_of((120, 17), ..., -1), "the last column: "),
        (mask_of((12, 40), 3), "row 3: "),
        (mask_of((3, 12, 17), 1), "index 1 of axis 0: "),
        (triangle((30, 30), 1, above=True), "above the diagonal "),
        (block((256, 320), 64, (0, 0), (1, 2)), "the tiles (0, 0) and (1, 2) of 64 × 64 elements"),
    ],
)
def test_a_pattern_of_which_a_part_is_within_the_bound_is_named_all_the_same(rng, mask, start):
    seen = mask & (rng.random(mask.shape) < 0.6)
    (sentence,) = located(seen)
    assert sentence.startswith(start)
    assert f"{int(seen.sum()):,} of " in sentence


def test_a_row_is_found_among_scattered_errors(rng):
    mask = mask_of((100, 100), 7) | (rng.random((100, 100)) < 0.01)
    first, second = located(mask)
    assert first == "row 7: all 100 elements"
    assert second.startswith("besides, scattered: ")


def test_a_row_and_an_element_elsewhere_are_two_sentences():
    mask = mask_of((12, 17), 3) | mask_of((12, 17), 7, 5)
    assert located(mask) == ("row 3: all 17 elements", "besides, a single element, (7, 5)")


def test_a_row_and_a_column_that_cross_are_both_named():
    first, second = located(mask_of((12, 17), 3) | mask_of((12, 17), ..., 5))
    assert first == "row 3: all 17 elements"
    assert second.endswith("column 5: all 11 elements")


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    ("shape", "density", "word"),
    [
        ((100, 100), 0.01, "scattered"),
        ((300, 300), 1e-4, "scattered"),
        ((64, 96), 0.5, "widespread"),
        ((100, 100), 0.97, "nearly everywhere"),
        ((4, 8, 20, 30), 0.02, "scattered"),
        ((500,), 0.1, "scattered"),
    ],
)
def test_random_elements_are_no_pattern(seed, shape, density, word):
    mask = np.random.default_rng(seed).random(shape) < density
    if mask.sum() <= 3:
        assert "single element" in located(mask)[0]
    else:
        (sentence,) = located(mask)
        assert sentence.startswith(f"{word}: {int(mask.sum()):,} of {mask.size:,} elements")


@pytest.mark.parametrize(
    ("density", "shown"),
    [(3e-4, "0.0"), (0.01, "1 %"), (0.5, "50 %"), (0.97, "97 %"), (0.9985, "99.9 %")],
)
def test_a_share_reads_as_a_percentage_and_has_no_exponent(density, shown):
    mask = np.random.default_rng(1).random((300, 300)) < density
    (sentence,) = located(mask)
    assert f"({shown}" in sentence
    assert "e+" not in sentence
    assert "e-" not in sentence


@given(hnp.arrays(bool, SHAPES, elements=st.booleans()))
def test_any_mask_of_any_shape_gives_at_most_three_sentences_and_some_if_any_is_wrong(mask):
    sentences = located(mask)
    assert 1 <= len(sentences) <= 3 if mask.any() else sentences == ()


@given(hnp.arrays(float, SHAPES, elements=st.floats(width=64)))
def test_any_ratio_and_error_are_taken(ratio):
    assert len(locate(ratio, None, ratio, ratio)) <= 3


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_wrong_row_is_named_whatever_its_place(height, width, data):
    i = data.draw(st.integers(0, height - 1))
    (sentence,) = located(mask_of((height, width), i))
    if height == 1:
        assert sentence.startswith("everywhere") or sentence == "its only element"
    elif width == 1:
        assert f"({i}, 0)" in sentence
    else:
        place = "the first row" if i == 0 else "the last row" if i == height - 1 else f"row {i}"
        assert sentence == f"{place}: all {width} elements"


def test_nothing_wrong_says_nothing():
    assert located(np.zeros((3, 4), dtype=bool)) == ()
    assert located(np.zeros((0, 4), dtype=bool)) == ()


def test_nan_is_outside_every_bound():
    ratio = np.zeros((5, 7))
    ratio[2] = np.nan
    assert locate(ratio) == ("row 2: all 7 elements",)


def test_names_for_other_axes_than_there_are_are_refused():
    with pytest.raises(ValueError, match="axes must name 2 axes, those of ratio, got"):
        locate(np.ones((2, 3)), ("head",))
