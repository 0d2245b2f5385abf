"""`lora-ref combine`: several adapters as one, and what of their weighted sum that loses."""

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ..checkpoint.combination import (
    DROPPING,
    METHODS,
    OF_FACTORS,
    OF_UPDATES,
    TRIMMING,
    VOTING,
    rules,
)
from ..checkpoint.combined import Combined, combined
from ..checkpoint.peft import PeftAdapter, write_adapter
from ..compose.ties import by_count, by_total
from ..pages import plain_json
from ..pages.printable import printable
from .factor_files import dtype_of, share
from .failures import Usage, refuse_empty
from .outputs import STDOUT, refuse_outputs, write_report
from .progress import progress
from .terminal import console_for, elided, print_lines, print_rows

SCHEMA, SCHEMA_VERSION = "lora-ref/combine", 1
ELECTIONS = {"total": by_total, "frequency": by_count}  # PEFT's majority_sign_method
_LEAST_NAME, _FIGURES = 24, 64


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    out: str
    rank: int | None
    density: float | None
    majority_sign: str | None
    seed: int | None
    dtype: str | None
    json: str | None
    force: bool
    version: str


def combine_command(options: Options) -> int:
    """Combine, write and print; the exit status."""
    _refuse(options)
    rng = np.random.default_rng(options.seed or 0)
    elect = ELECTIONS[options.majority_sign or "total"]
    rule = rules(1.0 if options.density is None else options.density, elect, rng)[options.method]
    adapters = [PeftAdapter.open(path) for path in options.adapters]
    count = len({module.place for adapter in adapters for module in adapter.modules})
    with progress(count) as advance:
        done = combined(
            options.adapters,
            options.weights,
            rule,
            options.rank,
            dtype=dtype_of(options.dtype),
            progress=advance,
        )
    write_adapter(options.out, done.adapter, overwrite=options.force)
    if options.json != STDOUT:
        _print(options, done)
        for line in (*_notes(options, done), *_bases(adapters)):
            print_lines(printable(line))
    if options.json is not None:
        write_report(_as_json(options, done), options.json, options.force)
    return 0


def _refuse(options: Options) -> None:
    """Refuse before the work what does not go together."""
    named = {"ADAPTER": "" if "" in options.adapters else None}
    refuse_empty({**named, "--out": options.out, "--json": options.json})
    if options.method not in METHODS:
        raise Usage(f"--method must be one of {', '.join(METHODS)}, got {options.method!r}")
    given, need = len(options.weights), len(options.adapters)
    if given != need:
        raise Usage(f"--weights must be {need}, one for each adapter, got {given}")
    if not all(map(math.isfinite, options.weights)):
        raise Usage(f"--weights must be finite, got {', '.join(map(str, options.weights))}")
    dtype_of(options.dtype)
    if options.rank is not None and options.rank < 1:
        raise Usage(f"--rank must be at least 1, got {options.rank}")
    _refuse_idle(options)
    refuse_outputs(options.out, options.json, options.adapters, options.force)


def _refuse_idle(options: Options) -> None:
    """Refuse an option that the method has no use for, and one without which it cannot be."""
    kind = options.method.removesuffix("_svd")
    pruning = kind in (*TRIMMING, *DROPPING)
    uses = (
        ("--rank", options.rank, options.method in OF_UPDATES, "truncates"),
        ("--density", options.density, pruning, "prunes"),
        ("--majority-sign", options.majority_sign, kind in VOTING, "votes"),
        ("--seed", options.seed, kind in DROPPING, "draws random numbers"),
    )
    for option, value, used, what in uses:
        if value is not None and not used:
            raise Usage(f"{option} is for a method that {what}, {options.method} does not")
    if pruning and options.density is None:
        raise Usage(f"--density, the share of entries to keep, is needed by {options.method}")
    if options.density is not None and not 0 < options.density <= 1:
        raise Usage(f"--density must be above 0 and at most 1, got {options.density}")
    if options.majority_sign not in (None, *ELECTIONS):
        raise Usage(
            f"--majority-sign must be {' or '.join(ELECTIONS)}, got {options.majority_sign!r}"
        )
    if options.seed is not None and options.seed < 0:
        raise Usage(f"--seed must be at least 0, got {options.seed}")


def _print(options: Options, done: Combined) -> None:
    console = console_for()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("module", no_wrap=True)
    for title in ("shape", "ranks", "rank", "kept", "error", "off the sum"):
        table.add_column(title, justify="right", no_wrap=True)
    room = max(_LEAST_NAME, console.width - _FIGURES)
    for module in done.modules:
        ranks = "+".join(str(rank or "-") for rank in module.ranks)
        figures = [f"{module.retained:.2%}", share(module.error), share(module.off)]
        shape, name = " × ".join(map(str, module.shape)), elided(printable(module.name), room)
        table.add_row(name, shape, ranks, str(module.rank), *figures)
    print_rows(console, table)
    print_lines("")


def _notes(options: Options, done: Combined) -> list[str]:
    notes = []
    if options.method in OF_FACTORS:
        what = "cross terms" if options.method == "linear" else "cross terms and what was pruned"
        notes.append(
            f"note: {options.method} combines A and B apart: off the sum Σ w ΔW by {what}, "
            f"{share(max(module.off for module in done.modules))} at the most"
        )
    elif options.method in OF_UPDATES:
        worst = min(done.modules, key=lambda module: module.retained)
        notes.append(f"least kept: {worst.retained:.2%} of the combination of {worst.name}")
    partial = [module.name for module in done.modules if 0 in module.ranks]
    if partial:
        names = ", ".join(partial[:3]) + (", …" if len(partial) > 3 else "")
        what = "the update of the others counts as zero, as in PEFT"
        notes.append(
            f"note: {len(partial)} of {len(done.modules)} not in every adapter: {what}: {names}"
        )
    counted = f"{len(done.modules)} {'module' if len(done.modules) == 1 else 'modules'}"
    terms = ", ".join(
        f"{w:g} × {path}" for w, path in zip(options.weights, options.adapters, strict=True)
    )
    return [*notes, f"{os.fspath(options.out)}: {counted}, {options.method} of {terms}"]


def _bases(adapters: list[PeftAdapter]) -> list[str]:
    found = dict.fromkeys(str(a.config.base_model_name_or_path) for a in adapters)
    if len(found) == 1:
        return []
    return [f"note: the adapters name different base models: {', '.join(found)}"]


def _as_json(options: Options, done: Combined) -> bytes:
    given: dict[str, Any] = asdict(options)
    version, _, _ = given.pop("version"), given.pop("json"), given.pop("force")
    fields = {
        **plain_json.heading(SCHEMA, SCHEMA_VERSION, version, numpy=np.__version__),
        "options": given,
        "modules": [asdict(module) for module in done.modules],
    }
    return plain_json.as_json(fields)
