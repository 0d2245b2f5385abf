"""Hypothesis strategies from shape specs: a size for every letter, an array for every spec.

    @given(cases(linear))
    def test_mine(case):
        y, backward = case.target(*case.args)

Sizes include 1, leading axes include 0, and values come from regimes: small integers, N(0, 1),
N(0, 1) with many zeros, tiny, large, and, where asked for, the special values of IEEE 754. An
example shrinks to few axes, small sizes, integers. This module alone imports Hypothesis.

Units:
    tiny is 1e-30 and large 1e30: a product of eight such factors stays inside float64.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from ..shapes import Spec
from .examples import Case, axis_names, bound_of, shape_of

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{__name__}: needs Hypothesis; pip install hypothesis", name="hypothesis"
    ) from error

Strategy = st.SearchStrategy[Any]
Rng = np.random.Generator

_SPECIAL = (0.0, -0.0, 1.0, -1.0, 5e-324, -2e-308, np.inf, -np.inf, np.nan)
_REGIMES: dict[str, Callable[[Rng, tuple[int, ...]], Any]] = {
    "integers": lambda rng, shape: rng.integers(-3, 4, size=shape),
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "with zeros": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.6),
    "tiny": lambda rng, shape: 1e-30 * rng.standard_normal(shape),
    "large": lambda rng, shape: 1e30 * rng.standard_normal(shape),
    "special": lambda rng, shape: rng.choice(_SPECIAL, size=shape),
}
FINITE = ("integers", "normal", "with zeros", "tiny", "large")
EVERY = (*FINITE, "special")
SCALES = (1.0, 0.5, 5 / 3, -2.0, 64.0, 1e-3)


def sizes(
    specs: Mapping[str, Spec], *, min_size: int = 1, max_size: int = 5
) -> st.SearchStrategy[dict[str, int]]:
    """A size for every axis name of `specs`; all equal in a part of the examples."""
    names = axis_names(specs)
    size = st.integers(min_size, max_size)
    square = size.map(lambda n: dict.fromkeys(names, n))
    return st.one_of(st.fixed_dictionaries(dict.fromkeys(names, size)), square)


def leading_axes(*, max_axes: int = 3, max_size: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """What ``...`` stands for: no axes, or some, of which a size may be zero."""
    return st.lists(st.integers(0, max_size), max_size=max_axes).map(tuple)


def arrays(
    shape: tuple[int, ...], *, regimes: tuple[str, ...] = FINITE
) -> st.SearchStrategy[np.ndarray]:
    """A float64 array in one of the regimes."""
    return st.builds(_array, st.just(shape), st.sampled_from(regimes), st.integers(0, 2**32 - 1))


def _array(shape: tuple[int, ...], regime: str, seed: int) -> np.ndarray:
    return np.asarray(_REGIMES[regime](np.random.default_rng(seed), shape), dtype=np.float64)


def from_spec(
    spec: Spec,
    sizes: Mapping[str, int],
    leading: tuple[int, ...] = (),
    *,
    regimes: tuple[str, ...] = FINITE,
) -> st.SearchStrategy[np.ndarray]:
    """An array that fits a spec: floats in a regime, a mask, or indices below their bound."""
    shape = shape_of(spec, sizes, leading)
    seed = st.integers(0, 2**32 - 1).map(np.random.default_rng)
    if spec.kind == "bool":
        return seed.map(lambda rng: rng.random(shape) < 0.7)
    if spec.kind == "int":
        return seed.map(lambda rng: rng.integers(0, bound_of(spec, sizes), size=shape))
    return arrays(shape, regimes=regimes)


@st.composite
def cases(
    draw: st.DrawFn,
    f: Callable[..., Any],
    *,
    regimes: tuple[str, ...] = FINITE,
    leading: Strategy | None = None,
    **static: Strategy,
) -> Case:
    """A call of a function with shape specs; `static` has a strategy for each other argument.

    An argument that may be left out (its default is None) is None in a part of the examples.
    """
    specs: Mapping[str, Spec] = f.__shapes__  # type: ignore[attr-defined]
    parameters = inspect.signature(f).parameters
    size, lead = draw(sizes(specs)), draw(leading_axes() if leading is None else leading)
    names = [name for name in parameters if name in specs]
    values = []
    for name in names:
        value = from_spec(specs[name], size, lead, regimes=regimes)
        optional = parameters[name].default is None
        values.append(draw(st.none() | value if optional else value))
    others = {name: draw(strategy) for name, strategy in static.items()}

    def call(*arrays: Any) -> Any:
        return f(**dict(zip(names, arrays, strict=True)), **others)

    return Case(f if not others else call, tuple(values))


@st.composite
def adapter_cases(
    draw: st.DrawFn,
    cls: Any,
    *,
    regimes: tuple[str, ...] = FINITE,
    leading: Strategy | None = None,
    **static: Strategy,
) -> Case:
    """(adapter, (x, W)) for an adapter class; `static` has a strategy for each other field."""
    _require_drawn(cls, static)
    call = cls.apply.__shapes__
    size, lead = (
        draw(sizes({**cls.__shapes__, **call})),
        draw(leading_axes() if leading is None else leading),
    )
    adapter = draw(_adapter(cls, size, regimes, static))
    x, W = (draw(from_spec(call[name], size, lead, regimes=regimes)) for name in ("x", "W"))
    return Case(adapter, (x, W))


def adapters(cls: Any, *, regimes: tuple[str, ...] = FINITE, **static: Strategy) -> Strategy:
    """An adapter of a class whose fields have specs; a field `scale` is drawn from SCALES."""
    _require_drawn(cls, static)
    return sizes(cls.__shapes__).flatmap(lambda size: _adapter(cls, size, regimes, static))


def _adapter(
    cls: Any,
    size: Mapping[str, int],
    regimes: tuple[str, ...],
    static: Mapping[str, Strategy],
) -> Strategy:
    specs = cls.__shapes__
    drawn = {name: from_spec(spec, size, regimes=regimes) for name, spec in specs.items()}
    scale = {"scale": st.sampled_from(SCALES)} if "scale" in _names(cls) else {}
    return st.builds(cls, **{**drawn, **scale, **static})


def _require_drawn(cls: Any, static: Mapping[str, Strategy]) -> None:
    if missing := [name for name in undrawn(cls) if name not in static]:
        raise TypeError(f"adapters: {cls.__name__} needs a strategy for {', '.join(missing)}")


def undrawn(cls: Any) -> list[str]:
    """The fields of an adapter class that its specs do not draw, apart from `scale`."""
    specs = getattr(cls, "__shapes__", {})
    return [name for name in _names(cls) if name not in specs and name != "scale"]


def _names(cls: Any) -> list[str]:
    return [f.name for f in fields(cls)]
