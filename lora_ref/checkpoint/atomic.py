"""New files and directories that bear their name only once they are whole.

Everything is written under a hidden temporary name beside the target and renamed at the end; on
any exception, an interrupt included, the temporary is removed and the target is as it was.

Errors:  CheckpointError if the target exists and may not be replaced, or cannot be written
Limits:  a process that is killed outright leaves its `.lora_ref-*.partial` behind
Source:  rename(2), link(2): both atomic; link, unlike rename, refuses an existing target
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import refusal

_EXISTS = "exists already and is not overwritten unless asked (--force; in Python overwrite=True)"


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Yield a binary file to write; it becomes `path` when the block ends without an exception."""
    refuse_target(path, overwrite=overwrite)
    partial = _partial(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _publish_file(partial, path, overwrite)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def refuse_target(path: Path, *, overwrite: bool) -> None:
    """Raise the refusal of a file that `new_file` would not make."""
    if path.is_dir():
        raise refusal(path, "is a directory, not a file")
    # A rename over /dev/null would take the device away from the whole machine.
    if path.exists() and not path.is_file():
        raise refusal(path, "is a device, pipe or socket and is never replaced")
    if os.path.lexists(path) and not overwrite:
        raise refusal(path, _EXISTS)


@contextmanager
def new_directory(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty directory to fill; it becomes `path` when the block ends without exception.

    With `overwrite` an existing directory gives way whole: no file of it stays among the new ones.
    """
    if os.path.lexists(path) and not overwrite and not _is_empty_directory(path):
        raise refusal(path, _EXISTS)
    partial = _partial(path)
    try:
        partial.mkdir()
        yield partial
        if overwrite and os.path.lexists(path):
            _replace_directory(partial, path)
        else:
            # Fails if `path` has been filled meanwhile: rename replaces an empty directory only.
            os.rename(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish_file(partial, path, overwrite):
    if overwrite:
        os.replace(partial, path)
        return
    try:
        os.link(partial, path)
    except FileExistsError:
        raise refusal(path, _EXISTS) from None
    except OSError:
        # A file system without hard links: the check and the rename are two steps there.
        if os.path.lexists(path):
            raise refusal(path, _EXISTS) from None
        os.rename(partial, path)


def _replace_directory(partial, path):
    retired = _partial(path)
    try:
        os.rename(path, retired)
        os.rename(partial, path)
    finally:
        # Whatever went wrong, an interrupt included, one of the two is there in the end.
        if os.path.lexists(path):
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(retired, path)


def _is_empty_directory(path):
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _partial(path):
    return path.parent / f".lora_ref-{secrets.token_hex(8)}.partial"


def _unwritable(path, error):
    return refusal(path, f"cannot be written: {error.strerror or error}")
