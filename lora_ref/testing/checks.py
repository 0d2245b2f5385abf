"""The public list of checks: run them on your own adapter or layer.

    @pytest.mark.parametrize("check", ADAPTER_CHECKS)
    def test_my_adapter(check):
        check(lambda rng: adapter_case(MyAdapter, rng), np.random.default_rng(0))

A check takes a `make`, which draws a case at a generic point, and a random generator. It raises
`Mismatch` (an AssertionError) that says what differs. ADAPTER_CHECKS and LAYER_CHECKS are the
lists; `check_library` takes a conversion to another array library besides.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..adapters.base import apply_merged
from ..trees import Tree, leaves, tree_map
from .examples import Make
from .gradcheck import gradcheck
from .tolerance import Mismatch, assert_close, to_numpy

Rng = np.random.Generator


def check_weight_gradient(make: Make, rng: Rng) -> None:
    """The backward of `weight` is the transpose of its derivative."""
    case = make(rng)
    gradcheck(lambda adapter: adapter.weight(case.args[1]), [case.target], rng)


def check_apply_gradient(make: Make, rng: Rng) -> None:
    """The backward of `apply` is the transpose of its derivative, in x and in the adapter."""
    case = make(rng)
    x, W = case.args
    if np.asarray(x).dtype.kind == "f":
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
    dy = rng.standard_normal(y.shape)
    assert_trees_close((y, backward(dy)), (y_merged, backward_merged(dy)), "routes", "apply")


def check_layer_gradient(make: Make, rng: Rng) -> None:
    """A layer's backward is the transpose of its derivative."""
    case = make(rng)
    gradcheck(case.target, case.args, rng)


def check_leading_axes(make: Make, rng: Rng) -> None:
    """One row of a batch gives what the row gives alone."""
    case = make(rng)
    call = _call(case.target)
    y = call(*case.args)[0]
    alone = call(case.args[0][0], *case.args[1:])[0]
    assert_close(alone, y[0], "routes", "row 0 of the batch")


def check_pure(make: Make, rng: Rng) -> None:
    """Read-only inputs are enough, and a backward called twice returns the same bits."""
    case = make(rng)
    target, args = tree_map(read_only, case.target), tree_map(read_only, case.args)
    y, backward = _call(target)(*args)
    dy = tree_map(lambda t: read_only(rng.standard_normal(t.shape)), y)
    assert_trees_close(backward(dy), backward(dy), "identical", "a second call of backward")


def check_dtype(make: Make, rng: Rng) -> None:
    """float32 in, float32 out, everywhere, with float64's values to float32's accuracy."""
    case = make(rng)
    y, backward = _call(case.target)(*case.args)
    dy = tree_map(lambda t: rng.standard_normal(t.shape), y)
    single = tree_map(to_float32, (case.target, case.args, dy))
    y32, backward32 = _call(single[0])(*single[1])
    for path, leaf in leaves((y32, backward32(single[2]))):
        if leaf.dtype != np.float32:
            raise Mismatch(f"float32 inputs gave {leaf.dtype} at {path}")
    assert_trees_close((y32, backward32(single[2])), (y, backward(dy)), "float32", "float32")


def check_library(make: Make, rng: Rng, to_library: Callable[[np.ndarray], Any]) -> None:
    """Another library's arrays in, the same library's arrays out, with NumPy's numbers."""
    case = make(rng)
    y, backward = _call(case.target)(*case.args)
    dy = tree_map(lambda t: rng.standard_normal(t.shape), y)
    target, args, dy_there = tree_map(to_library, (case.target, case.args, dy))
    y_there, backward_there = _call(target)(*args)
    there = (y_there, backward_there(dy_there))
    kind = type(to_library(np.ones(1)))
    for path, leaf in leaves(there):
        if not isinstance(leaf, kind):
            raise Mismatch(f"{kind.__name__} inputs gave {type(leaf).__name__} at {path}")
    assert_trees_close(there, (y, backward(dy)), "libraries", kind.__module__)


ADAPTER_CHECKS = (
    check_weight_gradient,
    check_apply_gradient,
    check_routes_agree,
    check_leading_axes,
    check_pure,
    check_dtype,
)
LAYER_CHECKS = (check_layer_gradient, check_pure, check_dtype)


def assert_trees_close(actual: Tree, expected: Tree, kind: str, what: str) -> None:
    """`assert_close` for every leaf of two trees of one structure."""
    a, b = dict(leaves(actual)), dict(leaves(expected))
    if a.keys() != b.keys():
        raise Mismatch(f"{what}: leaves {sorted(a)}, expected {sorted(b)}")
    for path, leaf in a.items():
        assert_close(leaf, b[path], kind, f"{what}, {path}")


def read_only(t: np.ndarray) -> np.ndarray:
    """A copy of `t` that refuses to be written to."""
    copy = np.array(t)
    copy.flags.writeable = False
    return copy


def to_float32(t: np.ndarray) -> np.ndarray:
    """`t` in float32 if it holds floats, else itself."""
    return t.astype(np.float32) if to_numpy(t).dtype == np.float64 else t


def _call(target: Any) -> Callable[..., Any]:
    """A layer is called; an adapter is applied."""
    return getattr(target, "apply", target)
