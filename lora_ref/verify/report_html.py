"""The report as one page: no script, no network, readable in light and dark.

Everything that comes from a file is escaped: names of tensors are hostile input. Control
characters, which HTML cannot hold, and the characters that turn the direction of text are shown
by their escapes.

Limits:
    the maps of the first `MOST_MAPS` wrong tensors are drawn; the table has all of them
"""

import math
from collections.abc import Iterator

from ..pages.page import as_name, as_text, badge, page, table
from ..verdict.findings import Status
from .error_map import bounds_for, draw, level_names
from .judge import Verdict
from .measure import MAP, Measure
from .summary import (
    STATUSES,
    Case,
    compressed,
    conclusion,
    figures,
    groups,
    headline,
    overall,
    short,
    swallowed_text,
    touched,
    ulps_text,
)
from .verify import Report

MOST_MAPS = 60


COLUMNS = (
    ("tensor", False),
    ("verdict", False),
    ("c", True),
    ("ρ", True),
    ("ulps", True),
    ("rounded", True),
    ("recipe or diagnosis", False),
)


def as_html(report: Report, *, strict: bool, version: str) -> bytes:
    """The report as a self-contained page in UTF-8."""
    status = overall(report)
    body = [
        f'<header><p class="what">lora-ref verify {as_text(version)}</p>',
        f'<h1 class="{status}">{as_text(conclusion(report, strict))}</h1>',
        _inputs(report),
        "</header>",
        _counts(report),
        *_notes(report),
        *_diagnoses(report),
        _table(report),
        *_maps(report),
        f"<footer>{as_text(FIGURES)}</footer>",
    ]
    return page("lora-ref verify", body)


FIGURES = (
    "c is the least-squares multiple of the update that is in MERGED (1 is right); ρ is what no "
    "multiple explains, in units of the update; ulps is the largest error in steps of the stored "
    "dtype; rounded is the share of the elements that are the correctly rounded value."
)


def _inputs(report: Report) -> str:
    rows = (("BASE", report.base), ("ADAPTER", report.adapter), ("MERGED", report.merged))
    cells = "".join(f"<dt>{key}</dt><dd><code>{as_text(path)}</code></dd>" for key, path in rows)
    return f"<dl>{cells}</dl>"


def _counts(report: Report) -> str:
    tiles = "".join(
        f'<li class="{s}{"" if report.count(s) else " none"}"><b>{report.count(s):,}</b> {s}</li>'
        for s in STATUSES
    )
    said = swallowed_text(report)
    return f'<ul class="counts">{tiles}</ul>' + (f"<p>{as_text(said)}</p>" if said else "")


def _notes(report: Report) -> Iterator[str]:
    if report.notes:
        items = "".join(f"<li>{as_text(note)}</li>" for note in report.notes)
        yield f"<h2>Notes</h2><ul>{items}</ul>"


def _diagnoses(report: Report) -> Iterator[str]:
    found = groups(report)
    if not found:
        return
    yield "<h2>Diagnoses</h2>"
    for group in found:
        cases = "".join(map(_case, group.cases))
        title = as_text(headline(report, group))
        yield f'<section class="diagnosis"><h3>{title}</h3>{cases}</section>'


def _case(case: Case) -> str:
    also = f". The same data also fit: {', '.join(case.also)}" if case.also else ""
    evidence = as_text(f"{'; '.join(case.how)}{also}.")
    names = "".join(f"<li><code>{as_name(name)}</code></li>" for name in compressed(case.names))
    return f'<p class="formula">{as_text(case.formula)}</p><p>{evidence}</p><ul>{names}</ul>'


def _table(report: Report) -> str:
    shown = [v for v in report.verdicts if touched(v) or v.status == Status.BUG]
    rest = [v for v in report.verdicts if not touched(v) and v.status != Status.BUG]
    parts = [f"<h2>Tensors</h2>{table(COLUMNS, map(_row, shown))}"]
    if rest:
        title = f"{len(rest):,} more that the adapter leaves alone, none of them a bug"
        rows = table(COLUMNS, map(_row, rest))
        parts.append(f"<details><summary>{title}</summary>{rows}</details>")
    return "".join(parts)


def _row(verdict: Verdict) -> str:
    cells = "".join(f"<td class=n>{figure}</td>" for figure in figures(verdict.measure))
    return (
        f"<tr><td><code>{as_name(verdict.name)}</code></td>"
        f"<td>{badge(verdict.status)}</td>"
        f"{cells}<td>{as_text(short(verdict))}</td></tr>"
    )


def _maps(report: Report) -> Iterator[str]:
    bad = [
        v
        for v in report.verdicts
        if v.status == Status.BUG and v.measure is not None and v.measure.error_map.any()
    ]
    if not bad:
        return
    yield "<h2>Where the errors are</h2>"
    bounds = bounds_for(v.measure.worst_ulps for v in bad if v.measure is not None)
    labels = enumerate(level_names(bounds))
    swatches = "".join(f'<li><i class="e{k}"></i>{as_text(label)}</li>' for k, label in labels)
    yield f'<ul class="legend">{swatches}<li class="unit">largest error, in ulps</li></ul>'
    yield '<div class="maps">'
    for verdict in bad[:MOST_MAPS]:
        yield _map(verdict, bounds)
    yield "</div>"
    if len(bad) > MOST_MAPS:
        yield f"<p>{len(bad) - MOST_MAPS:,} more wrong tensors are in the table.</p>"


def _map(verdict: Verdict, bounds: list[float]) -> str:
    m = verdict.measure
    if m is None:
        return ""
    row, column = m.worst_at
    rows, columns = _matrix_shape(verdict.info.shape if verdict.info else (), m)
    worst = f"worst {ulps_text(m.worst_ulps)} ulps at row {row:,}, column {column:,}"
    return (
        f"<figure>{draw(m.error_map, bounds, rows, columns)}<figcaption>"
        f"<code>{as_name(verdict.name)}</code><br>{as_text(verdict.text)}<br>{worst}"
        f"</figcaption></figure>"
    )


def _matrix_shape(shape: tuple[int, ...], m: Measure) -> tuple[int, int]:
    """The matrix that a tensor was measured as: its first axis and the rest, or experts stacked.

    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> seen = SimpleNamespace(elements=480, error_map=np.zeros((32, 10)), worst_at=(40, 3))
    >>> _matrix_shape((8, 6, 10), seen)
    (48, 10)
    """
    for axes in range(1, max(2, len(shape))):
        rows = math.prod(shape[:axes])
        columns = m.elements // max(1, rows)
        fits = m.worst_at[0] < max(1, rows) and m.worst_at[1] < max(1, columns)
        if fits and m.error_map.shape == (min(MAP, max(1, rows)), min(MAP, max(1, columns))):
            return rows, columns
    return m.error_map.shape
