"""What `lora-ref plan` was asked for, and what of it does not go together."""

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.errors import shown
from ..plan import DTYPES, OPTIMIZERS, Needs
from .failures import Usage, refuse_empty
from .outputs import STDOUT, refuse_file

MOST_GB = 1e12
METHODS = ("lora", "rslora", "dora", "double-lora", "adalora", "hyperlora", "qlora")
# What the arguments that `lora_ref.plan` refuses are called on the command line.
OPTION_OF = {
    "condition": "--condition",
    "rank": "--rank",
    "sequences": "--batch",
    "start": "--init-rank",
    "targets": "--targets",
    "tokens": "--tokens",
}


@dataclass(frozen=True)
class PlanOptions:
    """What was asked for."""

    config: str | None
    model: str | None
    shape: tuple[str, ...]
    method: str | None
    rank: int
    init_rank: int | None
    condition: int | None
    targets: str | None
    optimizer: str
    dtype: str | None
    adapter_dtype: str
    base_bits: int | None
    tokens: int
    batch: int
    choose: bool
    needs: Needs
    memory_gb: float | None
    json: str | None
    force: bool
    version: str

    @property
    def planned(self) -> str:
        """The method to plan: LoRA unless said or chosen otherwise."""
        return METHODS[0] if self.method is None else self.method

    @property
    def bits(self) -> int | None:
        """Bits of a quantized base: QLoRA's are 4 unless said otherwise."""
        if self.base_bits is None and self.planned == "qlora":
            return 4
        return self.base_bits

    @property
    def first_rank(self) -> int:
        """AdaLoRA's: half as much again, 12 for 8 as PEFT's defaults and the paper have it."""
        return -(-3 * self.rank // 2) if self.init_rank is None else self.init_rank


def refuse(options: PlanOptions) -> None:
    """Refuse names that are unknown, answers to what is not asked, and a report with no place."""
    known = (
        ("--method", options.method, METHODS),
        ("--optimizer", options.optimizer, OPTIMIZERS),
        ("--dtype", options.dtype, DTYPES),
        ("--adapter-dtype", options.adapter_dtype, DTYPES),
    )
    for option, value, names in known:
        if value is not None and value not in names:
            raise Usage(f"{option} must be one of {', '.join(names)}, got {shown(value)}")
    refuse_empty({"--config": options.config, "--json": options.json})
    _refuse_choice(options)
    if options.json is not None and options.json != STDOUT:
        sources = [] if options.config is None else [options.config]
        refuse_file(Path(options.json), sources, options.force)


def _refuse_choice(options: PlanOptions) -> None:
    if options.memory_gb is not None and not options.choose:
        raise Usage("--memory-gb answers a question of --choose; without it nothing is chosen")
    if options.memory_gb is not None and not 0 <= options.memory_gb <= MOST_GB:
        raise Usage(f"--memory-gb must be from 0 to {MOST_GB:g}, got {options.memory_gb}")
    if options.memory_gb is not None and options.needs.memory_extreme:
        raise Usage("--memory-extreme and --memory-gb answer one question: give one of them")
    if options.choose and options.method is not None:
        raise Usage(f"--choose chooses the method: it goes without --method {options.method}")
    if options.needs != Needs() and not options.choose:
        raise Usage("answers to the flowchart's questions go with --choose")


def refuse_unused(options: PlanOptions) -> None:
    """Refuse what only another method than the one to plan would look at."""
    for option, given, method in (
        ("--init-rank", options.init_rank is not None, "adalora"),
        ("--condition", options.condition is not None, "hyperlora"),
    ):
        if given and options.planned != method:
            raise Usage(f"{option} goes with the method {method}, got {options.planned}")


def usage_of(error: ValueError) -> Usage:
    """What `lora_ref.plan` refused, by the name of the option.

    >>> str(usage_of(ValueError("Adaptive: start must be at least the rank 8, got 4")))
    '--init-rank must be at least the rank 8, got 4'
    """
    argument, _, rest = str(error).partition(": ")[2].partition(" ")
    return Usage(f"{OPTION_OF[argument]} {rest}" if argument in OPTION_OF else str(error))
