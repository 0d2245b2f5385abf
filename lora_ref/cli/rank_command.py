"""`lora-ref rank`: the ranks of an adapter's updates, and the adapter at a lower one."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.atomic import new_file
from ..checkpoint.peft import PeftAdapter, write_adapter
from ..checkpoint.reranked import Reranked, reranked
from ..checkpoint.spectra import LayerSpectrum, spectra
from ..pages.printable import printable
from ..rank.picture import spectra_figure
from ..rank.suggestion import suggested
from .failures import Usage, refuse_empty
from .outputs import STDOUT, refuse_directory, refuse_file, say_written, write_report
from .rank_table import as_json, print_table, reranked_fields
from .terminal import print_lines

PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    adapter: str
    to: int | None
    out: str | None
    json: str | None
    picture: str | None
    plot: bool
    force: bool
    version: str


def rank_command(options: Options) -> int:
    """Measure, print and write; the exit status."""
    _refuse(options)
    adapter = PeftAdapter.open(options.adapter)
    layers = spectra(adapter)
    by_name = {layer.name: layer.spectrum for layer in layers}
    advice = suggested(by_name)
    done = _write(options, adapter)
    if options.json != STDOUT:
        print_table(layers, options.to, options.plot)
        print_lines("")
        for line in advice.reasons():
            print_lines(printable(line))
        for line in _notes(options, adapter, done):
            print_lines(printable(line))
    if options.picture is not None:
        _draw(options, layers)
    if options.json is not None:
        written = None
        if done is not None and options.to is not None and options.out is not None:
            written = reranked_fields(options.to, options.out, done.changes)
        data = as_json(options.adapter, adapter.config, layers, advice, written, options.version)
        write_report(data, options.json, options.force)
    return 0


def _write(options: Options, adapter: PeftAdapter) -> Reranked | None:
    if options.to is None or options.out is None:
        return None
    done = reranked(adapter, options.to)
    write_adapter(options.out, done.adapter, overwrite=options.force)
    return done


def _notes(options: Options, adapter: PeftAdapter, done: Reranked | None) -> list[str]:
    notes = []
    if adapter.config.base_is_changed:
        how = adapter.config.init_lora_weights
        notes.append(f"note: these updates are of a base that the initialisation ({how}) changed")
    if done is None:
        return notes
    count, kept = len(adapter.modules), len(adapter.modules) - len(done.changes)
    notes.append(f"{options.out}: {len(done.changes)} of {count} modules cut to {options.to}")
    if kept:
        notes.append(f"{kept} left as they are, of a rank not above {options.to}")
    if done.changes:
        worst = min(done.changes, key=lambda change: change.retained)
        off = max(done.changes, key=lambda change: change.error)
        notes.append(f"least kept: {worst.retained:.2%} of ‖ΔW‖² of {worst.name}")
        notes.append(f"largest error, as stored: {off.error:.2%} of ‖ΔW‖ of {off.name}")
    return notes


def _refuse(options: Options) -> None:
    """Refuse before the work what could not be done after it."""
    given = {"--out": options.out, "--json": options.json, "--picture": options.picture}
    refuse_empty({"ADAPTER": options.adapter, **given})
    if options.to is not None and options.to < 1:
        raise Usage(f"--to must be a rank of at least 1, got {options.to}")
    if options.out is not None and options.to is None:
        raise Usage("--out needs --to, the rank of the adapter that is written")
    files = [f for f in (options.json, options.picture) if f is not None and f != STDOUT]
    if options.picture is not None and Path(options.picture).suffix.lower() not in PICTURES:
        raise Usage(f"--picture must end in {', '.join(PICTURES)}, got {options.picture!r}")
    if len({os.path.realpath(f) for f in (*files, *filter(None, [options.out]))}) < (
        len(files) + (options.out is not None)
    ):
        raise Usage("--out, --json and --picture must be different paths")
    for name in files:
        refuse_file(Path(name), [options.adapter], options.force)
    if options.out is not None:
        refuse_directory(Path(options.out), [options.adapter], options.force)


def _draw(options: Options, layers: tuple[LayerSpectrum, ...]) -> None:
    path = Path(str(options.picture))
    try:
        figure = spectra_figure({layer.name: layer.spectrum for layer in layers})
    except ModuleNotFoundError as error:
        raise Usage(f"--picture needs {error.name}: pip install 'lora-ref[plot]'") from None
    with new_file(path, overwrite=options.force) as file:
        figure.savefig(file, format=path.suffix.lower().removeprefix("."))
    say_written(path)
