"""What the records say: rates by method, thresholds tuned in hindsight, and false alarms."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .rivals import RIVALS

Record = dict[str, Any]
OURS = {
    "certified bound": "bound",
    "bound + statistics": "statistics",
    "bound + statistics + catalogue": "catalogue",
}
GROUPS = ("gross", "subtle", "held out")
PUBLISHED = [r for r in RIVALS if not r.startswith("max")]
Flags = Callable[[Record, dict[str, Any], bool], bool]  # (case, run, forward only) -> alarm


def of_role(records: Iterable[Record], role: str, dtype: str | None = None) -> list[Record]:
    """The records of a role, and of a dtype."""
    return [r for r in records if r["role"] == role and dtype in (None, r["dtype"])]


def group_of(mutant: dict[str, Any]) -> str:
    """Which column a mutant belongs to."""
    return "held out" if mutant["held out"] else "gross" if mutant["gross"] else "subtle"


def ours(field: str) -> Flags:
    """Whether our verdict is an alarm, by this much of it."""
    return lambda case, run, forward: bool(run["forward" if forward else "all"][field])


def rival(name: str, threshold: Callable[[Record, str], float]) -> Flags:
    """Whether a rival's severity is above its threshold for any tensor."""

    def flags(case: Record, run: dict[str, Any], forward: bool) -> bool:
        shown = {n: s[name] for n, s in run["severity"].items() if n == "y" or not forward}
        return any(s > threshold(case, n) for n, s in shown.items())

    return flags


def thresholds(train: list[Record], name: str) -> tuple[dict[str, float], dict[tuple, float]]:
    """The largest finite severity of correct outputs: by dtype, and by tensor of a kernel."""
    overall: dict[str, float] = defaultdict(float)
    by_tensor: dict[tuple, float] = defaultdict(float)
    for record in train:
        for run in record["runs"]:
            for tensor, severity in run["severity"].items():
                if math.isfinite(severity[name]):
                    place = (record["dtype"], record["kind"], tensor)
                    by_tensor[place] = max(by_tensor[place], severity[name])
                    overall[record["dtype"]] = max(overall[record["dtype"]], severity[name])
    return overall, by_tensor


def methods(records: list[Record]) -> dict[str, Flags]:
    """Every row of the table."""
    train = of_role(records, "train")
    found = {f"ours: {name}": ours(field) for name, field in OURS.items()}
    found |= {name: rival(name, lambda case, tensor: 1.0) for name in PUBLISHED}
    for name in RIVALS:
        overall, by_tensor = thresholds(train, name)
        tuned = rival(name, lambda case, tensor, t=overall: t[case["dtype"]])
        found[f"{name}, tuned"] = tuned
        if name == "flash 2×/3×":
            each = by_tensor

            def per_tensor(case: Record, tensor: str, each: dict = each) -> float:
                return each[case["dtype"], case["kind"], tensor]

            found[f"{name}, tuned per tensor"] = rival(name, per_tensor)
    return found


def comparison(records: list[Record], dtype: str) -> dict[str, dict[str, tuple[int, int]]]:
    """Method -> column -> (flagged, of how many): false alarms, and each group of mutants."""
    test = of_role(records, "test", dtype)
    found = {}
    for name, flags in methods(records).items():
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for case, run, column, forward in _judged(test):
            counts[column][0] += flags(case, run, forward)
            counts[column][1] += 1
        found[name] = {column: (a, b) for column, (a, b) in counts.items()}
    return found


def _judged(test: list[Record]) -> Iterator[tuple[Record, dict[str, Any], str, bool]]:
    for case in test:
        for run in case["runs"]:
            yield case, run, "false alarms", False
        for mutant in case["mutants"]:
            group = group_of(mutant)
            yield case, mutant, group, False
            if "y" in mutant["changed"]:
                yield case, mutant, f"{group}, forward", True


