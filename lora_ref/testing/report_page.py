"""The verdicts of a test run as one page. Everything in it is escaped: names come from tests."""

from collections.abc import Iterable, Iterator

from ..pages.page import as_name, as_text, badge, page, table
from .recording import SEVERITY, Fields, found, line

_COLUMNS = (
    ("tensor", False),
    ("verdict", False),
    ("error/bound", True),
    ("ulps", True),
    ("worst at", True),
    ("outside", True),
    ("undecidable", True),
    ("calls", True),
    ("where, and why", False),
)
_FIGURES = (
    "error/bound is the largest error in units of what the contract admits for that element; "
    "above 1 no rounding explains it. The figures of a tensor are those of the worst call. β is "
    "the share of a known mistake that is in the outputs: 1 is all of it."
)


def as_page(fields: Fields) -> bytes:
    """The report as a self-contained page in UTF-8."""
    tests = sorted(fields["tests"], key=lambda t: -SEVERITY.index(t["verdict"]))
    body = [
        f'<header><p class="what">lora_ref {as_text(fields["versions"]["lora_ref"])}, pytest</p>',
        f'<h1 class="{as_text(fields["verdict"] or "none")}">{as_text(_headline(fields))}</h1>',
        "</header>",
        _counts(fields["counts"]),
        *(part for test in tests for part in _test(test)),
        *_contracts(tests),
        f"<footer>{as_text(_FIGURES)}</footer>",
    ]
    return page("lora_ref: verdicts of a test run", body)


def _headline(fields: Fields) -> str:
    tests, tensors = len(fields["tests"]), sum(fields["counts"].values())
    if not tensors:
        return "no test judged anything"
    return f"{fields['verdict']} is the worst verdict on {tensors:,} tensors of {tests:,} tests"


def _counts(counts: Fields) -> str:
    tiles = "".join(
        f'<li class="{status}{"" if count else " none"}"><b>{count:,}</b> {status}</li>'
        for status, count in counts.items()
    )
    return f'<ul class="counts">{tiles}</ul>'


def _test(test: Fields) -> Iterator[str]:
    passed = "" if test["passed"] else " (failed)"
    yield f"<h2>{badge(test['verdict'])} <code>{as_text(test['test'])}</code>{passed}</h2>"
    for judgement in test["judgements"]:
        yield f"<p>contract: {as_text(judgement['contract'])}</p>"
        yield table(_COLUMNS, map(_row, judgement["tensors"]))
        yield from _diagnoses(judgement["diagnoses"])
        for title in ("audit", "power"):
            yield from _list(title, judgement[title])


def _row(tensor: Fields) -> str:
    figures = (
        f"{tensor['ratio']:.3g}",
        f"{tensor['ulps']:.3g}",
        ", ".join(map(str, tensor["worst"])),
        f"{tensor['outside']:,}",
        f"{tensor['undecidable']:,}",
        f"{tensor['calls']:,}",
    )
    cells = "".join(f"<td class=n>{as_text(figure)}</td>" for figure in figures)
    notes = "; ".join(text for text in (tensor["reason"], *tensor["where"]) if text)
    return (
        f'<tr title="{as_text(line(tensor))}"><td><code>{as_name(tensor["name"])}</code></td>'
        f"<td>{badge(tensor['status'])}</td>{cells}<td>{as_text(notes)}</td></tr>"
    )


def _diagnoses(diagnoses: list[Fields]) -> Iterator[str]:
    for d in found(diagnoses):
        yield (
            f'<section class="diagnosis"><h3>{as_text(d["name"])} PRESENT</h3>'
            f'<p class="formula">{as_text(d["formula"])}</p><p>{_fit(d)}</p></section>'
        )
    rest = [d for d in diagnoses if d["state"] != "PRESENT"]
    if rest:
        items = "".join(
            f"<li>{as_text(d['state'])} {as_text(d['name'])}: "
            f'<span class="formula">{as_text(d["formula"])}</span> ({_fit(d)})</li>'
            for d in rest
        )
        excluded = sum(d["state"] == "EXCLUDED" for d in rest)
        title = f"{excluded} known mistakes excluded, {len(rest) - excluded} undecidable"
        yield f"<details><summary>{title}</summary><ul>{items}</ul></details>"


def _fit(diagnosis: Fields) -> str:
    share, error, signal = (diagnosis[key] for key in ("share", "error", "signal"))
    return as_text(f"β = {share:.4g} ± {error:.1g}; all of it would stand out by {signal:.3g} σ")


def _list(title: str, said: Iterable[str]) -> Iterator[str]:
    items = "".join(f"<li>{as_text(text)}</li>" for text in said)
    if items:
        yield f"<h3>{title}</h3><ul>{items}</ul>"


def _contracts(tests: list[Fields]) -> Iterator[str]:
    """What each contract admits, once."""
    told = {j["contract"]: j for test in tests for j in test["judgements"]}
    if told:
        yield "<h2>What the contracts admit</h2>"
    for judgement in told.values():
        items = "".join(f"<li>{as_text(t)}</li>" for t in judgement["explanation"].split("\n")[1:])
        title = as_text(judgement["name"])
        yield f"<details><summary>{title}</summary><ul>{items}</ul></details>"
