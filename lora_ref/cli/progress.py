"""A progress bar on stderr if that is a terminal; gone when the work is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..pages.printable import printable
from .terminal import elided


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Yield what is to be called with the name of each tensor that is done."""
    console = Console(stderr=True, highlight=False, emoji=False)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown as bar:
        task = bar.add_task("", total=total)

        def advance(name: str) -> None:
            bar.update(task, advance=1, description=elided(printable(name), 40))

        yield advance
