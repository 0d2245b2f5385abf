"""Is a backward the transpose of its forward's derivative? Asked in random directions.

For y = f(a, b, …) with derivative J and random directions v and w,

    ⟨w, J v⟩ = ⟨backward(w), v⟩,        J v by a central difference along v.

One argument is moved at a time, so that a wrong gradient is named and none hides behind another.
The cost is four forwards an argument, whatever its size.

Source:
    The inner-product form is that of jax.test_util.check_grads (JAX 0.10); the difference is the
    five-point formula, (8 f(h) − 8 f(−h) − f(2h) + f(−2h)) / 12 h, with an error of O(h⁴).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..trees import Tree, leaves, tree_map
from .tolerance import TOLERANCE, Mismatch, to_numpy

STEP = 1e-3
_POINTS = ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0))


def gradcheck(f: Callable[..., Any], args: Sequence[Tree], rng: np.random.Generator) -> None:
    """Check the backward of ``f(*args) -> (value, backward)`` at `args`, in float64.

    Arguments are arrays or trees of arrays; those without a float64 leaf (indices, masks) have no
    gradient. `backward` returns one gradient for each of the others, in order, or the gradient
    itself where there is only one.

    Errors:
        Mismatch names the argument (by position), the leaf, and both numbers.
    """
    value, backward = f(*args)
    w = tree_map(lambda t: rng.standard_normal(np.shape(t)), value)
    gradients = backward(w)
    moving = [i for i, a in enumerate(args) if any(_is_real(leaf) for _, leaf in leaves(a))]
    if not isinstance(gradients, tuple) or (len(moving) == 1 and len(gradients) != 1):
        gradients = (gradients,)
    if len(gradients) != len(moving):
        raise Mismatch(f"backward returned {len(gradients)} gradients for {len(moving)} arguments")
    for i, gradient in zip(moving, gradients, strict=True):
        _check_shapes(i, args[i], gradient)
        for path, _ in leaves(args[i]):
            _check_direction(f, args, i, path, gradient, w, rng)


def _is_real(leaf: Any) -> bool:
    return np.asarray(leaf).dtype == np.float64


def _check_shapes(i: int, argument: Tree, gradient: Tree) -> None:
    wanted = {path: leaf.shape for path, leaf in leaves(argument)}
    found = {path: leaf.shape for path, leaf in leaves(gradient)}
    if wanted != found:
        raise Mismatch(f"gradient of argument {i} has leaves {found}, the argument has {wanted}")


def _check_direction(
    f: Callable[..., Any],
    args: Sequence[Tree],
    i: int,
    path: str,
    gradient: Tree,
    w: Tree,
    rng: np.random.Generator,
) -> None:
    """⟨w, J v⟩ = ⟨gradient, v⟩ for a random v along one leaf of argument i."""
    v = {p: rng.standard_normal(leaf.shape) * (p == path) for p, leaf in leaves(args[i])}

    def moved(step: float) -> Tree:
        paths = iter(v)
        shifted = tree_map(lambda leaf: leaf + step * v[next(paths)], args[i])
        return f(*args[:i], shifted, *args[i + 1 :])[0]

    h = STEP
    numeric = sum(c * inner(w, moved(k * h)) for k, c in _POINTS) / (12 * h)
    analytic = sum(float(np.sum(to_numpy(g) * v[p])) for p, g in leaves(gradient))
    size = norm_of(gradient, path) * float(np.linalg.norm(v[path]))
    if not abs(numeric - analytic) <= TOLERANCE["gradient"] * max(size, abs(numeric)) + 1e-11:
        raise Mismatch(
            f"gradient of argument {i}{f', leaf {path}' if path else ''}: along a random "
            f"direction the backward says {analytic:.12g}, the difference {numeric:.12g}"
        )


def inner(a: Tree, b: Tree) -> float:
    """⟨a, b⟩ summed over the leaves of two trees."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return float(sum(np.sum(to_numpy(x) * to_numpy(y)) for (_, x), (_, y) in pairs))


def norm_of(tree: Tree, path: str) -> float:
    """The norm of one leaf of a tree."""
    return float(np.linalg.norm(to_numpy(dict(leaves(tree))[path])))
