"""`lora-ref plan`: what an adapter on a model trains, stores and computes, and which to choose."""

from dataclasses import asdict, replace

from ..checkpoint.errors import shown
from ..pages.plain_json import as_json
from ..pages.printable import printable
from ..plan import (
    Adaptive,
    Choice,
    DoubleLowRank,
    Generated,
    Linear,
    LowRank,
    Method,
    Model,
    Plan,
    Quantized,
    WeightDecomposed,
    choose,
    gpt3,
    memory_answer,
    plan,
    read_model,
)
from .failures import Usage
from .plan_options import PlanOptions as PlanOptions
from .plan_options import refuse, refuse_unused
from .terminal import print_lines

CONDITION = 64  # the size of a condition unless it is said
MODELS = {"gpt3-175b": gpt3}
SCALE = {"rslora": "s = α/√r, the cost is LoRA's"}


def plan_command(options: PlanOptions) -> int:
    """Print the plan, or the choice and its plan; the exit status."""
    refuse(options)
    model = _model(options)
    choice = _choice(model, options) if options.choose else None
    if choice is not None:
        options = replace(options, method=choice.method)
    refuse_unused(options)
    done = _plan(model, options)
    if options.json:
        print_lines(as_json(_fields(done, options, choice)).decode().rstrip("\n"))
        return 0
    for line in (*_choice_lines(choice), *_lines(done, options)):
        print_lines(printable(line))
    return 0


def _model(options: PlanOptions) -> Model:
    given = [options.config is not None, options.model is not None, bool(options.shape)]
    if sum(given) != 1:
        raise Usage("plan needs one of --config, --model and --shape")
    if options.config is not None:
        if not options.config:
            raise Usage("--config must be a path, got an empty one")
        return read_model(options.config)
    if options.model is not None:
        if options.model not in MODELS:
            raise Usage(f"--model must be one of {', '.join(MODELS)}, got {shown(options.model)}")
        return MODELS[options.model]()
    linears = tuple(_linear(text) for text in options.shape)
    names = [x.name for x in linears]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Usage(f"--shape must name every weight once, got {shown(twice)} twice")
    return Model("shapes", linears, targets=tuple(x.name for x in linears))


def _linear(text: str) -> Linear:
    """A weight from NAME:MxN or NAME:MxNxCOUNT."""
    name, _, sizes = text.rpartition(":")
    numbers = sizes.split("x")
    plain = all(part.isascii() and part.isdecimal() and len(part) < 13 for part in numbers)
    if not name or len(numbers) not in (2, 3) or not plain or 0 in map(int, numbers):
        raise Usage(f"--shape must be NAME:OUTxIN or NAME:OUTxINxCOUNT, got {shown(text)}")
    m, n, count = (*map(int, numbers), 1)[:3]
    return Linear(name, m, n, count)


def _method(options: PlanOptions) -> Method:
    rank = options.rank
    if options.method == "dora":
        return WeightDecomposed(rank)
    if options.method == "double-lora":
        return DoubleLowRank(rank)
    if options.method == "adalora":
        # One and a half times: 12 for 8, as PEFT's defaults and the paper's experiments.
        first = -(-3 * rank // 2) if options.init_rank is None else options.init_rank
        return Adaptive(rank, first)
    if options.method == "hyperlora":
        size = CONDITION if options.condition is None else options.condition
        return Generated(rank, size, size)
    return LowRank(rank)


def _plan(model: Model, options: PlanOptions) -> Plan:
    targets = () if options.targets is None else tuple(options.targets.split(","))
    try:
        return plan(
            model,
            _method(options),
            targets=targets,
            dtype=options.dtype,
            adapter_dtype=options.adapter_dtype,
            optimizer=options.optimizer,
            quantized=None if options.bits is None else Quantized(options.bits),
            sequences=options.batch,
            tokens=options.tokens,
        )
    except ValueError as error:
        raise Usage(str(error)) from None


def _choice(model: Model, options: PlanOptions) -> Choice:
    if options.memory_gb is None:
        return choose(options.needs)
    half = replace(options, method="lora", dtype="bfloat16", base_bits=None)
    states = _plan(model, half).memory.training
    extreme, why = memory_answer(states, int(options.memory_gb * 10**9))
    needs = replace(options.needs, memory_extreme=extreme or options.needs.memory_extreme)
    choice = choose(needs)
    return replace(choice, reasons=(why, *choice.reasons))


def _choice_lines(choice: Choice | None) -> list[str]:
    if choice is None:
        return []
    caveat = [f"but: {choice.caveat}"] if choice.caveat else []
    return [f"choice: {choice.method}", *(f"  {x}" for x in choice.reasons), *caveat, ""]


def _lines(done: Plan, options: PlanOptions) -> list[str]:
    model = done.model
    adapted = sum(x.count for x in done.adapted)
    weights = sum(x.count for x in model.linears)
    names = ", ".join(x.name for x in done.adapted)
    rank = f"{options.method} of rank {options.rank}"
    note = f" ({SCALE[options.method]})" if options.method in SCALE else ""
    return [
        f"{model.name}: {model.parameters:,} parameters, base in {_base(options)}",
        f"{rank}{note} on {adapted} of {weights} linear weights: {names}",
        f"trainable: {done.trained:,} parameters, {done.trained / model.parameters:.4%} of all; "
        f"saved: {done.saved:,}",
        *_wide_lines(done),
        f"{options.optimizer}, adapter in {options.adapter_dtype}, "
        f"{options.batch} x {options.tokens} tokens a step",
        *(f"{a:<20}{_cell(b):>24}{_cell(c):>24}" for a, b, c in _rows(done, options)),
        f"weights and optimizer states: {done.optimizer_saving:.2%} less than full fine-tuning",
        "not counted: activations, workspaces, a float32 copy of trained 16-bit weights",
    ]


def _rows(done: Plan, options: PlanOptions) -> list[tuple[str, int | str, int | str]]:
    memory, full, flops = done.memory, done.full, done.flops
    return [
        ("bytes", options.method, "full fine-tuning"),
        ("base", memory.base, full.base),
        ("trained", memory.trained, full.trained),
        ("gradients", memory.gradients, full.gradients),
        ("optimizer", memory.optimizer, full.optimizer),
        ("sum", memory.training, full.training),
        ("checkpoint", memory.checkpoint, full.checkpoint),
        ("FLOPs", options.method, "full fine-tuning"),
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
    bits = options.bits
    return options.dtype if bits is None else f"{bits} bits and constants, rest {options.dtype}"


def _cell(value: int | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _fields(done: Plan, options: PlanOptions, choice: Choice | None) -> dict[str, object]:
    return {
        "model": {"name": done.model.name, "parameters": done.model.parameters},
        "choice": None if choice is None else asdict(choice),
        "method": options.method,
        "rank": options.rank,
        "adapted": [asdict(x) for x in done.adapted],
        "wide": [x.name for x in done.wide],
        "trained": done.trained,
        "saved": done.saved,
        "bytes": {**asdict(done.memory), "training": done.memory.training},
        "full_bytes": {**asdict(done.full), "training": done.full.training},
        "flops": asdict(done.flops),
        "optimizer_saving": done.optimizer_saving,
    }
