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

from ..arrays import is_array
from ..trees import Tree, leaves, map_arrays

Array = Any
Kernel = Callable[..., tuple[Any, Callable[..., Any]]]


@dataclass(frozen=True)
class Mistake:
    """A known bug: its name, the formula that it makes of the right one, and what it gives.

    `outputs` computes the outputs that the bug changes, in float64, from an oracle; the others
    are as they should be. None: the bug cannot be made with these inputs. `advice` says which
    inputs show it better, `apart` which tell it from its like.
    """

    name: str
    formula: str
    outputs: Callable[["Oracle"], dict[str, np.ndarray] | None]
    advice: str = ""
    apart: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Oracle:
    """What is to be computed, from which numbers; `merged` is the same by another route.

    `name` is what its repr is to call it: the kernel's own name unless given.
    """

    kernel: Kernel
    inputs: Mapping[str, Tree]
    static: Mapping[str, Any] = field(default_factory=dict)
    cotangent: Any = None
    merged: Kernel | None = None
    mistakes: tuple[Mistake, ...] = ()
    name: str = ""

    def __repr__(self) -> str:
        """One line: the shapes of the arrays, and the outputs that are judged."""
        given = {**self.inputs, **{n: t for n, t in self.static.items() if is_array(t)}}
        named = ((path.rpartition(".")[2], leaf) for path, leaf in leaves(given))
        shapes = ", ".join(f"{name} {tuple(leaf.shape)}" for name, leaf in named)
        title = self.name or getattr(self.kernel, "__name__", "oracle")
        return f"{title}: {shapes}; judges {', '.join(self._names())}"

    def outputs_but(self, *names: str) -> tuple[str, ...]:
        """The names of all outputs but some: `left_out` for a kernel that gives these alone.

        Errors:
            ValueError for a name that is no output.
        """
        known = self._names()
        for name in names:
            if name not in known:
                raise ValueError(
                    f"Oracle.outputs_but: names must be among {', '.join(known)}, got {name!r}"
                )
        return tuple(name for name in known if name not in names)

    def _names(self) -> list[str]:
        if self.cotangent is None:
            return ["y"]
        found: dict[str, Any] = {"y": None}
        for name, tree in self.inputs.items():
            found |= _gradient_named(name, tree, found)
        return [*found]

    @property
    def on_grid(self) -> dict[str, Tree]:
        """What a contract rounds to its grid of inputs: not the cos and sin of a rotation."""
        given = {**self.inputs, "W": self.static.get("W"), "dy": self.cotangent}
        return {name: tree for name, tree in given.items() if tree is not None}

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
