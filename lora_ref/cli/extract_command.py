"""`lora-ref extract`: the nearest adapter to the difference of two models, and what it leaves out.

Changes that factors cannot hold are refused unless `--leave-out` says that they may be lost: an
adapter without them is not the tuned model, and nothing in its file would tell.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.config_fields import ends
from ..checkpoint.differences import Differences, differences, short_targets
from ..checkpoint.errors import refusal, shown
from ..checkpoint.extracted import Extracted, extracted, has_factors, is_whole
from ..checkpoint.peft import write_adapter
from ..checkpoint.peft_modules import Kind, LoraModule
from ..pages import plain_json
from ..pages.printable import printable
from .factor_files import dtype_of, share
from .failures import Usage, refuse_empty
from .outputs import STDOUT, refuse_outputs, write_report
from .progress import progress
from .terminal import console_for, elided, print_lines, print_rows

SCHEMA, SCHEMA_VERSION = "lora-ref/extract", 1
# Models of transformers whose linear layers are Conv1D, with weights stored inputs first.
_INPUTS_FIRST = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
_LEAST_NAME, _FIGURES, _LISTED = 24, 40, 5


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    base: str
    tuned: str
    out: str
    rank: int | None
    energy: float | None
    targets: str | None
    linear: str | None
    modules_to_save: str | None
    alpha: float | None
    dtype: str | None
    fan_in_fan_out: bool
    leave_out: bool
    json: str | None
    force: bool
    version: str


def extract_command(options: Options) -> int:
    """Compare, decompose, write and print; the exit status."""
    _refuse(options)
    before, after = Checkpoint.open(options.base), Checkpoint.open(options.tuned)
    if before.config.get("model_type") in _INPUTS_FIRST and not options.fan_in_fan_out:
        model = shown(before.config["model_type"])
        raise Usage(f"--fan-in-fan-out must be given: {model} stores its weights inputs first")
    saved, linear = _names(options.modules_to_save), _names(options.linear)
    with progress(len(before.names)) as advance:
        found = differences(before, after, advance, linear=linear)
    _refuse_strangers(before, (*_names(options.targets), *saved, *linear))
    targets = _targets(options, before, found, saved)
    if not options.leave_out:
        _refuse_left(options, found, targets, saved)
    with progress(len(before.names)) as advance:
        done = extracted(
            options.base,
            options.tuned,
            options.rank,
            targets,
            energy=options.energy,
            dtype=dtype_of(options.dtype),
            alpha=options.alpha,
            modules_to_save=saved,
            fan_in_fan_out=options.fan_in_fan_out,
            linear=linear,
            progress=advance,
        )
    write_adapter(options.out, done.adapter, overwrite=options.force)
    if options.json != STDOUT:
        _print(options, done, found)
    if options.json is not None:
        write_report(_as_json(options, done), options.json, options.force)
    return 0


def _refuse(options: Options) -> None:
    paths = {"--base": options.base, "--tuned": options.tuned, "--out": options.out}
    refuse_empty({**paths, "--json": options.json})
    if options.rank is None and options.energy is None:
        raise Usage("--rank or --energy must be given, got neither")
    if options.rank is not None and options.rank < 1:
        raise Usage(f"--rank must be at least 1, got {options.rank}")
    if options.energy is not None and not 0 < options.energy <= 1:
        raise Usage(f"--energy must be a share above 0 and at most 1, got {options.energy}")
    if options.alpha is not None and (options.alpha == 0 or not math.isfinite(options.alpha)):
        raise Usage(f"--alpha must be finite and not zero, got {options.alpha}")
    dtype_of(options.dtype)
    for option, given in (
        ("--targets", options.targets),
        ("--linear", options.linear),
        ("--modules-to-save", options.modules_to_save),
    ):
        if given is not None and not all(_names(given)):
            raise Usage(f"{option} must be names with commas between them, got {given!r}")
    refuse_outputs(options.out, options.json, (options.base, options.tuned), options.force)


def _names(given: str | None) -> tuple[str, ...]:
    return () if given is None else tuple(name.strip() for name in given.split(","))


def _refuse_strangers(before: Checkpoint, names: tuple[str, ...]) -> None:
    modules = {name.rpartition(".")[0] for name in before.names}
    for name in names:
        if not any(ends(module, (name,)) for module in modules):
            need = f"must have a module of the name {shown(name)}"
            raise refusal(before.path, f"{need}, got {shown(sorted(modules))}")


def _targets(
    options: Options, before: Checkpoint, found: Differences, saved: tuple[str, ...]
) -> tuple[str, ...]:
    """What was asked for, or every linear weight that changed and is not saved whole."""
    if options.targets is not None:
        return _names(options.targets)
    modules = [module for module in found.linear if not ends(module, saved)]
    if not modules:
        need = f"must differ from {options.base} in the weight of a linear layer"
        raise refusal(options.tuned, f"{need}; equal tensors: {found.equal}")
    return short_targets(modules, before.names)


def _refuse_left(
    options: Options, found: Differences, targets: tuple[str, ...], saved: tuple[str, ...]
) -> None:
    """Refuse before hours of decompositions what would be refused after them."""
    changed = (*(f"{module}.weight" for module in found.linear), *found.other)
    left = [n for n in changed if not has_factors(n, targets) and not is_whole(n, saved)]
    if left:
        some = [f"{n} ({_amount(found.other[n])})" if n in found.other else n for n in left]
        more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
        what = "tensor has" if len(left) == 1 else "tensors have"
        raise refusal(
            options.tuned,
            f"{len(left)} {what} changed that the factors do not hold: "
            f"{', '.join(some[:_LISTED])}{more}; --modules-to-save NAMES stores them whole, "
            "--leave-out does without them",
        )


def _amount(change: float) -> str:
    return f"by {change:.2%}" if math.isfinite(change) else "from zero"


def _print(options: Options, done: Extracted, found: Differences) -> None:
    console = console_for()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("module", no_wrap=True)
    for title in ("shape", "rank", "kept", "error"):
        table.add_column(title, justify="right", no_wrap=True)
    room = max(_LEAST_NAME, console.width - _FIGURES)
    for row in _rows(done):
        name, shape = elided(printable(row["name"]), room), " × ".join(map(str, row["shape"]))
        figures = str(row["rank"]), f"{row['retained']:.2%}", share(row["error"])
        table.add_row(name, shape, *figures)
    print_rows(console, table)
    print_lines("")
    print_lines(f"kept of all together: {_kept(done):.2%} of ‖ΔW‖²; equal tensors: {found.equal}")
    for module in done.adapter.modules:
        if module.kind is Kind.EMBEDDING:
            said = "was taken for an embedding, by its name (--linear says otherwise)"
            print_lines(f"note: {printable(module.path)} {said}; PEFT updates no layer tied to it")
    for name in done.adapter.replaced:
        print_lines(f"stored whole: {printable(name)}")
    for name, change in done.left.items():
        print_lines(f"LEFT OUT: {printable(name)}, changed {_amount(change)} of its norm")
    counted = f"{len(done.spectra)} {'module' if len(done.spectra) == 1 else 'modules'}"
    print_lines(f"{printable(options.out)}: {counted}")


def _kept(done: Extracted) -> float:
    sizes = {name: float(S @ S) for name, S in done.spectra.items()}
    whole = sum(sizes.values())
    return sum(done.retained[n] * size for n, size in sizes.items()) / whole if whole else 1.0


def _rows(done: Extracted) -> list[dict[str, Any]]:
    return [
        {
            "name": module.path,
            "shape": _shape(module),
            "rank": module.rank,
            "scale": module.scale,
            "norm": float(np.linalg.norm(done.spectra[module.path])),
            "retained": done.retained[module.path],
            "error": done.errors[module.path],
            "spectrum": [float(s) for s in done.spectra[module.path]],
        }
        for module in done.adapter.modules
    ]


def _shape(module: LoraModule) -> list[int]:
    """Outputs and inputs of a linear layer, the table of an embedding."""
    m, n = module.B.shape[0], module.A.shape[1]
    return [n, m] if module.kind is Kind.EMBEDDING else [m, n]


def _as_json(options: Options, done: Extracted) -> bytes:
    fields = {
        **plain_json.heading(SCHEMA, SCHEMA_VERSION, options.version, numpy=np.__version__),
        "inputs": {"base": options.base, "tuned": options.tuned},
        "out": options.out,
        "retained": _kept(done),
        "modules": _rows(done),
        "stored_whole": list(done.adapter.replaced),
        "left_out": dict(done.left),
    }
    return plain_json.as_json(fields)
