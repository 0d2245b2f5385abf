"""Judging holds at most three times the largest tensor, whatever the verdict."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import Case

SHAPE = (4096, 4096)  # 32 MiB in bfloat16
CHILD = """
import sys
import numpy as np, scipy.optimize
from lora_ref.verify import verify

def held(what):
    return int(open("/proc/self/status").read().split(what)[1].split()[0]) << 10

np.ones((300, 300)) @ np.ones((300, 300))
np.linalg.svd(np.ones((9, 9)))
before = held("VmRSS:")
report = verify(*sys.argv[1:])
print(held("VmHWM:") - before, report.verdicts[0].status)
"""


def scaled(W: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return W + 2 * delta


def right(W: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return W + delta


def unexplained(W: np.ndarray, delta: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(W.shape[1]).astype("f4")
    return W + delta + W.std() * np.outer(np.sin(W[:, 0] * 1e4), noise) * np.sign(W)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize(
    ("merge", "status"), [(right, "rounding"), (scaled, "bug"), (unexplained, "bug")]
)
def test_a_large_tensor_takes_at_most_three_times_its_size(tmp_path, merge, status):
    rng = np.random.default_rng(0)
    case = Case(fields={"r": 4, "lora_alpha": 6}, size=0.02)
    case.weight(rng, "q.weight", SHAPE)
    case.adapt(rng, "q", 4, 6)
    case = case.cast("bfloat16")
    W = case.tensors["q.weight"]
    value = merge(W.astype("f4"), case.targets["q.weight"].delta()).astype(W.dtype)
    paths = case.write(tmp_path, {"q.weight": value})
    # VmHWM of a fresh process: ru_maxrss would begin at this one's.
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, check=True
    )
    peak, found = done.stdout.split()
    assert found == status
    assert int(peak) <= 3 * W.nbytes
