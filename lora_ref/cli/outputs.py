"""Where a command writes: refused before the work, and said after it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from ..checkpoint.atomic import new_file, refuse_target
from ..checkpoint.errors import refusal
from ..checkpoint.peft import refuse_foreign
from ..checkpoint.write import is_part
from ..pages.printable import printable
from .failures import Usage
from .terminal import console_for

STDOUT = "-"


def refuse_outputs(out: str, json: str | None, sources: Sequence[str], force: bool) -> None:
    """Refuse a directory and a report that could not, or should not, be written at the end."""
    refuse_directory(Path(out), sources, force)
    if json is None or json == STDOUT:
        return
    if os.path.realpath(json) == os.path.realpath(out):
        raise Usage("--out and --json must be different paths")
    refuse_file(Path(json), sources, force)


def refuse_file(path: Path, sources: Sequence[str], force: bool) -> None:
    """Refuse a report or picture that could not, or should not, be written.

    `force` replaces any file but those of models and adapters, whatever they are: a name that ends
    as weights do was meant for another option.
    """
    if not path.parent.is_dir():
        raise refusal(path, "cannot be written: its directory does not exist")
    refuse_target(path, overwrite=force)
    if not os.path.lexists(path):
        return
    target = Path(os.path.realpath(path))
    for source in sources:
        if Path(os.path.realpath(source)) in (target, target.parent):
            raise refusal(path, f"is part of the input {source} and is never overwritten")
    if is_part(target.name) or is_part(path.name):
        raise refusal(path, "is part of a model or an adapter and is never overwritten by a report")


def write_report(data: bytes, json: str, force: bool) -> None:
    """Write the report to a file, or to stdout."""
    if json == STDOUT:
        sys.stdout.write(data.decode("ascii"))
        return
    with new_file(Path(json), overwrite=force) as file:
        file.write(data)
    say_written(json)


def say_written(path: str | Path) -> None:
    """Say on stderr that `path` is there."""
    message = Text(f"written: {printable(str(path))}")
    console_for(sys.stderr).print(message, soft_wrap=True)


def refuse_directory(out: Path, sources: Sequence[str], force: bool) -> None:
    """Refuse a directory that could not, or should not, be written."""
    target = Path(os.path.realpath(out))
    for source in sources:
        inside = Path(os.path.realpath(source))
        if target == inside or target in inside.parents:
            raise refusal(out, f"must not be or hold an input, {source}")
        if inside in target.parents:
            raise refusal(out, f"must not lie in an input, {source}")
    if not target.parent.is_dir():
        raise refusal(out, "cannot be written: its directory does not exist")
    if not os.path.lexists(out):
        return
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if not force and not empty:
        raise refusal(out, "exists already and is not overwritten unless asked (--force)")
    if force:
        refuse_foreign(out)
