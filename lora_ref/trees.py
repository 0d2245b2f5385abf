"""Trees of arrays: dataclasses, tuples, lists and dicts whose leaves are arrays.

An adapter, its gradient and an optimiser's state are trees of one structure, so that an update, a
comparison or a conversion is one `tree_map`. What is no array (a scale, a name, None) is part of
the structure and passes unchanged, and so does an array that nobody trains, whose field is declared

    A: Array = field(metadata=FROZEN)

It is no leaf, has no gradient and no update moves it. Only `map_arrays` reaches it, to convert it.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any

from .arrays import Array, is_array, namespace

Tree = Any
FROZEN = MappingProxyType({"frozen": True})  # metadata of the field of an array nobody trains


def children(node: Tree) -> dict[str, Tree]:
    """The direct children of a node by name; empty for a leaf and for static values."""
    found = _parts(node)
    if found and is_dataclass(node):
        return {f.name: found[f.name] for f in fields(node) if not f.metadata.get("frozen")}
    return found


def _parts(node: Tree) -> dict[str, Tree]:
    """The children and the frozen arrays."""
    if is_array(node):
        return {}
    if is_dataclass(node) and not isinstance(node, type):
        return {f.name: getattr(node, f.name) for f in fields(node)}
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
    return _mapped(f, tree, rest, children)


def map_arrays(f: Callable[..., Any], tree: Tree) -> Tree:
    """`f` of every array of a tree, the frozen ones too: to another library, another dtype."""
    return _mapped(f, tree, (), _parts)


def _mapped(f: Any, tree: Tree, rest: tuple[Tree, ...], parts: Any) -> Tree:
    if is_array(tree):
        return f(tree, *rest)
    found = parts(tree)
    if not found:
        return tree
    others = [parts(other) for other in rest]
    for other in others:
        if other.keys() != found.keys():
            raise ValueError(f"tree_map: trees differ, {[*found]} here and {[*other]} there")
    mapped = {
        n: _mapped(f, c, tuple(other[n] for other in others), parts) for n, c in found.items()
    }
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
