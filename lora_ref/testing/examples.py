"""Example arguments, made from shape specs: what the checks and the strategies share.

Sizes are pairwise different, because equal sizes hide transposes; the suite runs every example a
second time with all sizes equal, because unequal ones turn a silent transpose into a crash.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..shapes import Spec
from ..trees import map_arrays

DISTINCT = (11, 7, 3, 5, 2, 13, 4, 6, 8, 9, 10, 12)  # for axis names in order of appearance
LEADING = (2, 3)
SCALE = 5 / 3  # α = 5, r = 3


@dataclass(frozen=True)
class Case:
    """One call to check: a function or an adapter, and its arguments."""

    target: Any
    args: tuple[Any, ...]


Make = Callable[[np.random.Generator], Case]


def sizes_of(specs: Mapping[str, Spec], square: int | None = None) -> dict[str, int]:
    """A size for every axis name: pairwise different, or all `square`.

    >>> from lora_ref.shapes import parse
    >>> sizes_of({"x": parse("... n"), "W": parse("m n")})
    {'n': 11, 'm': 7}
    """
    named = axis_names(specs)
    if square is not None:
        return dict.fromkeys(named, square)
    if len(named) > len(DISTINCT):
        raise ValueError(f"sizes_of: at most {len(DISTINCT)} axis names, got {len(named)}")
    return dict(zip(named, DISTINCT, strict=False))


def axis_names(specs: Mapping[str, Spec]) -> list[str]:
    """The names of all axes and of all bounds of integers, in order of appearance."""
    axes = [str(axis) for spec in specs.values() for axis in spec.axes]
    bounds = [spec.bound for spec in specs.values() if spec.bound]
    return list(dict.fromkeys(name for name in (*axes, *bounds) if not name.isdecimal()))


def shape_of(spec: Spec, sizes: Mapping[str, int], leading: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a spec has at these sizes, behind these leading axes."""
    lead = leading if spec.lead else ()
    return lead + tuple(axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes)


def bound_of(spec: Spec, sizes: Mapping[str, int]) -> int:
    """What the integers of an ``int(v)`` spec stay below, at these sizes."""
    bound = str(spec.bound)
    return int(bound) if bound.isdecimal() else sizes[bound]


def draw(
    spec: Spec,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    leading: tuple[int, ...] = LEADING,
) -> np.ndarray:
    """A random array of the spec's shape and kind; floats are N(0, 1), all of them generic."""
    shape = shape_of(spec, sizes, leading)
    if spec.kind == "bool":
        return rng.random(shape) < 0.7
    if spec.kind == "int":
        return rng.integers(0, bound_of(spec, sizes), size=shape)
    return np.asarray(rng.standard_normal(shape))


def function_case(
    f: Callable[..., Any], rng: np.random.Generator, square: int | None = None
) -> Case:
    """Arguments for a function whose positional arguments all have a spec."""
    specs: Mapping[str, Spec] = f.__shapes__  # type: ignore[attr-defined]
    sizes = sizes_of(specs, square)
    return Case(f, tuple(draw(spec, sizes, rng) for spec in specs.values()))


def adapter_case(cls: Any, rng: np.random.Generator, square: int | None = None) -> Case:
    """(adapter, (x, W)) for an adapter class, every field at a generic point.

    Errors:
        TypeError if the class or its `apply` states no shapes that an example could be drawn by.
    """
    for owner, what in ((cls, cls.__name__), (cls.apply, f"{cls.__name__}.apply")):
        if not hasattr(owner, "__shapes__"):
            need = "must state its shapes with @shapes, or be checked with a `make` of its own"
            raise TypeError(f"adapter_case: {what} {need}")
    call = cls.apply.__shapes__
    sizes = sizes_of({**cls.__shapes__, **call}, square)
    arrays = {name: draw(spec, sizes, rng) for name, spec in cls.__shapes__.items()}
    static = {f.name: SCALE for f in fields(cls) if f.name == "scale"}
    x, W = (draw(call[name], sizes, rng) for name in ("x", "W"))
    return Case(cls(**arrays, **static), (x, W))


def converted(make: Make, to_library: Callable[[np.ndarray], Any]) -> Make:
    """`make`, with every array of its case converted: to another library, or to read-only."""

    def make_there(rng: np.random.Generator) -> Case:
        case = make(rng)
        return Case(map_arrays(to_library, case.target), map_arrays(to_library, case.args))

    return make_there
