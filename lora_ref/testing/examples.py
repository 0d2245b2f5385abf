"""Example arguments, made from shape specs: what the checks and the strategies share.

Sizes are pairwise different, because equal sizes hide transposes; the checks run every example a
second time with all sizes equal, because unequal ones turn a silent transpose into a crash.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..shapes import Spec

DISTINCT = (11, 7, 3, 5, 2, 13, 4, 6, 8)  # given out to axis names in order of appearance
LEADING = (2, 3)
SCALE = 5 / 3  # α = 5, r = 3


@dataclass(frozen=True)
class Case:
    """One call to check: a function or an adapter, and its arguments."""

    target: Any
    args: tuple[Any, ...]


Make = Callable[[np.random.Generator], Case]


def sizes_of(specs: Mapping[str, Spec], square: int | None = None) -> dict[str, int]:
    """A size for every axis name: pairwise different, or all `square`."""
    names = dict.fromkeys(axis for spec in specs.values() for axis in spec.axes)
    names.update(dict.fromkeys(spec.bound for spec in specs.values() if spec.bound))
    named = [n for n in names if isinstance(n, str)]
    if square is not None:
        return dict.fromkeys(named, square)
    return dict(zip(named, DISTINCT, strict=False))


def draw(
    spec: Spec,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    leading: tuple[int, ...] = LEADING,
) -> np.ndarray:
    """A random array of the spec's shape and kind; floats are N(0, 1), all of them generic."""
    lead = leading if spec.lead else ()
    shape = lead + tuple(a if isinstance(a, int) else sizes[a] for a in spec.axes)
    if spec.kind == "bool":
        return rng.random(shape) < 0.7
    if spec.kind == "int":
        assert spec.bound is not None
        bound = int(spec.bound) if spec.bound.isdecimal() else sizes[spec.bound]
        return rng.integers(0, bound, size=shape)
    return rng.standard_normal(shape)


def function_case(
    f: Callable[..., Any], rng: np.random.Generator, square: int | None = None
) -> Case:
    """Arguments for a function whose positional arguments all have a spec."""
    specs: Mapping[str, Spec] = f.__shapes__
    sizes = sizes_of(specs, square)
    return Case(f, tuple(draw(spec, sizes, rng) for spec in specs.values()))


def adapter_case(cls: Any, rng: np.random.Generator, square: int | None = None) -> Case:
    """(adapter, (x, W)) for an adapter class, every field at a generic point."""
    call = cls.apply.__shapes__
    specs = {**cls.__shapes__, **call}
    sizes = sizes_of(specs, square)
    arrays = {name: draw(spec, sizes, rng) for name, spec in cls.__shapes__.items()}
    static = {f.name: SCALE for f in fields(cls) if f.name == "scale"}
    x, W = (draw(call[name], sizes, rng) for name in ("x", "W"))
    return Case(cls(**arrays, **static), (x, W))
