"""JSON objects out of files that nobody vouches for: every failure is one CheckpointError.

Errors:  CheckpointError for bytes that are not UTF-8, not JSON, nested too deep, not an object,
         with a key twice in one object, or with a key that is not Unicode text
Source:  RFC 8259; the strictness is that of serde_json as safetensors 0.8.0 uses it, except that
         a duplicate key, which the format's README forbids and the library lets pass, is refused
"""

import json
import os
from collections import Counter
from pathlib import Path

from .errors import CheckpointError, refusal, shown

MAX_HEADER = 100_000_000  # bytes of a header, by the format; of a JSON file beside it, by us


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file that is there and not absurdly large."""
    try:
        if not os.path.lexists(path):
            raise refusal(path, "does not exist")
        if not path.is_file():
            raise refusal(path, "must be a regular file")
        if path.stat().st_size > MAX_HEADER:
            raise refusal(path, f"must be at most {MAX_HEADER} bytes, got {path.stat().st_size}")
        return path.read_bytes()
    except OSError as error:
        raise refusal(path, f"cannot be read: {error.strerror}") from None


def parse_object(raw: bytes, path: object, what: str) -> dict[str, object]:
    """Return the JSON object in `raw`, which is `what` ("the header") of the file `path`."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except UnicodeDecodeError as error:
        at = f"byte 0x{raw[error.start]:02x} at position {error.start}"
        raise refusal(path, f"{what} must be UTF-8, got {at}") from None
    except RecursionError:
        raise refusal(path, f"{what} must be plain JSON, got one nested too deep") from None
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at position {error.pos}"
        raise refusal(path, f"{what} must be JSON, got text with an error: {problem}") from None
    except _KeyProblemError as error:
        raise refusal(path, f"{what} {error}") from None
    except ValueError:
        # Python refuses to convert integers of thousands of digits.
        raise refusal(path, f"{what} must be JSON, got a number with too many digits") from None
    if not isinstance(value, dict):
        raise refusal(path, f"{what} must be a JSON object, got {shown(value)}")
    return value


def is_text(text: str) -> bool:
    """Say whether `text` is Unicode: an escape such as \\ud800 alone makes a string that is not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _KeyProblemError(CheckpointError):
    """A key that is there twice or is no text; the message lacks only the name of the file."""


def _unique(pairs):
    fields = dict(pairs)
    if len(fields) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _KeyProblemError(f"must have every key once, got {shown(twice)} more than once")
    for key in fields:
        if not is_text(key):
            raise _KeyProblemError(f"must have keys that are Unicode text, got {shown(key)}")
    return fields


def _integer(digits):
    # "-0" is a float to serde_json, and so no size and no offset.
    return -0.0 if digits == "-0" else int(digits)
