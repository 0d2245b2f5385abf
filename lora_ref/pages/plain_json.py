"""A report as JSON: indented ASCII, which has no NaN and no infinity.

They are the strings "NaN", "Infinity" and "-Infinity" here.
"""

import json
import math
import platform
from typing import Any


def heading(schema: str, schema_version: int, version: str, **libraries: str) -> dict[str, Any]:
    """What every report begins with: its schema, and the versions of what made it."""
    return {
        "schema": schema,
        "schema_version": schema_version,
        "versions": {"lora_ref": version, **libraries, "python": platform.python_version()},
    }


def as_json(fields: dict[str, Any]) -> bytes:
    """The fields as indented ASCII JSON with a final newline."""
    text = json.dumps(plain(fields), indent=2, allow_nan=False)
    return f"{text}\n".encode("ascii")


def plain(value: Any) -> Any:
    """`value` of Python's own types, with the strings of the module for what is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "item"):  # a scalar of NumPy, which reports without numbers never import
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
