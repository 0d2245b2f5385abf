"""`lora-ref plan`: what an adapter on a model trains, stores and computes, and which to choose."""

from dataclasses import replace

from ..checkpoint.errors import shown
from ..pages.printable import printable
from ..plan import (
    DEFAULT_DTYPE,
    DTYPES,
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
from .outputs import STDOUT, write_report
from .plan_options import PlanOptions as PlanOptions
from .plan_options import refuse, refuse_unused, usage_of
from .plan_report import as_json, text_lines
from .terminal import print_lines

CONDITION = 64  # the size of a condition unless it is said
MODELS = {"gpt3-175b": gpt3}


def plan_command(options: PlanOptions) -> int:
    """Print the plan, or the choice and its plan, and write the report; the exit status."""
    refuse(options)
    model = _model(options)
    choice = _choice(model, options) if options.choose else None
    if choice is not None:
        options = replace(options, method=choice.method)
    refuse_unused(options)
    dtype, source = _dtype(model, options)
    options = replace(options, dtype=dtype)
    done = _plan(model, options)
    if options.json != STDOUT:
        for line in text_lines(done, options, choice, source):
            print_lines(printable(line))
    if options.json is not None:
        write_report(as_json(done, options, choice, source), options.json, options.force)
    return 0


def _model(options: PlanOptions) -> Model:
    given = [options.config is not None, options.model is not None, bool(options.shape)]
    if sum(given) != 1:
        raise Usage("plan needs one of --config, --model and --shape")
    if options.config is not None:
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
    rank, method = options.rank, options.planned
    if method == "dora":
        return WeightDecomposed(rank)
    if method == "double-lora":
        return DoubleLowRank(rank)
    if method == "adalora":
        return Adaptive(rank, options.first_rank)
    if method == "hyperlora":
        size = CONDITION if options.condition is None else options.condition
        return Generated(rank, size, size)
    return LowRank(rank)


def _dtype(model: Model, options: PlanOptions) -> tuple[str, str]:
    """The dtype of the base, and what says so."""
    if options.dtype is not None:
        return options.dtype, "--dtype"
    if model.dtype is None:
        return DEFAULT_DTYPE, "default"
    if model.dtype not in DTYPES:
        need = f"dtype must be one of {', '.join(DTYPES)}, got {shown(model.dtype)}"
        raise Usage(f"{options.config}: {need}; --dtype overrides it")
    return model.dtype, "config.json"


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
        raise usage_of(error) from None


def _choice(model: Model, options: PlanOptions) -> Choice:
    if options.memory_gb is None:
        return choose(options.needs)
    half = replace(options, method="lora", dtype="bfloat16", base_bits=None)
    states = _plan(model, half).memory.training
    extreme, why = memory_answer(states, int(options.memory_gb * 10**9))
    choice = choose(replace(options.needs, memory_extreme=extreme))
    return replace(choice, reasons=(why, *choice.reasons))
