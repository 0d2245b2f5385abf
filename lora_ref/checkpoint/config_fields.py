"""The fields of an adapter_config.json: default, check and wording of each, for any PEFT method.

Errors:  CheckpointError, one line, for a field that is not what it must be, and what is no JSON
Source:  PEFT 0.21.2, config.py, PeftConfigMixin; utils/other.py, get_pattern_key
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import CheckpointError, refusal, shown
from .patterns import first_match

CONFIG_NAME = "adapter_config.json"


@dataclass(frozen=True)
class Field:
    """One field: its default in PEFT, the check of its values, and what they must be in words."""

    default: Any
    check: Callable[[Any], bool]
    need: str
    nullable: bool = False


def field_value(raw: Mapping[str, Any], name: str, known: Field, path: object) -> Any:
    """The value of the field `name` of `raw`, checked, its lists as tuples."""
    value = raw.get(name, known.default)
    if value is None and known.nullable:
        # No initialisation is PEFT's meaning of null there; elsewhere null is the default.
        return False if name == "init_lora_weights" else _frozen(known.default)
    if not known.check(value):
        raise refusal(path, f"{name} must be {known.need}, got {shown(value)}")
    return _frozen(value)


def text_of(fields: Mapping[str, Any], path: object = CONFIG_NAME) -> bytes:
    """The bytes of a configuration with these fields; `path` is for messages.

    Sorted as PEFT sorts them, but for patterns: of those the first that fits a module counts.
    """
    try:
        ordered = {name: fields[name] for name in sorted(fields)}
        return json.dumps(ordered, indent=2, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise refusal(path, f"must be JSON: {error}") from None


def ends(module: str, targets: Sequence[str]) -> bool:
    """Whether the path is one of `targets` or ends in one, as PEFT targets modules."""
    return any(module == target or module.endswith(f".{target}") for target in targets)


def with_targets(fields: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """`fields`, with these paths as target_modules if they have none: PEFT must find its modules.

    >>> with_targets({"r": 3}, ["a.v", "a.q"])
    {'r': 3, 'target_modules': ['a.q', 'a.v']}
    >>> with_targets({"target_modules": "all-linear"}, ["a.q"])
    {'target_modules': 'all-linear'}
    """
    missing = fields.get("target_modules") is None and (targets := sorted(paths))
    return {**fields, "target_modules": targets} if missing else {**fields}


def matching_key(patterns: Mapping[str, Any], path: str) -> str:
    """The key of rank_pattern or alpha_pattern that speaks for the module `path`, or `path`."""
    # PEFT falls back on the path itself, which finds a key that is no expression for itself.
    try:
        return first_match(tuple(patterns), path) or path
    except CheckpointError as error:
        raise refusal(CONFIG_NAME, f"rank_pattern or alpha_pattern: {error}") from None


def is_text(value: Any) -> bool:
    """Whether `value` is a string."""
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    """Whether `value` is true or false."""
    return isinstance(value, bool)


def is_rank(value: Any) -> bool:
    """Whether `value` is an integer of at least 1."""
    return type(value) is int and 1 <= value < 2**31


def is_alpha(value: Any) -> bool:
    """Whether `value` is a finite number."""
    try:
        return type(value) in (int, float) and math.isfinite(float(value))
    except OverflowError:
        return False


def is_index(value: Any) -> bool:
    """Whether `value` is an integer of at least 0."""
    return type(value) is int and 0 <= value < 2**63


def all_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The check of a list whose entries all pass `check`."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def each_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The check of an object whose values all pass `check`."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _frozen(value):
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value
