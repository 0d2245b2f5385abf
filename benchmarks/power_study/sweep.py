"""The sweep: units in fair turns, over the cores, written one line a unit so that it can resume."""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .cases import DTYPES, KINDS
from .implementations_all import MODULES
from .measure import Unit, measure

Record = dict[str, Any]
TRAIN_SEEDS = 0  # the rivals' thresholds are tuned on these; nothing of ours is
SOUND_SEEDS = 5_000_000
EXACT_IN = 4  # the exact tests take one seed in so many
TRAIN_FOR_EACH = 4  # training seeds for each held-out one: more of them, higher thresholds


@dataclass(frozen=True)
class Plan:
    """How much to measure: held-out seeds first … last for the comparison, elements for alarms."""

    first: int
    last: int
    elements: float
    seconds: float
    dtypes: tuple[str, ...] = DTYPES
    modules: tuple[str, ...] = tuple(MODULES)
    processes: int = 1

    def compared(self) -> Iterator[Unit]:
        """Training and held-out seeds in turns, all kernels and dtypes of each before the next."""
        for i, seed in enumerate(range(self.first, self.last)):
            start = TRAIN_SEEDS + i * TRAIN_FOR_EACH
            for own in range(start, start + TRAIN_FOR_EACH):
                yield from self._units("train", own)
            yield from self._units("test", seed)
            if i % EXACT_IN == 0:
                yield from self._units("exact", seed)

    def sound(self) -> Iterator[Unit]:
        """Any case, without an end: the elements decide."""
        for seed in itertools.count(SOUND_SEEDS):
            yield from self._units("sound", seed)

    def _units(self, role: str, seed: int) -> Iterator[Unit]:
        modules = self.modules if role == "sound" else ()
        for dtype, kind in itertools.product(self.dtypes, KINDS):
            yield Unit(role, kind, dtype, seed, modules)


def elements_of(record: Record) -> int:
    """How many elements of correct output a record has judged."""
    return sum(run["elements"] for run in record["runs"]) if record["role"] == "sound" else 0


def sweep(plan: Plan, path: Path | None) -> list[Record]:
    """All records of the plan; those that `path` holds already are not measured again."""
    done = _read(path)
    compared = list(plan.compared())
    sound = plan.sound()
    total = sum(map(elements_of, done.values()))
    deadline = time.monotonic() + plan.seconds
    with _progress(len(compared), plan, done) as report, _pool(plan.processes) as submit:
        pending: set[Future] = set()
        queue = _in_turns([u for u in compared if u.key not in done], sound, done)
        while True:
            room = time.monotonic() < deadline
            while room and len(pending) < 2 * plan.processes:
                unit = next(queue) if total < plan.elements else _next_compared(queue)
                if unit is None:
                    break
                pending.add(submit(measure, unit))
            if not pending:
                return list(done.values())
            ready, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in ready:
                record = future.result()
                done[record["key"]] = record
                total += elements_of(record)
                if "error" not in record:  # tried again when the sweep goes on
                    _append(record, path)
                report(record, total)


def _in_turns(
    compared: list[Unit], sound: Iterable[Unit], done: dict[str, Record]
) -> Iterator[Unit]:
    """One of each by turns; what is done is left out."""
    left = iter(compared)
    for unit in sound:
        if (other := next(left, None)) is not None:
            yield other
        if unit.key not in done:
            yield unit


def _next_compared(queue: Iterator[Unit]) -> Unit | None:
    """Once there are elements enough, only the comparison goes on, until it ends too."""
    for unit in itertools.islice(queue, 2):
        if unit.role != "sound":
            return unit
    return None


def _read(path: Path | None) -> dict[str, Record]:
    """Records by key; the last line may be cut off where a run was stopped."""
    found: dict[str, Record] = {}
    if path is None or not path.exists():
        return found
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["key"]] = record
    return found


def _append(record: Record, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")


@contextmanager
def _pool(processes: int) -> Iterator[Any]:
    """A way to submit work: to processes of one thread each, or to this one."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if processes > 1:
        with ProcessPoolExecutor(processes, get_context("spawn"), _one_thread) as pool:
            yield pool.submit
        return
    _one_thread()

    def here(f: Any, *args: Any) -> Future:
        future: Future = Future()
        future.set_result(f(*args))
        return future

    yield here


def _one_thread() -> None:
    import warnings

    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="peft")


@contextmanager
def _progress(count: int, plan: Plan, done: dict[str, Record]) -> Iterator[Any]:
    """A bar of both parts on stderr, or a line now and then without rich."""
    compared = [r for r in done.values() if r["role"] != "sound"]
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield _plain_report(count)
        return
    with Progress(console=Console(stderr=True)) as bars:
        cases = bars.add_task("cases compared", total=count, completed=len(compared))
        elements = bars.add_task("correct elements", total=plan.elements)

        def report(record: Record, total: int) -> None:
            bars.advance(cases, record["role"] != "sound")
            bars.update(elements, completed=total)

        yield report


def _plain_report(count: int) -> Any:
    state = {"cases": 0}

    def report(record: Record, total: int) -> None:
        state["cases"] += record["role"] != "sound"
        if sum(record["key"].encode()) % 20 == 0:
            print(f"{state['cases']} of {count} cases, {total:,} elements", file=sys.stderr)

    return report
