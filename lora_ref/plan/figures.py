"""A plan: what a method on a model trains, stores and computes, beside full fine-tuning.

Math:
    share of the optimizer's memory that an adapter saves, of weights and states:
    1 − (base + trained + optimizer) / (base + optimizer of everything) -> k / (k + 1) for k
    states a number, as r becomes small beside m and n: two thirds for Adam's two

    wide: the adapted weights with r > min(m, n), where an update has no such rank
Errors:
    ValueError for targets that match nothing, dtypes that are not in DTYPES, optimizers that are
    not in OPTIMIZERS.
Source:
    Hu et al. 2021, arXiv:2106.09685, section 4.2: "up to 2/3 if r ≪ d_model".
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .flops import Flops, count_flops
from .memory import DEFAULT_DTYPE, DTYPES, OPTIMIZERS, Memory, Quantized, base_bytes
from .method import Method, Tensors, numbers
from .model import Linear, Model


@dataclass(frozen=True)
class Plan:
    """The figures of one method on one model."""

    model: Model
    adapted: tuple[Linear, ...]
    trained: int
    saved: int
    wide: tuple[Linear, ...]
    memory: Memory
    full: Memory
    flops: Flops

    @property
    def optimizer_saving(self) -> float:
        """The share of weights and optimizer states that full fine-tuning needs and this not."""
        mine = self.memory.base + self.memory.trained + self.memory.optimizer
        return 1 - mine / (self.full.base + self.full.optimizer)


def plan(
    model: Model,
    method: Method,
    *,
    targets: Iterable[str] = (),
    dtype: str | None = None,
    adapter_dtype: str = "float32",
    optimizer: str = "adamw",
    quantized: Quantized | None = None,
    sequences: int = 1,
    tokens: int = 512,
) -> Plan:
    """The plan for `method` on the targets, by default those that PEFT takes.

    The base is of `dtype`, by default that of the model's config, and bfloat16 without one.
    """
    width = _width("dtype", dtype or model.dtype or DEFAULT_DTYPE)
    adapter_width = _width("adapter_dtype", adapter_dtype)
    if optimizer not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ValueError(f"plan: optimizer must be one of {known}, got {optimizer!r}")
    adapted = model.targeted(tuple(targets) or model.targets)
    states = OPTIMIZERS[optimizer]
    tensors = method.trained(adapted)
    everything = [Tensors(x.name, (x.m, x.n), x.count) for x in model.linears if not x.tied]
    everything.append(Tensors("others", (model.others,), 1))
    full = Memory(
        base=width * model.parameters,
        trained=0,
        gradients=width * model.parameters,
        optimizer=states.bytes(everything, width),
        checkpoint=width * model.parameters,
    )
    memory = Memory(
        base=base_bytes(model, width, quantized),
        trained=adapter_width * numbers(tensors),
        gradients=adapter_width * numbers(tensors),
        optimizer=states.bytes(tensors, adapter_width),
        checkpoint=adapter_width * method.saved(adapted),
    )
    return Plan(
        model=model,
        adapted=adapted,
        trained=numbers(tensors),
        saved=method.saved(adapted),
        wide=tuple(x for x in adapted if method.inner > min(x.m, x.n)),
        memory=memory,
        full=full,
        flops=count_flops(model, adapted, method, sequences, tokens),
    )


def _width(name: str, dtype: str) -> int:
    if dtype not in DTYPES:
        raise ValueError(f"plan: {name} must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype]
