"""What the benchmarks share: equal threads for all, fair turns, and what the machine was.

Two libraries that are timed in one process disturb each other: the threads of OpenBLAS and of
OpenMP spin for some milliseconds after a call and steal the cores of whoever comes next. So a
competitor's turn begins with a pause and one untimed call; turns alternate, forwards in one round
and backwards in the next; and a ratio is taken inside a round, between neighbours in time.
"""

import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Step = Callable[[], Any]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# glibc's allocator then keeps what is freed, so that no timed call pays for fresh pages again.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_MAX_": "0"}


def restart_with_threads(count: int, variables: Mapping[str, str] | None = None) -> None:
    """Run this script again on `count` cores, unless it already does; does not return if so.

    Libraries size their thread pools when they are loaded: BLAS and OpenMP by the environment,
    XLA by the cores that the process may run on. Both outlive an exec. So do other `variables`.
    """
    wanted = dict.fromkeys(_THREAD_VARIABLES, str(count)) | dict(variables or {})
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ.update(wanted)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def turn(step: Step, pause: float, least: float, clock: Callable[[], float]) -> float:
    """Seconds of one call: the median over `least` seconds of calls, after an untimed one."""
    time.sleep(pause)
    step()
    times: list[float] = []
    while not times or sum(times) < least:
        start = clock()
        step()
        times.append(clock() - start)
    return statistics.median(times)


def rounds(
    steps: dict[str, Step],
    count: int,
    pause: float = 0.03,
    least: float = 0.01,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, float]]:
    """`count` rounds of one turn each, as seconds by name."""
    for step in steps.values():
        step()
    order = list(steps)
    found = []
    for _ in range(count):
        found.append({name: turn(steps[name], pause, least, clock) for name in order})
        order.reverse()
    return found


def median_ratio(found: list[dict[str, float]], a: str, b: str) -> float:
    """The median over the rounds of (time of a) / (time of b)."""
    return statistics.median(one[a] / one[b] for one in found)


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm, the mean that treats a ratio and its inverse alike."""
    return statistics.geometric_mean(values)


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """Versions, cores and threads: what a figure means nothing without."""
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "blas": f"{blas['name']} {blas['version']}",
        **{name: importlib.metadata.version(name) for name in packages},
    }
