"""The commands and their options, and how a command line becomes an exit status."""

import importlib.metadata
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from .failures import Usage, guarded
from .making import add_commands
from .planning import add_plan

app = typer.Typer(
    name="lora-ref",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The executable definition of low-rank adaptation: is it rounding or a bug, and which?",
)

BASE = "Model before the merge: a directory as Hugging Face has it, or one .safetensors file."
ADAPTER = "LoRA adapter: a directory in PEFT's layout."
MERGED = "Model after the merge: a directory or one .safetensors file."


def installed_version() -> str:
    """The version of the installed distribution."""
    try:
        return importlib.metadata.version("lora-ref")
    except importlib.metadata.PackageNotFoundError:
        return "of a source tree that is not installed"


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"lora-ref {installed_version()}")
        raise typer.Exit(0)


@app.command("verify")
def _verify(
    base: Annotated[str | None, typer.Option(help=BASE)] = None,
    adapter: Annotated[str | None, typer.Option(help=ADAPTER)] = None,
    merged: Annotated[str | None, typer.Option(help=MERGED)] = None,
    json: Annotated[str | None, typer.Option(help="Write the report as JSON; - is stdout.")] = None,
    html: Annotated[str | None, typer.Option(help="Write the report as one HTML page.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a tensor is undecidable.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite reports that exist.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
) -> int:
    """Is MERGED the merge of ADAPTER into BASE? A verdict for every tensor.

    Exit status: 0 exact, rounding or undecidable, 1 a bug, 2 unusable input. Without options it
    runs on the example in the package, a right merge and one with five planted bugs; then 0 says
    that the verdicts are those that the example was made for, and --json and --html are of the
    second.
    """
    from .verify_command import Options, verify_command

    given = Options(base, adapter, merged, json, html, strict, force, every, installed_version())
    # Inside of typer, which would turn an interrupt or a closed pipe into a status of its own.
    return guarded(lambda: verify_command(given))


@app.command("merge")
def _merge(
    base: Annotated[str, typer.Option(help=BASE)],
    adapter: Annotated[str, typer.Option(help=ADAPTER)],
    out: Annotated[str, typer.Option(help="The merged model, laid out as BASE is.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="float64, float32, float16 or bfloat16; default: as in BASE."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is a model.")] = False,
) -> int:
    """Write the correctly rounded merge: each element of W + s·BA rounded once from float64."""
    from .merge_command import merge_command

    return guarded(lambda: merge_command(base, adapter, out, dtype, force))


@app.command("rank")
def _rank(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help=ADAPTER)],
    to: Annotated[int | None, typer.Option(help="Show what this rank keeps.")] = None,
    out: Annotated[str | None, typer.Option(help="Write the adapter at the rank of --to.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw each spectrum beside it.")] = False,
    picture: Annotated[
        str | None, typer.Option(help="Draw the spectra as a .png, .svg or .pdf.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(help="Write all figures as JSON; - is stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
) -> int:
    """Which ranks the updates of ADAPTER have, and the adapter at a lower one.

    A row for each update: numerical rank, effective rank (entropy), stable rank, and the ranks
    that keep 90 and 99 percent of it; below, which rank would have been enough. Exit status: 0, or
    2 for unusable input.
    """
    from .rank_command import Options, rank_command

    given = Options(adapter, to, out, json, picture, plot, force, installed_version())
    return guarded(lambda: rank_command(given))


add_commands(app)
add_plan(app)


def run(arguments: list[str] | None) -> int:
    """The exit status of a command line."""
    # A stream that was closed before the start is None: what it would have said goes nowhere.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that has no ρ shows \\u03c1: no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        # Overflow and NaN in somebody's checkpoint are what the verdicts speak of.
        warnings.simplefilter("ignore", RuntimeWarning)
        return guarded(lambda: _invoked(arguments))


def _invoked(arguments: list[str] | None) -> int:
    try:
        status = app(arguments, prog_name="lora-ref", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # typer has its own copy of click or not, by its version: known by what they can do.
        described: Any = getattr(error, "format_message", None)
        if described is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(described())
            return 2
        first = " ".join(described().split())
        raise Usage(f"{first.rstrip('.')}; see lora-ref --help") from None
    return int(status or 0)
