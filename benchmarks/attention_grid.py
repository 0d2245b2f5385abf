"""The grid of a public post, "Low Rank Adaptations … are they useful in smaller models?", again.

    python benchmarks/attention_grid.py --quick             24 points, about two minutes
    python benchmarks/attention_grid.py --out DIR           all 192 points: CSV, JSON and a plot

One forward and backward of single-head self-attention with LoRA on query and key (see
`attention_forms`), ours against our full fine-tuning, against jitted JAX in the post's form and
against eager PyTorch. A ratio below one means that our LoRA is faster. docs/studies tells the
story. Needs the [peers] and [cli,plot] extras; without a peer its columns are absent.
"""

import argparse
import csv
import importlib.util
import itertools
import json
import pathlib
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import timing
from attention_forms import FORMS, Problem

AXES = ("batch", "embedding", "hidden", "rank")
GRID = ((2, 64, 256, 1024), (256, 512, 1024, 2048), (256, 512, 1024, 2048), (1, 3, 5))
TARGETS = {"our full": 1.0, "JAX LoRA": 0.5, "PyTorch LoRA": 0.9}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Point = tuple[int, ...]


def points(quick: bool) -> list[Point]:
    """The whole grid, or a sample of 24 with six of each batch."""
    if not quick:
        return list(itertools.product(*GRID))
    rng = random.Random(0)
    rest = list(itertools.product(*GRID[1:]))
    return [(batch, *other) for batch in GRID[0] for other in rng.sample(rest, 6)]


def installed_forms() -> list[str]:
    """The competitors whose library is here."""
    packages = {"our": "numpy", "JAX": "jax", "PyTorch": "torch"}
    return [n for n in FORMS if importlib.util.find_spec(packages[n.split()[0]])]


def measure(point: Point, names: list[str], count: int, clock: str) -> dict[str, Any]:
    """One row of the table: median seconds of each competitor, median ratios of the pairs."""
    problem = Problem.draw(*point)
    steps = {name: FORMS[name](problem) for name in names if _belongs(name, point)}
    pause = 0.0 if clock == "processor" else 0.03
    found = timing.rounds(steps, count, pause=pause, clock=CLOCKS[clock])
    row: dict[str, Any] = dict(zip(AXES, point, strict=True))
    row |= {f"{n} (s)": statistics.median(one[n] for one in found) for n in steps}
    pairs = [("our LoRA", other) for other in TARGETS]
    pairs += [("JAX LoRA", "JAX full"), ("PyTorch LoRA", "PyTorch full")]
    ratios = {(a, b): timing.median_ratio(found, a, b) for a, b in pairs if {a, b} <= steps.keys()}
    return row | {f"{a} / {b}": ratio for (a, b), ratio in ratios.items()}


def _belongs(name: str, point: Point) -> bool:
    """A peer's full fine-tuning does not depend on the rank: once is enough."""
    return name not in ("JAX full", "PyTorch full") or point[3] == 3


def run(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows, as they come, under a progress bar."""
    from rich.progress import track

    names = installed_forms()
    for point in track(points(args.quick), description="attention grid"):
        row = measure(point, names, args.rounds, args.clock)
        if args.out:
            _append(row, args.out / "attention_grid.jsonl")
        yield row


def _append(row: dict[str, Any], path: pathlib.Path) -> None:
    """One line a point, so that an interrupted run leaves what it has measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each ratio: its geometric mean, its worst point, and at how many it is below one."""
    found = {}
    for name in dict.fromkeys(key for row in rows for key in row if " / " in key):
        values = {tuple(row[a] for a in AXES): row[name] for row in rows if name in row}
        worst = max(values, key=values.__getitem__)
        found[name] = {
            "geometric mean": timing.geometric_mean(values.values()),
            "worst": values[worst],
            "worst at": worst,
            "below one": sum(value < 1 for value in values.values()),
            "points": len(values),
        }
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    """The summary as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("ratio", "geometric mean", "to reach", "below one", "worst", "at " + str(AXES))
    for name, s in found.items():
        other = name.partition(" / ")[2]
        goal = TARGETS.get(other) if name.startswith("our") else None
        text = "" if goal is None else "every point" if goal == 1 else f"<= {goal}"
        below = f"{s['below one']} of {s['points']}"
        mean = f"{s['geometric mean']:.3f}"
        table.add_row(name, mean, text, below, f"{s['worst']:.2f}", str(s["worst at"]))
    Console().print(table)


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Every point's three ratios, against the size of its weights, one colour a batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [f"our LoRA / {other}" for other in TARGETS if f"our LoRA / {other}" in rows[0]]
    figure, panels = plt.subplots(1, len(names), figsize=(4.2 * len(names), 4), sharey=True)
    for panel, name in zip(panels if len(names) > 1 else [panels], names, strict=True):
        for i, batch in enumerate(GRID[0]):
            mine = [row for row in rows if row["batch"] == batch]
            size = [row["embedding"] * row["hidden"] * 1.1 ** (i - 1.5) for row in mine]
            panel.scatter(size, [row[name] for row in mine], s=10, label=f"batch {batch}")
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set(title=name, xscale="log", yscale="log", xlabel="embedding × hidden")
        panel.minorticks_off()
        panel.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    panels_left = panels[0] if len(names) > 1 else panels
    panels_left.set_ylabel("ratio of times (below 1: our LoRA is faster)")
    panels_left.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write(rows: list[dict[str, Any]], record: dict[str, Any], folder: pathlib.Path) -> None:
    """attention_grid.csv, .json and .png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(folder / "attention_grid.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    (folder / "attention_grid.json").write_text(json.dumps(record, indent=2) + "\n")
    plot(rows, folder / "attention_grid.png")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a sample of 24 points")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds a point")
    parser.add_argument("--threads", type=int, default=1, help="threads of every competitor")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="processor: time that this process ran, for a machine shared with others; one thread",
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder for CSV, JSON and plot")
    args = parser.parse_args()
    if args.clock == "processor" and args.threads != 1:
        parser.error("--clock processor counts the waiting of idle threads: it needs --threads 1")
    return args


def main() -> None:
    args = parsed()
    timing.restart_with_threads(args.threads)
    start = time.perf_counter()
    if args.out:
        (args.out / "attention_grid.jsonl").unlink(missing_ok=True)
    rows = list(run(args))
    found = summary(rows)
    packages = {"jax", "torch"} & {m for m in ("jax", "torch") if importlib.util.find_spec(m)}
    record = timing.environment(["numpy", *sorted(packages)])
    record |= {"clock": args.clock, "rounds": args.rounds, "summary": found}
    record["seconds"] = round(time.perf_counter() - start)
    show(found)
    if args.out:
        write(rows, record, args.out)


if __name__ == "__main__":
    main()
