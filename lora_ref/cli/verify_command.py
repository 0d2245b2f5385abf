"""`lora-ref verify`: open, judge under a progress bar, print, write the reports."""

import importlib.resources
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.atomic import new_file
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.peft_config import CONFIG_NAME, LoraConfig
from ..verify import Report, Status, verify
from ..verify.report_html import as_html
from ..verify.report_json import as_json
from ..verify.summary import exit_status
from .failures import Usage, refuse_empty
from .outputs import STDOUT, refuse_file, say_written, write_report
from .progress import progress
from .terminal import print_lines, print_report

PLANTED = 5  # bugs in the example's second merge


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    base: str | None
    adapter: str | None
    merged: str | None
    json: str | None
    html: str | None
    strict: bool
    force: bool
    every: bool
    version: str

    @property
    def inputs(self) -> tuple[str, str, str] | None:
        """The three paths, or None if none is given."""
        given = {"--base": self.base, "--adapter": self.adapter, "--merged": self.merged}
        missing = [name for name, path in given.items() if path is None]
        if missing and len(missing) < len(given):
            need = f"verify needs --base, --adapter and --merged; missing: {', '.join(missing)}"
            raise Usage(f"{need}; without any of them it runs on the example in the package")
        refuse_empty({**given, "--json": self.json, "--html": self.html})
        if self.base is None or self.adapter is None or self.merged is None:
            return None
        return self.base, self.adapter, self.merged


def verify_command(options: Options) -> int:
    """Judge, print and write; the exit status."""
    inputs = options.inputs
    if inputs is None:
        with importlib.resources.as_file(importlib.resources.files("lora_ref") / "example") as here:
            return _example(options, here)
    _refuse_reports(options, inputs)
    report = _judged(inputs)
    if options.json != STDOUT:
        print_report(report, strict=options.strict, every=options.every)
    _write(options, report, inputs[1])
    return exit_status(report, options.strict)


def _example(options: Options, here: Path) -> int:
    """The right merge, then the one with bugs; 0 if the verdicts are what they should be."""
    base, adapter = str(here / "base"), str(here / "adapter")
    right = base, adapter, str(here / "merged")
    wrong = base, adapter, str(here / "merged-buggy")
    _refuse_reports(options, wrong)
    quiet = options.json == STDOUT
    reports = []
    for title, inputs in (("a right merge", right), ("a merge with planted bugs", wrong)):
        report = replace(_judged(inputs), base="example/base", adapter="example/adapter")
        report = replace(report, merged=f"example/{Path(inputs[2]).name}")
        reports.append(report)
        if not quiet:
            print_lines(f"Example in the package, {title}: {report.merged}", style="bold")
            print_report(report, strict=options.strict, every=options.every)
            print_lines("")
    _write(options, reports[1], adapter)
    expected = not reports[0].has_bug and reports[1].count(Status.BUG) == PLANTED
    if not quiet:
        said = "as they should be" if expected else "NOT what the example was made for"
        print_lines(f"Both verdicts are {said} (exit status {int(not expected)}).")
        print_lines("Your own: lora-ref verify --base BASE --adapter ADAPTER --merged MERGED")
    return int(not expected)


def _judged(inputs: tuple[str, str, str]) -> Report:
    with progress(len(Checkpoint.open(inputs[0]).names)) as advance:
        return verify(*inputs, progress=lambda verdict: advance(verdict.name))


def _refuse_reports(options: Options, inputs: tuple[str, str, str]) -> None:
    """Refuse before the work what could not be written after it."""
    files = [f for f in (options.json, options.html) if f is not None and f != STDOUT]
    if len({os.path.realpath(f) for f in files}) < len(files):
        raise Usage("--json and --html must be two files")
    if options.html == STDOUT:
        raise Usage("--html must be a file: only --json can be written to stdout")
    for name in files:
        refuse_file(Path(name), inputs, options.force)


def _write(options: Options, report: Report, adapter: str) -> None:
    if options.json is not None:
        config = LoraConfig.read(Path(adapter) / CONFIG_NAME)
        data = as_json(report, config, strict=options.strict, version=options.version)
        write_report(data, options.json, options.force)
    if options.html is not None:
        data = as_html(report, strict=options.strict, version=options.version)
        with new_file(Path(options.html), overwrite=options.force) as file:
            file.write(data)
        say_written(options.html)
