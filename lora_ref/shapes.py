"""One shape notation: the check at the public boundary, its message, and the example inputs.

    @shapes(x="... n", W="m n")
    def linear(x, W): ...

The axis grammar is jaxtyping's: a name is a size that must agree wherever it stands, a number is
itself, a leading ``...`` is any leading axes, and ``*batch`` is leading axes that must agree.
In front may stand what the array holds: nothing for floating point, ``bool``, or ``int(v)`` for
integers in [0, v). On a dataclass the specs are its fields', and its methods check them with
their own arguments, so that `LoRA.apply` knows that W's sizes come from A and B.

The same specs give `lora_ref.testing` the gradient check's inputs and the Hypothesis strategies.
Shapes that passed once are remembered: a repeated call pays one dictionary look-up.

Errors:
    ShapeError (a ValueError) names the function, the argument, what it must be, where that came
    from and what it got; TypeError if an argument is no array, or holds the wrong kind of number.
Limits:
    ``...`` axes are left to broadcasting. Values are never looked at: NaN and inf pass.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .arrays import is_array, namespace

T = TypeVar("T")
_SPEC = re.compile(r"(?:(bool)|(?:(int)\((\w+)\)))?\s*(\.\.\.|\*\w+)?\s*((?:\w+\s*)*)")
_REMEMBERED = 4096


class ShapeError(ValueError):
    """An argument whose shape does not fit the others."""


@dataclass(frozen=True)
class Spec:
    """A parsed spec: kind of number, bound of an integer, leading axes, trailing axes."""

    kind: str
    bound: str | None
    lead: str | None
    axes: tuple[str | int, ...]

    def __str__(self) -> str:
        inner = [*([self.lead] if self.lead else []), *map(str, self.axes)]
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"


@functools.cache
def parse(text: str) -> Spec:
    """The spec that `text` states.

    >>> parse("int(v) ... T")
    Spec(kind='int', bound='v', lead='...', axes=('T',))
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"shapes: a spec must be like 'bool ... m n' or 'int(v) T', got {text!r}")
    boolean, integer, bound, lead, axes = match.groups()
    sizes = tuple(int(a) if a.isdecimal() else a for a in axes.split())
    return Spec(boolean or integer or "real", bound, lead, sizes)


def shapes(**specs: str) -> Callable[[T], T]:
    """Decorator: state the shapes of a function's array arguments, or of a dataclass's fields."""
    parsed = {name: parse(text) for name, text in specs.items()}

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            target.__shapes__ = parsed
            return target
        return _checked(target, parsed)

    return decorate


def bind(owner: str, arrays: Mapping[str, Any], specs: Mapping[str, Spec]) -> dict[str, Any]:
    """Check `arrays` against `specs`; the sizes that the names stand for.

    An argument that is None is taken as absent.
    """
    present = {name: arrays[name] for name in specs if arrays.get(name) is not None}
    for name, value in present.items():
        _check_kind(owner, name, value, specs[name].kind)
    namespace(*present.values())
    sizes: dict[str, tuple[Any, str]] = {}  # axis name -> (size, the argument it came from)
    for name, value in present.items():
        _check_shape(owner, name, tuple(value.shape), specs[name], sizes)
    return {axis: size for axis, (size, _) in sizes.items()}


def _check_kind(owner: str, name: str, value: Any, kind: str) -> None:
    if not is_array(value):
        raise TypeError(f"{owner}: {name} must be an array, got {type(value).__name__}")
    if hasattr(namespace(value), "is_reading"):
        return
    standard = {"real": "real floating", "int": "integral", "bool": "bool"}[kind]
    if namespace(value).isdtype(value.dtype, standard):
        return
    if kind == "real" and _is_low_precision(value):
        return
    raise TypeError(f"{owner}: {name} must hold {standard} numbers, got dtype {value.dtype}")


def _is_low_precision(value: Any) -> bool:
    """ml_dtypes' floats and the 16- and 8-bit floats of JAX, which isdtype may not know."""
    return "float" in str(value.dtype)


def _check_shape(
    owner: str, name: str, shape: tuple[int, ...], spec: Spec, sizes: dict[str, tuple[Any, str]]
) -> None:
    count = len(spec.axes)
    fits = len(shape) >= count if spec.lead else len(shape) == count
    lead, trail = shape[: len(shape) - count], shape[len(shape) - count :]
    pairs = list(zip(spec.axes, trail, strict=False))
    if spec.lead not in (None, "..."):
        pairs.insert(0, (spec.lead, lead))  # type: ignore[arg-type]
    sources = []
    for axis, size in pairs:
        known = (axis, "") if isinstance(axis, int) else sizes.get(axis)
        if known is None:
            continue
        fits = fits and known[0] == size
        if known[1]:
            sources.append(f"{axis} = {known[0]} from {known[1]}")
    if not fits:
        origin = f" with {', '.join(sources)}" if sources else ""
        raise ShapeError(f"{owner}: {name} must be {spec}{origin}, got {shape}")
    for axis, size in pairs:
        if isinstance(axis, str):
            sizes.setdefault(axis, (size, name))


def _checked(function: Callable[..., Any], specs: dict[str, Spec]) -> Callable[..., Any]:
    """`function` with its arguments checked before each call."""
    signature = inspect.signature(function)
    unknown = specs.keys() - signature.parameters.keys()
    if unknown:
        raise ValueError(f"shapes: {function.__qualname__} has no argument {sorted(unknown)}")
    order = [(i, name) for i, name in enumerate(signature.parameters) if name in specs]
    is_method = next(iter(signature.parameters), None) == "self"
    passed: set[Any] = set()

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = signature.bind(*args, **kwargs).arguments
        found = {name: bound.get(name) for name in specs}
        every = dict(specs)
        owner = function.__qualname__
        if is_method:
            cls = type(args[0])
            owner = f"{cls.__name__}.{function.__name__}"
            own = {f"{cls.__name__}.{n}": (n, s) for n, s in getattr(cls, "__shapes__", {}).items()}
            every = {name: spec for name, (_, spec) in own.items()} | every
            found |= {name: getattr(args[0], n) for name, (n, _) in own.items()}
        bind(owner, found, every)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        key: Any = None
        try:
            if not kwargs:
                key = [type(args[0])] if is_method else []
                for i, _ in order:
                    if i < len(args):
                        a = args[i]
                        key.append((type(a), a.dtype, a.shape) if a is not None else None)
                if is_method:
                    key.extend([getattr(args[0], n).shape for n in _fields(type(args[0]))])
                key = tuple(key)
                if key in passed:
                    return function(*args)
        except (AttributeError, IndexError, TypeError):
            key = None  # no array, or None, where one belongs: the check will say so
        check(args, kwargs)
        if key is not None and len(passed) < _REMEMBERED:
            passed.add(key)
        return function(*args, **kwargs)

    wrapper.__shapes__ = specs  # type: ignore[attr-defined]
    return wrapper


@functools.cache
def _fields(cls: Any) -> tuple[str, ...]:
    return tuple(getattr(cls, "__shapes__", {}))
