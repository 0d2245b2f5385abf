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
from typing import Any, TypeVar, get_args

from .arrays import is_array, library_of, namespace

T = TypeVar("T")
_SPEC = re.compile(r"(?:(bool)|(?:(int)\((\w+)\)))?\s*(\.\.\.|\*\w+)?\s*((?:\w+\s*)*)")
_REAL = re.compile(r"(?:\w+\.)?b?float\d\w*")  # isdtype knows neither bfloat16 nor float8
_RESERVED = {"bool", "float", "int"}
_REMEMBERED = 4096  # fingerprints a function


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
    if match is None or _RESERVED & set(match[5].split()):
        raise ValueError(f"shapes: a spec must be like 'bool ... m n' or 'int(v) T', got {text!r}")
    boolean, integer, bound, lead, axes = match.groups()
    sizes = tuple(int(a) if a.isdecimal() else a for a in axes.split())
    return Spec(boolean or integer or "real", bound, lead, sizes)


def shapes(**specs: str) -> Callable[[T], T]:
    """Decorator: state the shapes of a function's array arguments, or of a dataclass's fields."""
    parsed = {name: parse(text) for name, text in specs.items()}

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            target.__shapes__ = parsed  # type: ignore[attr-defined]
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
    _check_library(owner, present)
    sizes: dict[str, tuple[Any, str]] = {}  # axis name -> (size, the argument it came from)
    for name, value in present.items():
        _check_shape(owner, name, tuple(value.shape), specs[name], sizes)
    return {axis: size for axis, (size, _) in sizes.items()}


def _check_kind(owner: str, name: str, value: Any, kind: str) -> None:
    if not is_array(value):
        raise TypeError(f"{owner}: {name} must be an array, got {type(value).__name__}")
    xp = namespace(value)
    if hasattr(xp, "is_reading"):
        return
    standard = {"real": "real floating", "int": "integral", "bool": "bool"}[kind]
    if kind == "real" and _REAL.fullmatch(str(value.dtype)):
        return
    try:
        fits = xp.isdtype(value.dtype, standard)
    except TypeError:  # a dtype that NumPy did not define, such as an integer of ml_dtypes
        fits = False
    if not fits:
        raise TypeError(f"{owner}: {name} must hold {standard} numbers, got dtype {value.dtype}")


def _check_library(owner: str, present: Mapping[str, Any]) -> None:
    """All arguments from the library of the first one."""
    first, *others = present or {"": None}
    for name in others:
        try:
            namespace(present[first], present[name])
        except TypeError:
            here, there = (library_of(present[n]) for n in (first, name))
            raise TypeError(
                f"{owner}: {name} must be of one library with {first}, which is {here}, got {there}"
            ) from None


def _check_shape(
    owner: str, name: str, shape: tuple[int, ...], spec: Spec, sizes: dict[str, tuple[Any, str]]
) -> None:
    count = len(spec.axes)
    split = len(shape) - count
    fits = split >= 0 if spec.lead else split == 0
    found: dict[Any, Any] = {}
    if fits:
        named = (spec.lead,) if spec.lead not in (None, "...") else ()
        lead = (shape[:split],) if named else ()
        for axis, size in zip((*named, *spec.axes), (*lead, *shape[split:]), strict=True):
            wanted = axis if isinstance(axis, int) else sizes.get(axis, (found.get(axis, size),))[0]
            fits = fits and size == wanted
            found[axis] = size
    if not fits:
        raise ShapeError(f"{owner}: {name} must be {spec}{_origin(spec, sizes)}, got {shape}")
    for axis, size in found.items():
        if isinstance(axis, str):
            sizes.setdefault(axis, (size, name))


def _origin(spec: Spec, sizes: Mapping[str, tuple[Any, str]]) -> str:
    """Where the sizes that `spec` names came from."""
    axes = dict.fromkeys(map(str, (spec.lead, *spec.axes)))
    known = [f"{axis} = {sizes[axis][0]} from {sizes[axis][1]}" for axis in axes if axis in sizes]
    return f" with {', '.join(known)}" if known else ""


def _checked(function: Callable[..., Any], specs: dict[str, Spec]) -> Callable[..., Any]:
    """`function` with its arguments checked before each call."""
    signature = inspect.signature(function)
    unknown = specs.keys() - signature.parameters.keys()
    if unknown:
        raise ValueError(f"shapes: {function.__qualname__} has no argument {sorted(unknown)}")
    places = tuple(i for i, name in enumerate(signature.parameters) if name in specs)
    is_method = next(iter(signature.parameters), None) == "self"
    passed: set[Any] = set()  # fingerprints of the calls that the check has accepted

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            values = [args[i] for i in places if i < len(args)]
            if is_method:
                own = args[0]
                values += [getattr(own, name) for name in getattr(own, "__shapes__", ())]
            key: Any = [None if v is None else (type(v), v.dtype, v.shape) for v in values]
            for name in kwargs.keys() & specs.keys():
                v = kwargs[name]
                key += (name, v is not None and (type(v), v.dtype, v.shape))
            key = (type(own) if is_method else None, *key)
            accepted = key in passed
        except (AttributeError, IndexError, TypeError):
            key, accepted = None, False  # something is no array: the check will say what
        if not accepted:
            _check_call(function, signature, specs, args, kwargs)
            if key is not None and len(passed) < _REMEMBERED:
                passed.add(key)
        return function(*args, **kwargs)

    wrapper.__shapes__ = specs  # type: ignore[attr-defined]
    return wrapper


def _check_call(
    function: Callable[..., Any],
    signature: inspect.Signature,
    specs: Mapping[str, Spec],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """`bind` the arguments of one call, a method's together with the fields of its object."""
    owner = function.__qualname__
    try:
        arguments = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{owner}: {error}") from None
    found: dict[str, Any] = {}
    every: dict[str, Spec] = {}
    if "self" in arguments:
        cls = type(arguments["self"])
        owner = f"{cls.__name__}.{function.__name__}"
        for name, spec in getattr(cls, "__shapes__", {}).items():
            found[f"{cls.__name__}.{name}"] = getattr(arguments["self"], name)
            every[f"{cls.__name__}.{name}"] = spec
    for name in specs:
        found[name] = arguments.get(name)
        if name in arguments and found[name] is None and not _admits_none(signature, name):
            raise TypeError(f"{owner}: {name} must be an array, got None")
    bind(owner, found, {**every, **specs})


def _admits_none(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters[name]
    return parameter.default is None or type(None) in get_args(parameter.annotation)
