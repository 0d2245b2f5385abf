"""How a run ends that cannot go on: one line on stderr and an exit status.

2    unusable input or wrong usage
3    a fault of lora-ref itself, with its traceback: nothing was decided
130  interrupted
141  the reader of the output has gone, as a shell says it
"""

import os
import sys
import traceback
from collections.abc import Callable, Mapping

from ..checkpoint.errors import CheckpointError
from ..pages.printable import printable

UNUSABLE, FAULT, INTERRUPTED, NO_READER = 2, 3, 130, 141


class Usage(Exception):
    """Options that do not go together; the message is one line."""


def refuse_empty(paths: Mapping[str, str | None]) -> None:
    """Refuse a path of no characters, as an unset variable gives: it would mean this directory."""
    for option, path in paths.items():
        if path == "":
            raise Usage(f"{option} must be a path, got an empty one")


def guarded(command: Callable[[], int]) -> int:
    """The exit status of `command`, whatever happens in it."""
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at the end: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except (CheckpointError, Usage) as error:
        return _say(str(error), UNUSABLE)
    except MemoryError:
        return _say("not enough memory", UNUSABLE)
    except (OSError, UnicodeError) as error:
        return _say(_os_message(error), UNUSABLE)
    except Exception as error:
        sys.stderr.write(traceback.format_exc())
        return _say(f"internal fault, nothing was decided: {type(error).__name__}", FAULT)
    return status


def _os_message(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"lora-ref: {printable(message)}\n")
    return status
