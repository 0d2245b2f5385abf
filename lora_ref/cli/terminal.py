"""The report as text: coloured and fitted on a terminal, plain and whole anywhere else.

Nothing of a file is taken for markup, and what is not printable is shown by its escape. Piped
output has no colour, is never wrapped or shortened, and is the same in every run.
"""

import sys
from collections import Counter
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..pages.printable import printable
from ..verify import Report, Status, Verdict
from ..verify.summary import (
    STATUSES,
    Group,
    conclusion,
    figures,
    groups,
    headline,
    listed,
    overall,
    short,
    swallowed_text,
    touched,
)

STYLES = {
    Status.EXACT: "green",
    Status.ROUNDING: "cyan",
    Status.UNDECIDABLE: "yellow",
    Status.BUG: "bold red",
}
PIPED = 1 << 16  # columns where nobody folds
LEAST_NAME, KINDS, CASES = 16, 8, 6
NARROW = 112  # where names and recipes do not fit beside each other
NUMBERS = 50  # columns that the other cells of a row take, about


class _Console(Console):
    """Rich's console, but a closed pipe is an error like another and no exit with status 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console_for(stream: TextIO | None = None) -> Console:
    """A console on `stream` (default: stdout) that takes no text for markup."""
    stream = stream or sys.stdout
    wide = {} if stream.isatty() else {"width": PIPED, "color_system": None}
    return _Console(file=stream, highlight=False, emoji=False, markup=False, **wide)  # type: ignore[arg-type]


def elided(text: str, width: int) -> str:
    """`text` in at most `width` columns, without its middle but with its first number.

    >>> elided("encoder.layer.11.attention.self.query.weight", 30)
    'encoder.layer.11….query.weight'
    """
    if len(text) <= width:
        return text
    parts = text.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    head = ".".join(parts[: numbers[0] + 1]) if numbers else ""
    front = max((width - 1) // 2, len(head)) if len(head) < width - 8 else (width - 1) // 2
    return f"{text[:front]}…{text[len(text) - (width - 1 - front) :]}"


def print_lines(text: str, style: str = "") -> None:
    """Text as it is, folded by the terminal only."""
    console_for().print(Text(text, style), soft_wrap=True)


def print_report(report: Report, *, strict: bool, every: bool) -> None:
    """The table, what is said of it, and the conclusion."""
    console = console_for()
    shown = [v for v in report.verdicts if every or touched(v) or v.status == Status.BUG]
    if shown:
        _print_table(console, shown)
    if not every:
        for line in _left_alone(report):
            _print(console, line)
    _print(console, "")
    _print(console, ", ".join(f"{report.count(s)} {s}" for s in STATUSES if report.count(s)))
    for note in report.notes:
        _print(console, f"note: {note}")
    _print_groups(console, report)
    if text := swallowed_text(report):
        _print(console, text)
    status = overall(report)
    said = Text("Verdict: ")
    said.append(conclusion(report, strict), STYLES[status])
    console.print(said, soft_wrap=True)


def _print(console: Console, text: str) -> None:
    console.print(Text(printable(text)), soft_wrap=True)


def _print_table(console: Console, verdicts: list[Verdict]) -> None:
    narrow = console.is_terminal and console.width < NARROW
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("tensor", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for title in ("c", "ρ", "ulps", "rounded"):
        table.add_column(title, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("recipe or diagnosis", overflow="fold")
    room = max(LEAST_NAME, console.width - NUMBERS if narrow else (console.width - NUMBERS) // 2)
    for v in verdicts:
        name = Text(elided(printable(v.name), room))
        row = name, Text(v.status, STYLES[v.status]), *map(Text, figures(v.measure))
        table.add_row(*row, *([] if narrow else [Text(printable(short(v)))]))
    print_rows(console, table)
    for text, count in Counter(short(v) for v in verdicts if v.status != Status.BUG).items():
        if narrow:
            _print(console, f"{count:,} {'tensor' if count == 1 else 'tensors'}: {text}")


def print_rows(console: Console, table: Table) -> None:
    """A table, fitted on a terminal, and without spaces at the ends of lines anywhere else."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        console.print(Text(line.rstrip()), soft_wrap=True)


def _left_alone(report: Report) -> list[str]:
    """What became of the tensors that the adapter does not touch, bugs apart."""
    rest = [v for v in report.verdicts if not touched(v) and v.status != Status.BUG]
    kinds = Counter(v.text if v.status == Status.EXACT else f"{v.status}, {v.text}" for v in rest)
    lines = []
    for text, count in kinds.most_common(KINDS):
        what = "tensor" if count == 1 else "tensors"
        leaves = f"{count:,} {what} that the adapter leaves alone"
        lines.append(f"{leaves}: {text}")
    if len(kinds) > KINDS:
        lines.append(f"{len(kinds) - KINDS} more kinds: see --all")
    return lines


def _print_groups(console: Console, report: Report) -> None:
    for group in groups(report):
        console.print(Text(printable(headline(report, group)), STYLES[Status.BUG]), soft_wrap=True)
        for line in _group_lines(group):
            text = Text(printable(line))
            if console.is_terminal:
                console.print(Padding(text, (0, 0, 0, 2)))
            else:
                console.print(Text("  ").append_text(text), soft_wrap=True)


def _group_lines(group: Group) -> list[str]:
    lines = []
    for case in group.cases[:CASES]:
        others = len(case.how) - 1
        more = f" and {others} more {'way' if others == 1 else 'ways'}" if others else ""
        also = f"; the same data also fit: {', '.join(case.also)}" if case.also else ""
        lines += [listed(case.names), f"  {case.formula} [{case.how[0]}{more}]{also}"]
    if len(group.cases) > CASES:
        lines.append(f"and {len(group.cases) - CASES} more formulas: see --json or --html")
    return lines
