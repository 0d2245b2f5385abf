"""Is a backward the transpose of its forward's derivative? Asked in random directions.

For y = f(a, b, …) with derivative J and random directions v and w,

    ⟨w, J v⟩ = ⟨backward(w), v⟩,        J v by a central difference along v.

One leaf is moved at a time, so that a wrong gradient is named and none hides behind another.
The cost is four forwards a leaf, whatever its size.

Limits:
    It sees the derivative and nothing else: a wrong forward with its own right backward passes.
    Arguments must lie away from kinks by more than 2 h = 0.04 % of their size.
Source:
    The inner-product form is that of jax.test_util.check_grads (JAX 0.10); the difference is the
    five-point formula, (8 f(h) − 8 f(−h) − f(2h) + f(−2h)) / 12 h, with an error of O(h⁴).
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arrays import as_array
from ..mismatch import Mismatch
from ..trees import Tree, leaves, tree_map
from .tolerance import TOLERANCE, to_numpy

STEP = 2e-4  # relative to the size of what is moved
_POINTS = ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0))
_ROUNDINGS = 16  # that one element of y may carry, in units of its last place


def gradcheck(f: Callable[..., Any], args: Sequence[Tree], rng: np.random.Generator) -> None:
    """Check the backward of ``f(*args) -> (value, backward)`` at `args`, in float64.

    Arguments are arrays of any library or trees of them; those without a float64 leaf (indices,
    masks) have no gradient. `backward` returns one gradient for each of the others, in order, or
    the gradient itself where there is only one.

    >>> def double(x):
    ...     return 2 * x, lambda dy: 3 * dy
    >>> gradcheck(double, [np.ones(1)], np.random.default_rng(0))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    lora_ref.mismatch.Mismatch: gradient of argument 0 (x): along a random direction ...

    Errors:
        Mismatch names the argument, the leaf, and both numbers.
    """
    value, backward = f(*args)
    w = random_like(value, rng)
    moving = [i for i, a in enumerate(args) if any(is_float64(leaf) for _, leaf in leaves(a))]
    gradients = backward(tree_map(lambda t: as_array(np.array(to_numpy(t)), t), w))
    if len(moving) == 1 and not (type(gradients) is tuple and type(args[moving[0]]) is not tuple):
        gradients = (gradients,)
    if not isinstance(gradients, tuple) or len(gradients) != len(moving):
        count = len(gradients) if isinstance(gradients, tuple) else 1
        wanted = ", ".join(_name(f, i) for i in moving)
        raise Mismatch(f"backward returned {count} gradients, the arguments are {wanted}")
    for i, gradient in zip(moving, gradients, strict=True):
        _check_form(_name(f, i), args[i], gradient)
        for path, leaf in leaves(args[i]):
            if is_float64(leaf):
                _check_direction(f, args, i, path, gradient, (value, w), rng)


def is_float64(leaf: Any) -> bool:
    """Whether a leaf holds float64, whichever library it is of."""
    return str(leaf.dtype).endswith("float64")


def random_like(tree: Tree, rng: np.random.Generator) -> Tree:
    """A tree of N(0, 1) in the libraries and shapes of `tree`."""
    return tree_map(lambda t: as_array(np.asarray(rng.standard_normal(t.shape)), t), tree)


def _name(f: Callable[..., Any], i: int) -> str:
    """How a message calls argument `i` of `f`."""
    parameters = list(inspect.signature(f).parameters.values())
    named = i < len(parameters) and parameters[i].kind is not inspect.Parameter.VAR_POSITIONAL
    return f"argument {i} ({parameters[i].name})" if named else f"argument {i}"


def _check_form(name: str, argument: Tree, gradient: Tree) -> None:
    """A gradient has the leaves, shapes and dtypes of its argument."""

    def form(tree: Tree) -> dict[str, str]:
        return {path: f"{leaf.dtype}{tuple(leaf.shape)}" for path, leaf in leaves(tree)}

    if gradient is None:
        raise Mismatch(f"gradient of {name} must have the form of the argument, got None")
    wanted, found = form(argument), form(gradient)
    if wanted != found:
        raise Mismatch(f"gradient of {name} has leaves {found}, the argument has {wanted}")


def _check_direction(
    f: Callable[..., Any],
    args: Sequence[Tree],
    i: int,
    path: str,
    gradient: Tree,
    output: tuple[Tree, Tree],
    rng: np.random.Generator,
) -> None:
    """⟨w, J v⟩ = ⟨gradient, v⟩ for a random v along one leaf of argument i."""
    value, w = output
    leaf, dleaf = (to_numpy(dict(leaves(tree))[path]) for tree in (args[i], gradient))
    size = float(np.sqrt(np.mean(leaf * leaf))) if leaf.size else 0.0
    v = np.asarray(rng.standard_normal(leaf.shape)) * (size or 1.0)

    def moved(step: float) -> Tree:
        shifted = shift(args[i], path, step * v)
        return f(*args[:i], shifted, *args[i + 1 :])[0]

    numeric = sum(c * inner(w, moved(k * STEP)) for k, c in _POINTS) / (12 * STEP)
    analytic = float(np.sum(dleaf * v))
    scale = max(float(np.linalg.norm(dleaf) * np.linalg.norm(v)), abs(numeric))
    rounding = _ROUNDINGS * np.finfo(np.float64).eps * norm(w) * norm(value) / STEP
    if not abs(numeric - analytic) <= TOLERANCE["gradient"] * scale + rounding:
        raise Mismatch(
            f"gradient of {_name(f, i)}{f', leaf {path}' if path else ''}: along a random "
            f"direction the backward says {analytic:.12g}, the difference {numeric:.12g}"
        )


def shift(tree: Tree, path: str, step: np.ndarray) -> Tree:
    """`tree` with `step` added to the leaf at `path`."""
    paths = iter([p for p, _ in leaves(tree)])
    return tree_map(lambda t: t + as_array(step, t) if next(paths) == path else t, tree)


def inner(a: Tree, b: Tree) -> float:
    """⟨a, b⟩ summed over the leaves of two trees."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return float(sum(np.sum(to_numpy(x) * to_numpy(y)) for (_, x), (_, y) in pairs))


def norm(tree: Tree) -> float:
    """The norm of all leaves of a tree together."""
    return inner(tree, tree) ** 0.5
