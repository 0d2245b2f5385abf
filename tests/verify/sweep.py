"""A long search for false alarms: honest merges of random adapters, none of which is a bug.

    python tests/verify/sweep.py [--minutes 5] [--seed 0]

Every round draws a size of the update, a shape, a rank, an alpha (also negative), a kind of
weights and a dtype, and merges in every order of `orders`. It prints what it judged and every
false alarm, and ends with status 1 if there is one.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from layouts import KINDS, LAYOUTS, of_random_sizes
from models import Case
from orders import KNOWN, UNKNOWN, Order

from lora_ref.verify import Status, Verdict, verify

SIZES = (1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.5)
DTYPES = ("bfloat16", "float16", "float32")


def judged(case: Case, order: Order, dtype: str | None) -> list[Verdict]:
    """The verdicts on the honest merge of `case`."""
    with tempfile.TemporaryDirectory() as directory:
        paths = case.write(Path(directory), case.merged(order, dtype))
        return verify(*paths).verdicts


def draw(rng: np.random.Generator) -> tuple[Case, str, str | None]:
    """A case in its dtype, what it is, and the dtype of merged if it is another."""
    size, dtype = float(rng.choice(SIZES)), str(rng.choice(DTYPES))
    if rng.random() < 0.7:
        kind = str(rng.choice(KINDS))
        case = of_random_sizes(rng, size, kind)
    else:
        kind = str(rng.choice(list(LAYOUTS)))
        case = LAYOUTS[kind](rng, size)
    to = str(rng.choice(DTYPES)) if dtype == "float32" and rng.random() < 0.5 else None
    shape = list(next(iter(case.tensors.values())).shape)
    what = (
        f"{kind} {shape} r {case.fields['r']} α {case.fields['lora_alpha']} {size:g} {dtype} {to}"
    )
    return case.cast(dtype), what, to


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    alarms, rounds, start = 0, 0, time.monotonic()
    while time.monotonic() - start < asked.minutes * 60:
        rng = np.random.default_rng([asked.seed, rounds])
        case, what, to = draw(rng)
        for order in (*KNOWN, *UNKNOWN):
            for verdict in judged(case, order, to):
                known = "" if verdict.recipe is None or "no recipe" not in verdict.recipe else "*"
                counts[verdict.status + known] += 1
                if verdict.status == Status.BUG:
                    alarms += 1
                    _say(f"\nFALSE ALARM round {rounds}, {order.__name__}, {what}: {verdict.name}: "
                         f"{verdict.text}\n")  # fmt: skip
                elif known and order in KNOWN:
                    _say(f"\nno recipe: round {rounds}, {order.__name__}, {what}\n")
        rounds += 1
        _say(f"\r{rounds} rounds, {sum(counts.values()):,} tensors, {alarms} false alarms")
    _say(f"\n{dict(counts)} (*: inside the envelope, no recipe known)\n")
    return int(alarms > 0)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
