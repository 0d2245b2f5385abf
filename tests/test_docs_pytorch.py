"""The blocks in PyTorch of the pages run, and notice a wrong kernel."""

import re
from pathlib import Path

import pytest

from lora_ref.testing import Mismatch

pytestmark = pytest.mark.peers

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"<!-- pytorch: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
BLOCKS = dict(BLOCK.findall((DOCS / "verdict.md").read_text("utf-8")))
[(_, CASES)] = BLOCK.findall((DOCS / "testing.md").read_text("utf-8"))


@pytest.fixture(autouse=True)
def _torch():
    pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")


def run_until(last, scope):
    """Every block up to one, in their order: later ones use the arrays of the first."""
    for name, code in BLOCKS.items():
        exec(code, scope)
        if name == last:
            return


@pytest.mark.parametrize("name", ["gradients", "dora", "attention", "merge", "autocast"])
def test_a_block_runs_after_those_before_it(name):
    run_until(name, {})


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("gradients", '"dA": A.grad', '"dA": 2 * A.grad'),
        ("dora", "dim=1)\ny", "dim=1) * 1.5\ny"),
        ("attention", "is_causal=True", "is_causal=False"),
        ("merge", "0.5 * (B @ A)", "0.25 * (B @ A)"),
        ("autocast", "0.5 * (x @", "1.0 * (x @"),
    ],
)
def test_a_block_with_a_mistake_fails(name, right, wrong):
    scope = {}
    run_until("gradients", scope)
    assert right in BLOCKS[name]
    with pytest.raises(Mismatch):
        exec(BLOCKS[name].replace(right, wrong), scope)


def test_the_block_of_whole_cases_runs():
    scope = {}
    exec(CASES, scope)
    scope["test_kernel"]()
