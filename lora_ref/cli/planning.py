"""The options of `lora-ref plan`."""

from typing import Annotated

import typer

from .failures import guarded

_METHOD = "lora (the default), rslora, dora, double-lora, adalora, hyperlora or qlora."
_SHAPE = typer.Option(help="A weight, NAME:OUTxIN or NAME:OUTxINxCOUNT.")
_INIT_RANK = typer.Option(help="AdaLoRA's first rank; default: 1.5 times the rank.")
_CONDITION = typer.Option(help="Size of HyperLoRA's condition; default 64.")
_TARGETS = typer.Option(help="Names with commas, or all-linear; default: PEFT's.")
_OPTIMIZER = typer.Option(help="sgd, momentum, adam, adamw, adam8bit or adamw8bit.")
_DTYPE = typer.Option(help="Dtype of the base; default: config.json's, or bfloat16.")
_BITS = typer.Option(min=1, max=16, help="Bits of a quantized base; qlora: 4.")
_EXTREME = typer.Option("--memory-extreme", help="Even the 16-bit base does not fit.")
_MEMORY = typer.Option(min=0, help="GB that are there: is memory extremely short?")
_COMPUTE = typer.Option("--much-compute", help="Compute is plentiful.")
_EXPRESSIVE = typer.Option("--expressive", help="LoRA is not enough.")
_JSON = typer.Option(help="Write all figures as JSON; - is stdout.")


def add_plan(app: typer.Typer) -> None:
    """Register the command."""
    app.command("plan")(_planned)


def _planned(
    config: Annotated[str | None, typer.Option(help="config.json, or its directory.")] = None,
    model: Annotated[str | None, typer.Option(help="A model known by name: gpt3-175b.")] = None,
    shape: Annotated[list[str] | None, _SHAPE] = None,
    method: Annotated[str | None, typer.Option(help=_METHOD)] = None,
    rank: Annotated[int, typer.Option(help="Rank of each weight.")] = 8,
    init_rank: Annotated[int | None, _INIT_RANK] = None,
    condition: Annotated[int | None, _CONDITION] = None,
    targets: Annotated[str | None, _TARGETS] = None,
    optimizer: Annotated[str, _OPTIMIZER] = "adamw",
    dtype: Annotated[str | None, _DTYPE] = None,
    adapter_dtype: Annotated[str, typer.Option(help="Dtype of what is trained.")] = "float32",
    base_bits: Annotated[int | None, _BITS] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    batch: Annotated[int, typer.Option(help="Sequences of a step.")] = 1,
    choose: Annotated[bool, typer.Option("--choose", help="Follow the flowchart.")] = False,
    memory_extreme: Annotated[bool, _EXTREME] = False,
    multi_task: Annotated[bool, typer.Option("--multi-task", help="Several tasks.")] = False,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Adapts after training.")] = False,
    much_compute: Annotated[bool, _COMPUTE] = False,
    expressive: Annotated[bool, _EXPRESSIVE] = False,
    memory_gb: Annotated[float | None, _MEMORY] = None,
    json: Annotated[str | None, _JSON] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a report.")] = False,
) -> int:
    """What an adapter trains, stores and computes on a model, and which variant to choose.

    Exit status: 0, or 2 for unusable input. --choose takes the method that the flowchart answers
    to --memory-extreme (or --memory-gb), --multi-task, --dynamic, --much-compute and --expressive.
    """
    from ..plan import Needs
    from .app import installed_version
    from .plan_command import PlanOptions, plan_command

    needs = Needs(memory_extreme, multi_task, dynamic, much_compute, expressive)
    options = PlanOptions(
        config, model, tuple(shape or ()), method, rank, init_rank, condition, targets, optimizer,
        dtype, adapter_dtype, base_bits, tokens, batch, choose, needs, memory_gb, json, force,
        installed_version(),
    )  # fmt: skip
    return guarded(lambda: plan_command(options))
