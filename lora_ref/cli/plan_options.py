"""What `lora-ref plan` was asked for, and what of it does not go together."""

from dataclasses import dataclass

from ..checkpoint.errors import shown
from ..plan import DTYPES, OPTIMIZERS, Needs
from .failures import Usage

MOST_GB = 1e12
METHODS = ("lora", "rslora", "dora", "double-lora", "adalora", "hyperlora", "qlora")


@dataclass(frozen=True)
class PlanOptions:
    """What was asked for."""

    config: str | None
    model: str | None
    shape: tuple[str, ...]
    method: str
    rank: int
    init_rank: int | None
    condition: int | None
    targets: str | None
    optimizer: str
    dtype: str
    adapter_dtype: str
    base_bits: int | None
    tokens: int
    batch: int
    choose: bool
    needs: Needs
    memory_gb: float | None
    json: bool

    @property
    def bits(self) -> int | None:
        """Bits of a quantized base: QLoRA's are 4 unless said otherwise."""
        if self.base_bits is None and self.method == "qlora":
            return 4
        return self.base_bits


def refuse(options: PlanOptions) -> None:
    """Refuse names that are unknown, and answers to what is not asked."""
    known = (
        ("--method", options.method, METHODS),
        ("--optimizer", options.optimizer, OPTIMIZERS),
        ("--dtype", options.dtype, DTYPES),
        ("--adapter-dtype", options.adapter_dtype, DTYPES),
    )
    for option, value, names in known:
        if value not in names:
            raise Usage(f"{option} must be one of {', '.join(names)}, got {shown(value)}")
    if options.memory_gb is not None and not options.choose:
        raise Usage("--memory-gb answers a question of --choose; without it nothing is chosen")
    if options.memory_gb is not None and not 0 <= options.memory_gb <= MOST_GB:
        raise Usage(f"--memory-gb must be from 0 to {MOST_GB:g}, got {options.memory_gb}")
    if options.choose and options.method != METHODS[0]:
        raise Usage(f"--choose chooses the method: it goes without --method {options.method}")
    if options.needs != Needs() and not options.choose:
        raise Usage("answers to the flowchart's questions go with --choose")


def refuse_unused(options: PlanOptions) -> None:
    """Refuse what only another method than the one to plan would look at."""
    for option, given, method in (
        ("--init-rank", options.init_rank is not None, "adalora"),
        ("--condition", options.condition is not None, "hyperlora"),
    ):
        if given and options.method != method:
            raise Usage(f"{option} goes with the method {method}, got {options.method}")
