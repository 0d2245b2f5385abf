"""The tables in Markdown, and the plot."""

from pathlib import Path
from typing import Any

from .tables import (
    GROUPS,
    alarms,
    by_mutant,
    comparison,
    diagnoses,
    soundness,
    tier_zero,
    worst_ratios,
)

Record = dict[str, Any]
COLUMNS = ("false alarms", *GROUPS, *(f"{group}, forward" for group in GROUPS))


def percent(pair: tuple[int, int]) -> str:
    """How many of how many, rounded so that 100 % means all of them."""
    a, b = pair
    if not b:
        return "–"
    share = 100 * a / b
    return f"{share:.0f} %" if a in (0, b) else f"{min(max(share, 0.1), 99.9):.1f} %"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def markdown(records: list[Record], dtypes: tuple[str, ...], record: dict[str, Any]) -> str:
    """The whole page's tables, with what was run."""
    versions = ", ".join(f"{name} {value}" for name, value in record["environment"].items())
    parts = [f"`{record['command']}`, {record['date']}, {record['seconds']} s.", f"{versions}."]
    parts += ["## False alarms", _soundness(records)]
    for dtype in dtypes:
        parts += [f"## Methods compared: {dtype}", _comparison(records, dtype)]
        parts += [f"### Exact tests: {dtype}", _tier_zero(records, dtype)]
        parts += [f"### Diagnosis: {dtype}", _diagnoses(records, dtype)]
        parts += [f"### Mutant by mutant: {dtype}", _mutants(records, dtype)]
    errors = [f"{r['key']}: {r['error'].strip().splitlines()[-1]}" for r in records if "error" in r]
    parts += ["## Errors", "\n".join(f"- {one}" for one in errors)] if errors else []
    found = alarms(records)
    parts += ["## Every false alarm", "\n".join(f"- {one}" for one in found) or "None."]
    return "\n\n".join(parts) + "\n"


def _soundness(records: list[Record]) -> str:
    names = ["cases", "runs", "tensors", "elements", "bug", "suspect", "false diagnoses"]
    names += ["undecidable elements", "undecidable tensors", "exact tensors"]
    found = soundness(records)
    rows = [[dtype, *(f"{sums[n]:,}" for n in names)] for dtype, sums in found.items()]
    rows.append(["all", *(f"{sum(s[n] for s in found.values()):,}" for n in names)])
    ratios = "; ".join(f"{place} {value:.3f}" for place, value in worst_ratios(records).items())
    return f"{table(['dtype', *names], rows)}\n\nLargest error / bound: {ratios}."


def _comparison(records: list[Record], dtype: str) -> str:
    found = comparison(records, dtype)
    if not found:
        return "Nothing was measured."
    first = next(iter(found.values()))
    header = [f"{c} ({first.get(c, (0, 0))[1]})" for c in COLUMNS]
    rows = []
    for name, columns in found.items():
        pairs = [columns.get(c, (0, 0)) for c in COLUMNS]
        shown = f"**{name}**" if name.startswith("ours") else name
        rows.append([shown, str(pairs[0][0]), *map(percent, pairs[1:])])
    return table(["method", *header], rows)


def _tier_zero(records: list[Record], dtype: str) -> str:
    found = tier_zero(records, dtype)
    counts, missed = found["counts"], found["missed"]
    header = [f"{name} ({of})" for name, (_, of) in counts.items()]
    first, *rest = counts.values()
    row = [str(first[0]), *(percent((seen, of)) for seen, of in rest)]
    text = table(["method", *header], [["exact tests", *row]])
    return text + "\n\nNot seen: " + (", ".join(f"{n} ({k})" for n, k in missed.items()) or "none")


def _diagnoses(records: list[Record], dtype: str) -> str:
    found = diagnoses(records, dtype)
    names = ["right", "undecided", "akin", "wrong", "false", "correct runs"]
    names += [f"not in the catalogue: {n}" for n in ("not named", "akin", "misnamed")]
    rows = [[part, *(str(counts[n]) for n in names)] for part, counts in found.items()]
    return table(["outputs", *names], rows)


def _mutants(records: list[Record], dtype: str) -> str:
    rows = []
    found = by_mutant(records, dtype)
    for name, row in sorted(found.items(), key=lambda pair: (pair[1]["group"], pair[0])):
        pairs = [row.get(part, (0, 0)) for part in ("all", "forward", "diagnosis")]
        rows.append([name, row["group"], *(f"{a}/{b}" for a, b in pairs)])
    return table(["mutant", "group", "seen, all outputs", "seen, forward", "diagnosed"], rows)


def plot(records: list[Record], dtypes: tuple[str, ...], path: Path) -> None:
    """Detection of subtle mutants against the share of false alarms, a panel a dtype."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(dtypes), figsize=(5 * len(dtypes), 6), squeeze=False)
    for panel, dtype in zip(panels[0], dtypes, strict=True):
        found = comparison(records, dtype)
        for i, (name, columns) in enumerate(reversed(found.items())):
            a, b = columns.get("subtle", (0, 0))
            alarms_a, alarms_b = columns.get("false alarms", (0, 0))
            quiet = alarms_a == 0
            color = "tab:green" if name.startswith("ours") else "tab:gray" if quiet else "tab:red"
            panel.barh(i, 100 * a / max(b, 1), color=color)
            note = f"{name} ({alarms_a}/{alarms_b} false)"
            panel.text(1, i, note, va="center", fontsize=7, color="black")
        panel.set(title=f"{dtype}: subtle mutants seen, all outputs (%)", xlim=(0, 100), yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
