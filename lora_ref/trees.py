"""Trees of arrays: dataclasses, tuples, lists and dicts whose leaves are arrays.

An adapter, its gradient and an optimiser's state are trees of one structure, so that an update, a
comparison or a conversion is one `tree_map`. What is no array (a scale, a name, None) is part of
the structure and passes unchanged.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from .arrays import Array, is_array, namespace

Tree = Any


def children(node: Tree) -> dict[str, Tree]:
    """The direct children of a node by name; empty for a leaf and for static values."""
    if is_array(node):
        return {}
    if is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in fields(node)}
    if isinstance(node, dict):
        return {str(name): child for name, child in node.items()}
    if isinstance(node, (tuple, list)):
        return {str(i): child for i, child in enumerate(node)}
    return {}


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Array]]:
    """(path, array) for every leaf, depth first, in the order of the fields."""
    if is_array(tree):
        yield path, tree
    for name, child in children(tree).items():
        yield from leaves(child, f"{path}.{name}" if path else name)


def tree_map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`f` of each leaf of `tree` and of the leaves at the same place of `rest`.

    >>> import numpy as np
    >>> tree_map(lambda a, b: a - 0.1 * b, {"A": np.ones(2)}, {"A": np.ones(2)})
    {'A': array([0.9, 0.9])}

    Errors:
        ValueError if the trees branch differently.
    """
    if is_array(tree):
        return f(tree, *rest)
    found = children(tree)
    if not found:
        return tree
    others = [children(other) for other in rest]
    for other in others:
        if other.keys() != found.keys():
            raise ValueError(f"tree_map: trees differ, {[*found]} here and {[*other]} there")
    mapped = {n: tree_map(f, c, *(other[n] for other in others)) for n, c in found.items()}
    if is_dataclass(tree):
        return with_leaves(tree, **mapped)
    if isinstance(tree, dict):
        return dict(zip(tree, mapped.values(), strict=True))
    if hasattr(tree, "_fields"):  # a named tuple takes its values one by one
        return type(tree)(*mapped.values())
    return type(tree)(mapped.values())


def with_leaves(node: Tree, **values: Tree) -> Tree:
    """A copy of the dataclass `node` with some fields replaced.

    Unlike `dataclasses.replace` it does not run the constructor's checks: it is how a backward
    builds a gradient, whose shapes follow from the forward's.
    """
    copy = object.__new__(type(node))
    copy.__dict__.update(node.__dict__)
    copy.__dict__.update(values)
    return copy


def zeros_like(tree: Tree) -> Tree:
    """The tree with every leaf replaced by zeros: the gradient of what does not matter."""
    return tree_map(lambda leaf: namespace(leaf).zeros_like(leaf), tree)