def soundness(records: list[Record]) -> dict[str, Counter]:
    """dtype -> sums over all correct implementations of any case, against their own contracts."""
    found: dict[str, Counter] = defaultdict(Counter)
    for record in of_role(records, "sound"):
        sums = found[record["dtype"]]
        sums["cases"] += 1
        for run in record["runs"]:
            sums["runs"] += 1
            sums["false diagnoses"] += len(run["present"])
            for name in ("tensors", "elements", "undecidable elements", "bug", "suspect"):
                sums[name] += run[name]
            sums["undecidable tensors"] += run["undecidable"]
            sums["exact tensors"] += run["exact"]
    return found


def worst_ratios(records: list[Record]) -> dict[str, float]:
    """Kernel and dtype -> the largest error in units of its bound."""
    found: dict[str, float] = defaultdict(float)
    for record in of_role(records, "sound"):
        place = f"{record['kind']} {record['dtype']}"
        found[place] = max([found[place], *(run["worst ratio"] for run in record["runs"])])
    return dict(found)


def alarms(records: list[Record]) -> list[str]:
    """Every false alarm, by the key of its case and its implementation: to run again."""
    found = []
    for record in records:
        for run in record["runs"]:
            if record["role"] == "sound" and (run["bug"] or run["suspect"]):
                what = "bug" if run["bug"] else "suspect"
                found.append(
                    f"{record['key']} ({record['regime']}) {run['implementation']}: {what}"
                )
            if record["role"] == "test" and run["all"]["catalogue"]:
                named = ", ".join(run["all"]["present"])
                text = f"{run['all']['status']} {named}".strip()
                found.append(
                    f"{record['key']} ({record['regime']}) {run['implementation']}: {text}"
                )
    return found


def diagnoses(records: list[Record], dtype: str) -> dict[str, Counter]:
    """all and forward -> how often the diagnosis was right, akin, wrong or left open.

    Of mutants that the catalogue has; "false" counts a name given to one that it has not, and to
    correct outputs.
    """
    found = {"all": Counter(), "forward": Counter()}
    for case in of_role(records, "test", dtype):
        for run in case["runs"]:
            for part in found:
                found[part]["false"] += bool(run[part]["present"])
                found[part]["correct runs"] += 1
        for mutant in case["mutants"]:
            for part in ("all", "forward"):
                if part in mutant:
                    found[part][_diagnosed(mutant, mutant[part]["diagnosis"])] += 1
    return found


def tier_zero(records: list[Record], dtype: str) -> dict[str, Any]:
    """False alarms of the exact tests, what they saw of each group, and what they did not."""
    counts: dict[str, list[int]] = {name: [0, 0] for name in ("false alarms", *GROUPS)}
    missed: Counter = Counter()
    for case in of_role(records, "exact", dtype):
        for run in case["runs"]:
            counts["false alarms"][0] += bool(run["failures"])
            counts["false alarms"][1] += 1
        for mutant in case["mutants"]:
            group = group_of(mutant)
            counts[group][0] += mutant["seen"]
            counts[group][1] += 1
            if not mutant["seen"]:
                missed[f"{case['kind']}: {mutant['mutant']}"] += 1
    return {"counts": counts, "missed": dict(missed)}


def _diagnosed(mutant: dict[str, Any], diagnosis: str) -> str:
    if mutant["catalogued"]:
        return diagnosis
    named = {"wrong": "misnamed", "akin": "akin"}
    return f"not in the catalogue: {named.get(diagnosis, 'not named')}"


def by_mutant(records: list[Record], dtype: str) -> dict[str, dict[str, Any]]:
    """Mutant -> group, how many were seen with all outputs and in the forward, and diagnosed."""
    found: dict[str, dict[str, Any]] = {}
    for case in of_role(records, "test", dtype):
        for mutant in case["mutants"]:
            row = found.setdefault(mutant["mutant"], {"group": group_of(mutant), "missed in": []})
            for part in ("all", "forward"):
                if part in mutant:
                    seen, of = row.get(part, (0, 0))
                    row[part] = (seen + mutant[part]["catalogue"], of + 1)
            right, of = row.get("diagnosis", (0, 0))
            row["diagnosis"] = (right + (mutant["all"]["diagnosis"] == "right"), of + 1)
            if not mutant["all"]["catalogue"]:
                row["missed in"].append(f"{case['kind']} {case['regime']} {case['seed']}")
    return found
