"""A plan as lines of text, and as the JSON that docs/plan.md describes."""

from dataclasses import asdict

from ..pages import plain_json
from ..plan import Choice, Plan
from .plan_options import PlanOptions

SCHEMA = "lora-ref/plan"
SCHEMA_VERSION = 1
SCALE = {"rslora": "s = α/√r, the cost is LoRA's"}
Cell = int | str


def text_lines(done: Plan, options: PlanOptions, choice: Choice | None, source: str) -> list[str]:
    """The choice, if one was asked for, and its plan; `source` says where the dtype is from."""
    return [*_choice_lines(choice), *_lines(done, options, source)]


def as_json(done: Plan, options: PlanOptions, choice: Choice | None, source: str) -> bytes:
    """Everything as indented ASCII JSON."""
    fields = {
        **plain_json.heading(SCHEMA, SCHEMA_VERSION, options.version),
        "inputs": {
            "config": options.config,
            "model": options.model,
            "shape": list(options.shape),
        },
        "model": {"name": done.model.name, "parameters": done.model.parameters},
        "base": {"dtype": options.dtype, "from": source, "bits": options.bits},
        "adapter_dtype": options.adapter_dtype,
        "optimizer": options.optimizer,
        "step": {"sequences": options.batch, "tokens": options.tokens},
        "choice": None if choice is None else asdict(choice),
        "method": options.planned,
        "rank": options.rank,
        "first_rank": options.first_rank if options.planned == "adalora" else None,
        "adapted": [asdict(x) for x in done.adapted],
        "wide": [x.name for x in done.wide],
        "trained": done.trained,
        "saved": done.saved,
        "bytes": {**asdict(done.memory), "training": done.memory.training},
        "full_bytes": {**asdict(done.full), "training": done.full.training},
        "flops": asdict(done.flops),
        "optimizer_saving": done.optimizer_saving,
    }
    return plain_json.as_json(fields)


def _choice_lines(choice: Choice | None) -> list[str]:
    if choice is None:
        return []
    caveat = [f"but: {choice.caveat}"] if choice.caveat else []
    return [f"choice: {choice.method}", *(f"  {x}" for x in choice.reasons), *caveat, ""]


def _lines(done: Plan, options: PlanOptions, source: str) -> list[str]:
    model = done.model
    return [
        f"{model.name}: {model.parameters:,} parameters, base in {_base(options)} ({source})",
        _what(done, options),
        f"trainable: {done.trained:,} parameters, {done.trained / model.parameters:.4%} of all; "
        f"saved: {done.saved:,}",
        *_wide_lines(done),
        f"{options.optimizer}, adapter in {options.adapter_dtype}, "
        f"{options.batch} x {options.tokens} tokens a step",
        *(f"{a:<20}{_cell(b):>24}{_cell(c):>24}" for a, b, c in _rows(done, options)),
        f"weights and optimizer states: {_saving(done.optimizer_saving)} than full fine-tuning",
        "not counted: activations, workspaces, a float32 copy of trained 16-bit weights",
    ]


def _what(done: Plan, options: PlanOptions) -> str:
    """The method, its ranks, and what it adapts."""
    method = options.planned
    first = f" ({options.first_rank} at the start)" if method == "adalora" else ""
    note = f" ({SCALE[method]})" if method in SCALE else ""
    adapted = sum(x.count for x in done.adapted)
    weights = sum(x.count for x in done.model.linears)
    names = ", ".join(x.name for x in done.adapted)
    rank = f"{method} of rank {options.rank}{first}{note}"
    return f"{rank} on {adapted} of {weights} linear weights: {names}"


def _rows(done: Plan, options: PlanOptions) -> list[tuple[str, Cell, Cell]]:
    memory, full, flops = done.memory, done.full, done.flops
    return [
        ("bytes", options.planned, "full fine-tuning"),
        ("base", memory.base, full.base),
        ("trained", memory.trained, "the base"),
        ("gradients", memory.gradients, full.gradients),
        ("optimizer", memory.optimizer, full.optimizer),
        ("sum", memory.training, full.training),
        ("sum in GB", _gigabytes(memory.training), _gigabytes(full.training)),
        ("checkpoint", memory.checkpoint, full.checkpoint),
        ("FLOPs", options.planned, "full fine-tuning"),
        ("forward", flops.factored_forward, flops.merged_forward),
        ("backward", flops.factored_backward, flops.full_backward),
        ("forward, merged", flops.merged_forward, flops.merged_forward),
        ("forward, W' formed", flops.formed_forward, flops.merged_forward),
        ("backward, W' formed", flops.formed_backward, flops.full_backward),
    ]


def _wide_lines(done: Plan) -> list[str]:
    if not done.wide:
        return []
    sizes = ", ".join(f"{x.name} ({x.m}, {x.n})" for x in done.wide)
    return [f"more factors than an update can have ranks: {sizes}"]


def _base(options: PlanOptions) -> str:
    packed = "" if options.bits is None else f"{options.bits} bits and constants, rest "
    return f"{packed}{options.dtype}"


def _saving(share: float) -> str:
    return f"{abs(share):.2%} {'more' if share < 0 else 'less'}"


def _gigabytes(size: int) -> str:
    return f"{size / 10**9:,.3f}"


def _cell(value: Cell) -> str:
    return value if isinstance(value, str) else f"{value:,}"
