"""The one exception of unusable input, and how a hostile value is shown on one line."""

import os
import reprlib

# Bounded in depth and in length before the text is made: a value may be 100 MB of nested lists.
_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxlist, _brief.maxtuple, _brief.maxdict = 3, 8, 8, 4
_brief.maxstring = _brief.maxother = 200


class CheckpointError(ValueError):
    """A file or directory that cannot be used; the message is one line that says which and why."""


def shown(value: object, limit: int = 80) -> str:
    """Return `value` for a message: one printable line of at most `limit` characters.

    >>> shown("a\\nb")
    "'a\\\\nb'"
    >>> shown("w" * 100, limit=12)
    "'wwww...www'"
    """
    text = _brief.repr(value)
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[: limit - 3 - half]}...{text[-half:]}"


def refusal(path: object, reason: str) -> CheckpointError:
    """Return the error that refuses `path`: its name, a colon, the reason, on one line.

    >>> print(refusal("model.safetensors", "is empty"))
    model.safetensors: is empty
    """
    name = os.fsdecode(path) if isinstance(path, os.PathLike) else str(path)
    return CheckpointError(f"{name if name.isprintable() else repr(name)}: {reason}")
