"""Trees: their leaves in order, maps over them, and copies that share what they do not replace."""

from collections import namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest

from lora_ref.adapters import LoRA
from lora_ref.trees import (
    FROZEN,
    children,
    leaves,
    map_arrays,
    tree_map,
    with_leaves,
    zeros_like,
)

Pair = namedtuple("Pair", "left right")


@dataclass(frozen=True, eq=False)
class Held:
    """One array that is trained, and one that is not."""

    d: np.ndarray
    basis: np.ndarray = field(metadata=FROZEN)


@pytest.fixture
def lora(rng):
    return LoRA(rng.standard_normal((3, 7)), rng.standard_normal((11, 3)), 5 / 3)


def test_leaves_come_in_the_order_of_the_fields_with_their_path(lora):
    tree = {"q": lora, "parts": (lora.B, [lora.A])}
    assert [path for path, _ in leaves(tree)] == ["q.A", "q.B", "parts.0", "parts.1.0"]


def test_a_leaf_alone_has_an_empty_path():
    assert [path for path, _ in leaves(np.ones(2))] == [""]


@pytest.mark.parametrize("static", [None, 1.5, "name", (), {}, LoRA])
def test_what_is_no_array_is_structure(static):
    assert list(leaves(static)) == []
    assert tree_map(np.negative, static) == static


def test_a_map_keeps_types_and_static_values(lora):
    tree = {"q": lora, "pair": Pair(np.ones(1), [np.ones(2), "name", None])}
    mapped = tree_map(np.negative, tree)
    assert type(mapped["q"]) is LoRA
    assert mapped["q"].scale == 5 / 3
    assert np.array_equal(mapped["q"].A, -lora.A)
    assert type(mapped["pair"]) is Pair
    assert mapped["pair"].right[1:] == ["name", None]


def test_a_map_of_several_trees_takes_the_leaves_of_one_place(lora):
    step = tree_map(lambda p, g: p - 0.1 * g, lora, with_leaves(lora, A=lora.A * 2))
    assert np.allclose(step.A, 0.8 * lora.A, rtol=1e-15)
    assert np.allclose(step.B, 0.9 * lora.B, rtol=1e-15)


def test_a_frozen_array_is_no_leaf_and_no_map_of_leaves_reaches_it():
    tree = {"q": [Held(np.ones(2), np.ones(3))]}
    assert [path for path, _ in leaves(tree)] == ["q.0.d"]
    assert [*children(tree["q"][0])] == ["d"]
    stepped = tree_map(lambda a, b: a - b, tree, tree)
    assert stepped["q"][0].basis is tree["q"][0].basis
    assert not np.any(stepped["q"][0].d)


def test_a_map_of_arrays_reaches_what_is_frozen():
    tree = {"q": Pair(Held(np.ones(2), np.ones(3)), [np.ones(1), None])}
    mapped = map_arrays(np.negative, tree)["q"]
    assert type(mapped) is Pair
    assert np.array_equal(mapped.left.d, -np.ones(2))
    assert np.array_equal(mapped.left.basis, -np.ones(3))
    assert np.array_equal(mapped.right[0], -np.ones(1))
    assert mapped.right[1] is None
    assert map_arrays(np.negative, np.ones(1)) == -1


@pytest.mark.parametrize("other", [{"A": 1.0}, {"A": 1.0, "B": 2.0, "C": 3.0}, None, ()])
def test_trees_that_branch_differently_are_refused(other):
    with pytest.raises(ValueError, match="tree_map: trees differ"):
        tree_map(lambda a, b: a, {"A": np.ones(1), "B": np.ones(1)}, other)


def test_with_leaves_replaces_a_field_and_shares_the_others(lora):
    copy = with_leaves(lora, B=lora.B * 2)
    assert copy.A is lora.A
    assert type(copy) is LoRA
    assert np.array_equal(copy.B, 2 * lora.B)


def test_zeros_like_is_zero_in_every_leaf_of_every_library(lora, library):
    converted = tree_map(library.convert, lora)
    for (_, zero), (_, leaf) in zip(leaves(zeros_like(converted)), leaves(converted), strict=True):
        assert type(zero) is type(leaf)
        assert zero.shape == leaf.shape
        assert not np.any(np.asarray(tree_map(lambda t: t.get() if hasattr(t, "get") else t, zero)))


def test_children_of_an_array_are_none_though_it_has_rows():
    assert children(np.ones((2, 2))) == {}
