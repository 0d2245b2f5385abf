"""An oracle: a kernel of this library with inputs, which any reading can evaluate.

Shapes:
    The kernel is a function (*inputs, **static) -> (value, backward), as every layer and
    adapter here is, and backward returns one gradient for each input, in their order.
    Outputs are named "y" for the value and "dx" for the gradient of the input x; where an
    input is an adapter, by the letters of its arrays: "dA", "dB".
Limits:
    Inputs are taken as exact: they must be the very numbers that the judged kernel was given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..trees import Tree, leaves, map_arrays

Array = Any
Kernel = Callable[..., tuple[Any, Callable[..., Any]]]


@dataclass(frozen=True)
class Mistake:
    """A known bug: its name, the formula that it makes of the right one, and what it gives.

    `outputs` computes the outputs that the bug changes, in float64, from an oracle; the others
    are as they should be. None: the bug cannot be made with these inputs. `advice` says which
    inputs show it better.
    """

    name: str
    formula: str
    outputs: Callable[["Oracle"], dict[str, np.ndarray] | None]
    advice: str = ""


@dataclass(frozen=True, eq=False)
class Oracle:
    """What is to be computed, from which numbers; `merged` is the same by another route."""

    kernel: Kernel
    inputs: Mapping[str, Tree]
    static: Mapping[str, Any] = field(default_factory=dict)
    cotangent: Any = None
    merged: Kernel | None = None
    mistakes: tuple[Mistake, ...] = ()

    def outputs(
        self, wrap: Callable[[np.ndarray], Array] | None = None, kernel: Kernel | None = None
    ) -> dict[str, Array]:
        """Every output by its name, with the arrays of all inputs wrapped first, if at all."""
        given = (dict(self.inputs), dict(self.static), self.cotangent)
        if wrap is not None:
            given = map_arrays(lambda leaf: wrap(leaf) if is_real(leaf) else leaf, given)
        inputs, static, cotangent = given
        value, backward = (kernel or self.kernel)(*inputs.values(), **static)
        found = _named("y", value)
        if cotangent is None:
            return found
        gradients = backward(cotangent)
        if not isinstance(gradients, tuple) or len(self.inputs) == 1:
            gradients = (gradients,) if not isinstance(gradients, tuple) else gradients
        for name, gradient in zip(self.inputs, gradients, strict=True):
            found |= _gradient_named(name, gradient, found)
        return found

    def reference(self) -> dict[str, np.ndarray]:
        """Every output in float64."""
        return {name: np.asarray(value) for name, value in self.outputs().items()}


def is_real(leaf: Any) -> bool:
    """Whether an array holds real numbers, and not integers or booleans."""
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"


def _named(name: str, tree: Tree) -> dict[str, Array]:
    return {f"{name}.{path}" if path else name: leaf for path, leaf in leaves(tree)}


def _gradient_named(name: str, tree: Tree, taken: Mapping[str, Array]) -> dict[str, Array]:
    """dA for the leaf A of an adapter, unless another input has that name as well."""
    found = {}
    for path, leaf in leaves(tree):
        short = f"d{path or name}"
        found[short if short not in taken else f"d{name}.{path}"] = leaf
    return found
