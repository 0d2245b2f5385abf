"""The options of the commands that make an adapter of other files: extract and combine."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .failures import Usage, guarded

_DTYPE = "float64, float32, float16 or bfloat16 for the factors"
_FORCE = typer.Option("--force", help="Overwrite what exists.")
_JSON = typer.Option(help="Write all figures as JSON; - is stdout.")
_OUT = typer.Option(help="The new adapter, a directory in PEFT's layout.")


class _Weights(TyperCommand):
    """A command whose --weights take all the numbers that follow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Numbers behind --weights as its one value, with commas."""
        joined: list[str] = []
        for word in args:
            if len(joined) > 1 and joined[-2] == "--weights" and _is_number(word):
                joined[-1] += f",{word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


def add_commands(app: typer.Typer) -> None:
    """Register both commands."""
    app.command("extract")(_extract)
    app.command("combine", cls=_Weights)(_combine)


def _extract(
    base: Annotated[str, typer.Option(help="Model that TUNED was tuned from.")],
    tuned: Annotated[str, typer.Option(help="Model of the same tensors, after tuning.")],
    out: Annotated[str, _OUT],
    rank: Annotated[int | None, typer.Option(help="Rank of every module.")] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="Least rank of each module that keeps this share of ‖ΔW‖²; --rank at the most."
        ),
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="Names with commas; default: what changed.")
    ] = None,
    linear: Annotated[
        str | None, typer.Option(help="Linear layers that are called as embeddings are.")
    ] = None,
    modules_to_save: Annotated[
        str | None, typer.Option(help="Modules to store whole, names with commas.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="α; default: a scale of 1.")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"{_DTYPE}; default: float32.")] = None,
    fan_in_fan_out: Annotated[
        bool, typer.Option("--fan-in-fan-out", help="Weights are stored inputs first.")
    ] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Do without what factors cannot hold.")
    ] = False,
    json: Annotated[str | None, _JSON] = None,
    force: Annotated[bool, _FORCE] = False,
) -> int:
    """The nearest adapter of a rank to the difference of two models.

    A row for each linear weight that changed: rank, share of ‖ΔW‖² kept, error as stored.
    Norms, biases and embeddings that changed are refused unless --modules-to-save,
    --leave-out or, of embeddings, --targets says what is to become of them. Exit status: 0, or 2
    for unusable input.
    """
    from .app import installed_version
    from .extract_command import Options, extract_command

    given = Options(
        base, tuned, out, rank, energy, targets, linear, modules_to_save, alpha, dtype,
        fan_in_fan_out, leave_out, json, force, installed_version(),
    )  # fmt: skip
    return guarded(lambda: extract_command(given))


def _combine(
    adapters: Annotated[list[str], typer.Argument(metavar="ADAPTER")],
    weights: Annotated[str, typer.Option(help="A number for each adapter: 0.7 0.3 or 0.7,0.3")],
    out: Annotated[str, _OUT],
    method: Annotated[
        str,
        typer.Option(help="PEFT's combination_type: cat (exact), svd, linear, ties_svd, …"),
    ] = "cat",
    rank: Annotated[
        int | None, typer.Option(help="Rank of svd and *_svd; default: the largest.")
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="Share of entries to keep: ties, dare, magnitude_prune."),
    ] = None,
    majority_sign: Annotated[
        str | None, typer.Option(help="Who elects the signs of ties: total or frequency.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of dare's random entries; default: 0.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"{_DTYPE}; default: as in the adapters.")
    ] = None,
    json: Annotated[str | None, _JSON] = None,
    force: Annotated[bool, _FORCE] = False,
) -> int:
    """Several adapters as one, as PEFT's add_weighted_adapter combines them.

    A row for each module: its ranks, what truncation keeps, the error as stored, and how far
    the result is off the weighted sum. Exit status: 0, or 2 for unusable input.
    """
    from .app import installed_version
    from .combine_command import Options, combine_command

    def command() -> int:
        given = Options(
            tuple(adapters), _numbers(weights), method, out, rank, density, majority_sign,
            seed, dtype, json, force, installed_version(),
        )  # fmt: skip
        return combine_command(given)

    return guarded(command)


def _numbers(text: str) -> tuple[float, ...]:
    words = [word for word in text.split(",") if word.strip()]
    if not words or not all(map(_is_number, words)):
        raise Usage(f"--weights must be numbers, got {text!r}")
    return tuple(map(float, words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
