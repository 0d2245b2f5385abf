"""How a mistake is made: the right kernel on mutated inputs, so that no formula is written twice.

Many bugs are the right computation of something else: another scale, a factor read in another
order, a mask with one more cell. Where a bug reads an input through a map g, the gradient that it
hands back goes through the transpose of g.

Source: the threads behind each mistake are named, by their row of the bug catalogue, in the file
of its family.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ...trees import children, is_array, with_leaves
from ..oracle import Mistake, Oracle

Outputs = dict[str, np.ndarray]
_references: "WeakKeyDictionary[Oracle, Outputs]" = WeakKeyDictionary()


def reference(oracle: Oracle) -> Outputs:
    """The right outputs, computed once for each oracle."""
    if oracle not in _references:
        _references[oracle] = oracle.reference()
    return _references[oracle]


def value_of(oracle: Oracle, name: str) -> Any:
    """An input by its name: an argument, a field of an adapter among them, or a static one."""
    for found in (*_homes(oracle), oracle.static):
        if name in found:
            return found[name]
    return oracle.cotangent if name == "cotangent" else None


def changed(oracle: Oracle, only: Iterable[str] | None = None, **values: Any) -> Outputs:
    """The outputs with some inputs replaced; `only` some of them."""
    inputs, static, cotangent = dict(oracle.inputs), dict(oracle.static), oracle.cotangent
    for name, value in values.items():
        home = next((n for n, node in inputs.items() if name in _fields(node)), None)
        if name in inputs:
            inputs[name] = value
        elif home is not None:
            inputs[home] = with_leaves(inputs[home], **{name: value})
        elif name == "cotangent":
            cotangent = value
        else:
            static[name] = value
    mutated = replace(oracle, inputs=inputs, static=static, cotangent=cotangent, mistakes=())
    return kept(mutated.reference(), only)


def kept(outputs: Outputs, only: Iterable[str] | None) -> Outputs:
    """Some of the outputs, in their order."""
    if only is None:
        return outputs
    wanted = set(only)
    return {name: value for name, value in outputs.items() if name in wanted}


def mapped(outputs: Outputs, **maps: Callable[[np.ndarray], np.ndarray]) -> Outputs:
    """The outputs, some of them through a map."""
    return {n: maps[n](value) if n in maps else value for n, value in outputs.items()}


def times(factor: float, *names: str) -> Callable[[Oracle], Outputs | None]:
    """Some outputs of the right kernel times a factor."""

    def outputs(oracle: Oracle) -> Outputs | None:
        return {n: factor * t for n, t in kept(reference(oracle), names).items()} or None

    return outputs


def masked(t: np.ndarray, axis: int, index: int = -1, fill: float = 0.0) -> np.ndarray:
    """`t` with one line along an axis at `fill`."""
    out = t.copy()
    if out.shape[axis]:
        np.moveaxis(out, axis, 0)[index] = fill
    return out


def mistake(
    name: str, formula: str, advice: str = ""
) -> Callable[[Callable[[Oracle], Outputs | None]], Mistake]:
    """Decorator: the function of an oracle that makes the mistake, as a `Mistake`."""

    def decorate(outputs: Callable[[Oracle], Outputs | None]) -> Mistake:
        return Mistake(name, formula, outputs, advice)

    return decorate


def _homes(oracle: Oracle) -> Iterable[dict[str, Any]]:
    yield dict(oracle.inputs)
    yield from (_fields(node) for node in oracle.inputs.values())


def _fields(node: Any) -> dict[str, Any]:
    return {} if is_array(node) else children(node)
