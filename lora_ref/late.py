"""Names of a package that are imported when they are first asked for.

    __getattr__, __dir__ = attributes(__name__, HOME_OF)

`HOME_OF` has the module, without its first dot, that each name is in.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def homes(names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The module of each name, from the names of each module."""
    return {name: home for home, inside in names.items() for name in inside}


def attributes(
    package: str, home_of: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the module `package`, whose `__all__` has the names."""

    def get(name: str) -> Any:
        if name in home_of:
            return getattr(importlib.import_module(f".{home_of[name]}", package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        own = vars(sys.modules[package])
        return [*own, *own["__all__"]]

    return get, names
