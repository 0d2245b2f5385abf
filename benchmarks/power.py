"""How much the verdict sees, and how seldom it is wrong: the power of the method, measured.

    python benchmarks/power.py --quick                       a sample, within two minutes
    python benchmarks/power.py --out DIR --processes 2       the whole table: JSON, Markdown, plot

Correct implementations (PyTorch, PEFT, JAX, emulated hardware) of LoRA, its merge, DoRA and
attention on random cases must raise no alarm; wrong ones should, and be called by their name. Other
methods judge the same tensors, with their thresholds as published and tuned in hindsight to zero
false alarms on training seeds. A run that was stopped goes on where it was: give it the same DIR.
Needs the [peers] and [cli,plot] extras.
"""

import argparse
import datetime
import importlib.util
import json
import pathlib
import sys
import time

import timing
from power_study.cases import DTYPES
from power_study.implementations_all import MODULES
from power_study.report import markdown, plot
from power_study.sweep import Plan, sweep
from power_study.tables import by_mutant, comparison, diagnoses, soundness, tier_zero, worst_ratios

PACKAGES = ("numpy", "ml_dtypes", "torch", "peft", "jax")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a sample within two minutes")
    parser.add_argument(
        "--seeds",
        nargs=2,
        type=int,
        metavar=("FIRST", "LAST"),
        default=(10_000, 10_020),
        help="held-out seeds on which the methods are compared, LAST not included",
    )
    parser.add_argument("--elements", type=float, default=250e6, help="of correct output, at least")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--processes", type=int, default=1, help="of one thread each")
    parser.add_argument("--out", type=pathlib.Path, help="folder for JSON, Markdown and plot")
    return parser.parse_args()


def planned(args: argparse.Namespace) -> Plan:
    """What to measure; `--quick` leaves out what takes long to start."""
    dtypes = tuple(args.dtypes)
    if args.quick:
        quick = tuple(name for name in MODULES if not name.endswith(("jax", "peft")))
        first = args.seeds[0]
        return Plan(first, first + 2, 10e6, 40, dtypes, quick, args.processes)
    return Plan(*args.seeds, args.elements, 60 * args.minutes, dtypes, processes=args.processes)


def summary(records: list[dict], dtypes: tuple[str, ...]) -> dict:
    """The figures of all tables."""
    return {
        "soundness": soundness(records),
        "worst ratio": worst_ratios(records),
        "methods": {dtype: comparison(records, dtype) for dtype in dtypes},
        "exact tests": {dtype: tier_zero(records, dtype) for dtype in dtypes},
        "diagnoses": {dtype: diagnoses(records, dtype) for dtype in dtypes},
        "mutants": {dtype: by_mutant(records, dtype) for dtype in dtypes},
    }


def main() -> None:
    args = parsed()
    start = time.perf_counter()
    plan = planned(args)
    records = sweep(plan, args.out and args.out / "power.jsonl")
    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
    record = {
        "command": " ".join(["python", "benchmarks/power.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - start),
        "environment": timing.environment(installed),
    }
    text = markdown(records, plan.dtypes, record)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "power.md").write_text(text)
        found = record | summary(records, plan.dtypes)
        (args.out / "power.json").write_text(json.dumps(found, indent=1) + "\n")
        plot(records, plan.dtypes, args.out / "power.png")


if __name__ == "__main__":
    main()
