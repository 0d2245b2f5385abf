"""What the fields of a contract must be: types and values, each refused with the remedy.

Errors:
    TypeError for a value of another type, ValueError for one that no arithmetic has.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from .grids import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16, FLOAT32, FLOAT64, TF32, Grid

GRIDS: Mapping[str, Grid] = {
    "BFLOAT16": BFLOAT16,
    "FLOAT16": FLOAT16,
    "FLOAT32": FLOAT32,
    "FLOAT64": FLOAT64,
    "TF32": TF32,
    "FLOAT8_E4M3": FLOAT8_E4M3,
    "FLOAT8_E5M2": FLOAT8_E5M2,
}
_SHORT = {
    "half": "FLOAT16",
    "fp16": "FLOAT16",
    "bf16": "BFLOAT16",
    "float": "FLOAT32",
    "fp32": "FLOAT32",
    "double": "FLOAT64",
    "fp64": "FLOAT64",
}
HOME = "from lora_ref.verdict"


def constant_of(grid: Grid) -> str:
    """What a grid is called in `lora_ref.verdict`; the name of its dtype if it has none there.

    >>> constant_of(FLOAT8_E4M3)
    'FLOAT8_E4M3'
    """
    return next((name for name, known in GRIDS.items() if known == grid), grid.name)


def check_type(owner: str, field: str, value: Any, kinds: tuple[type, ...], remedy: str) -> None:
    """Refuses what is of none of the `kinds`; `remedy` says what to give."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{owner}: {field} must be {_a(wanted)}, got {got(value)}; give {remedy}")


def check_grid(owner: str, field: str, value: Any) -> None:
    """Refuses what is no grid of numbers."""
    meant = _constant_meant(value) or "BFLOAT16, FLOAT16, FLOAT32 or another grid"
    check_type(owner, field, value, (Grid,), f"{meant} {HOME}")
    if not 1 <= value.precision <= 53:
        raise ValueError(
            f"{owner}: {field} must have a precision of 1 to 53 bits, as float64 holds "
            f"its numbers, got {value}"
        )
    if not 0 < value.largest < float("inf") or value.emin > 0:
        raise ValueError(f"{owner}: {field} must have a largest number and emin <= 0, got {value}")


def check_flags(owner: str, flags: Mapping[str, Any]) -> None:
    """Refuses what is neither True nor False."""
    for name, value in flags.items():
        check_type(owner, name, value, (bool,), "True or False")


def check_at_least(owner: str, field: str, value: Any, least: float, kind: type) -> None:
    """Refuses what is no finite number of a kind, or below `least`."""
    number = not isinstance(value, bool) and isinstance(value, (kind, int))
    if not number or not least <= value < float("inf"):
        word = "a whole number" if kind is int else "a number"
        raise ValueError(f"{owner}: {field} must be {word} of at least {least:g}, got {value!r}")


def got(value: Any) -> str:
    """What was given, in a few words.

    >>> got("float32"), got(Grid), got(FLOAT32), got(128)
    ("the str 'float32'", 'the class Grid', 'the grid FLOAT32', 'the int 128')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Grid):
        return f"the grid {constant_of(value)}"
    plain = isinstance(value, str | int | float)
    return f"the {type(value).__name__} {value!r}" if plain else _a(type(value).__name__)


def _constant_meant(value: Any) -> str:
    """The grid that a name or a dtype of any library stands for, if it does."""
    named = str(getattr(value, "__name__", value)).rpartition(".")[2].lower()
    for name, grid in GRIDS.items():
        if named in (name.lower(), grid.name):
            return name
    return _SHORT.get(named, "")


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'AEIOUaeiou' else 'a'} {noun}"


class Presets(dict[str, Any]):
    """A dictionary whose missing names are refused with those that there are.

    >>> Presets(bfloat16=1)["bf16"]
    Traceback (most recent call last):
    ...
    KeyError: "PRESETS: 'bf16' is no preset (did you mean 'bfloat16'?); the presets are 'bfloat16'"
    """

    def __missing__(self, name: object) -> Any:
        meant = _SHORT.get(str(name).lower(), str(name)).lower()
        close = get_close_matches(meant, self, n=1)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise KeyError(
            f"PRESETS: {name!r} is no preset{guess}; the presets are {', '.join(map(repr, self))}"
        )
