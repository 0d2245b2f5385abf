"""The public list of checks: run them on your own adapter or layer.

    @pytest.mark.parametrize("check", ADAPTER_CHECKS)
    def test_my_adapter(check):
        check(lambda rng: adapter_case(MyAdapter, rng), np.random.default_rng(0))

A check takes a `make`, which draws a case at a generic point, and a random generator. It raises
`Mismatch` (an AssertionError) that says what differs. The arrays of the case may be any
library's: `examples.converted` makes them so. ADAPTER_CHECKS and LAYER_CHECKS are the lists;
`check_library` takes a conversion to another array library besides.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..adapters.base import apply_merged
from ..arrays import library_of, namespace, on_device_of
from ..mismatch import Mismatch
from ..trees import Tree, leaves, map_arrays, tree_map
from .examples import Make, converted
from .gradient_check import gradcheck, is_float64, random_like
from .tolerance import assert_close, to_numpy

Rng = np.random.Generator


def check_weight_gradient(make: Make, rng: Rng) -> None:
    """The backward of `weight` is the transpose of its derivative."""
    case = make(rng)
    gradcheck(lambda adapter: adapter.weight(case.args[1]), [case.target], rng)


def check_apply_gradient(make: Make, rng: Rng) -> None:
    """The backward of `apply` is the transpose of its derivative, in x and in the adapter."""
    case = make(rng)
    x, W = case.args
    if is_float64(x):
        gradcheck(lambda x, adapter: adapter.apply(x, W), [x, case.target], rng)
        return

    def in_adapter(adapter):
        y, backward = adapter.apply(x, W)
        return y, lambda dy: backward(dy)[1]

    gradcheck(in_adapter, [case.target], rng)


def check_routes_agree(make: Make, rng: Rng) -> None:
    """Definition and algorithm agree in y, dx and dθ."""
    case = make(rng)
    y, backward = case.target.apply(*case.args)
    y_merged, backward_merged = apply_merged(case.target, *case.args)
    assert_close(y, y_merged, "routes", "apply against weight, y")
    dy = random_like(y, rng)
    algorithm, definition = (_named(case.target, b(dy)) for b in (backward, backward_merged))
    assert_trees_close(algorithm, definition, "routes", "apply against weight")


def check_own_type(make: Make, rng: Rng) -> None:
    """A gradient has its adapter's own type, so that one `tree_map` updates the adapter."""
    case = make(rng)
    y, backward = case.target.apply(*case.args)
    W_merged, weight_backward = case.target.weight(case.args[1])
    gradients = backward(random_like(y, rng))
    if not isinstance(gradients, tuple) or len(gradients) != 2:
        raise Mismatch(f"apply: backward must return (dx, dθ), got {type(gradients).__name__}")
    found = {
        "apply": gradients[1],
        "weight": weight_backward(random_like(W_merged, rng)),
    }
    for route, gradient in found.items():
        if type(gradient) is not type(case.target):
            wanted = type(case.target).__name__
            raise Mismatch(f"{route}: dθ must be a {wanted}, got {type(gradient).__name__}")


def check_layer_gradient(make: Make, rng: Rng) -> None:
    """A layer's backward is the transpose of its derivative."""
    case = make(rng)
    gradcheck(case.target, case.args, rng)


def check_leading_axes(make: Make, rng: Rng) -> None:
    """One row of a batch gives what the row gives alone."""
    case = make(rng)
    call = _call(case.target)
    y = call(*case.args)[0]
    alone = call(case.args[0][0, ...], *case.args[1:])[0]
    assert_close(alone, y[0, ...], "routes", "row 0 of the batch")


def check_linear_backward(make: Make, rng: Rng) -> None:
    """A backward is linear: backward(2 v + w) = 2 backward(v) + backward(w)."""
    case = make(rng)
    y, backward = _call(case.target)(*case.args)
    v, w = random_like(y, rng), random_like(y, rng)
    together = backward(tree_map(lambda a, b: 2.0 * a + b, v, w))
    apart = tree_map(lambda a, b: 2.0 * a + b, backward(v), backward(w))
    assert_trees_close(together, apart, "routes", "linearity of the backward")


def check_pure(make: Make, rng: Rng) -> None:
    """Inputs stay as they are, and a backward called twice returns the same bits."""
    case = make(rng)
    target, args = map_arrays(read_only, (case.target, case.args))
    before = map_arrays(snapshot, (target, args))
    y, backward = _call(target)(*args)
    dy = tree_map(read_only, random_like(y, rng))
    y_before, dy_before = tree_map(snapshot, (y, dy))
    try:
        first = tree_map(snapshot, backward(dy))
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise Mismatch("backward wrote into dy, or into an input of the call") from error
    assert_trees_close(backward(dy), first, "identical", "a second call of backward")
    assert_trees_close((target, args), before, "identical", "the inputs after the call")
    assert_trees_close((y, dy), (y_before, dy_before), "identical", "y and dy after backward")


def check_dtype(make: Make, rng: Rng) -> None:
    """float32 in, float32 out, everywhere, with float64's values to float32's accuracy."""
    case = make(rng)
    y, backward = _call(case.target)(*case.args)
    dy = random_like(y, rng)
    target, args, dy_single = map_arrays(to_float32, (case.target, case.args, dy))
    y_single, backward_single = _call(target)(*args)
    single = {"y": y_single, **_named(target, backward_single(dy_single))}
    for path, leaf in leaves(single):
        if not str(leaf.dtype).endswith("float32"):
            raise Mismatch(f"float32 inputs gave {leaf.dtype} for {path}")
    double = {"y": y, **_named(case.target, backward(dy))}
    assert_trees_close(single, double, "float32", "float32 against float64")


def check_library(make: Make, rng: Rng, to_library: Callable[[np.ndarray], Any]) -> None:
    """Another library's arrays in, the same library's arrays out, with NumPy's numbers."""
    state = rng.bit_generator.state
    case = make(rng)
    rng.bit_generator.state = state  # the same numbers once more
    there = converted(make, to_library)(rng)
    y, backward = _call(case.target)(*case.args)
    y_there, backward_there = _call(there.target)(*there.args)
    dy = random_like(y, rng)
    found = (y_there, backward_there(tree_map(to_library, dy)))
    library = library_of(to_library(np.ones(1)))
    for path, leaf in leaves(found):
        if library_of(leaf) != library:
            raise Mismatch(f"arrays of {library} gave one of {library_of(leaf)} at {path}")
    assert_trees_close(found, (y, backward(dy)), "libraries", library)


ADAPTER_CHECKS = (
    check_weight_gradient,
    check_apply_gradient,
    check_routes_agree,
    check_own_type,
    check_leading_axes,
    check_linear_backward,
    check_pure,
    check_dtype,
)
LAYER_CHECKS = (check_layer_gradient, check_linear_backward, check_pure, check_dtype)


def assert_trees_close(actual: Tree, expected: Tree, kind: str, what: str) -> None:
    """`assert_close` for every leaf of two trees of one structure."""
    a, b = dict(leaves(actual)), dict(leaves(expected))
    if a.keys() != b.keys():
        raise Mismatch(f"{what}: leaves {sorted(a)}, expected {sorted(b)}")
    for path, leaf in a.items():
        assert_close(leaf, b[path], kind, f"{what}, {path}" if path else what)


def read_only(t: Any) -> Any:
    """A copy of a NumPy array that refuses to be written to; other arrays pass."""
    if type(t) is not np.ndarray:
        return t
    copy = np.array(t)
    copy.flags.writeable = False
    return copy


def snapshot(t: Any) -> np.ndarray:
    """A copy of `t` on the host, which later writes to `t` do not reach."""
    return np.array(to_numpy(t))


def to_float32(t: Any) -> Any:
    """`t` in float32 if it holds float64, else itself."""
    if not is_float64(t):
        return t
    return namespace(t).asarray(to_numpy(t).astype(np.float32), **on_device_of(t))


def _named(target: Any, gradients: Tree) -> dict[str, Tree]:
    """What a backward returned, by name, for messages."""
    if hasattr(target, "apply") and isinstance(gradients, tuple) and len(gradients) == 2:
        return {"dx": gradients[0], "dadapter": gradients[1]}
    return {"gradients": gradients}


def _call(target: Any) -> Callable[..., Any]:
    """A layer is called; an adapter is applied."""
    return getattr(target, "apply", target)
