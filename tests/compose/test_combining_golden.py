"""Combinations and mixed batches recorded from PEFT and mergekit, read without either."""

import json
from pathlib import Path

import numpy as np
import pytest
from peft_types import combined

from lora_ref.adapters import LoRA
from lora_ref.checkpoint import SafetensorsFile
from lora_ref.compose.mixed_batch import mixed_batch
from lora_ref.compose.mixed_gather import mixed_gather
from lora_ref.compose.mixed_grouped import mixed_grouped
from lora_ref.compose.prune import drop_and_match, trim
from lora_ref.compose.task_arithmetic import weighted_mean, weighted_sum
from lora_ref.compose.ties import consensus_mean, consensus_sum
from lora_ref.testing.tolerance import assert_close

VECTORS = Path(__file__).parents[1] / "vectors"
PEFT = json.loads((VECTORS / "peft_combined.json").read_text())
MERGEKIT = json.loads((VECTORS / "mergekit_merge.json").read_text())
NAMES = ("first", "second", "third")
MIXED = (mixed_batch, mixed_gather, mixed_grouped)


class Case:
    """The arrays of one case by their names in it."""

    def __init__(self, head, source, name):
        self.facts = head["cases"][name]
        self.file, self.name = SafetensorsFile.open(VECTORS / f"{source}.safetensors"), name

    def __getitem__(self, key):
        return self.file.tensor(f"{self.name}/{key}")

    def all(self, prefix):
        return [self[key] for key in self.facts["arrays"] if key.startswith(f"{prefix}/")]

    def masks(self):
        return [mask.astype(bool) for mask in self.all("mask")]

    def parts(self):
        alphas = PEFT["config"]["alphas"]
        found = []
        for name, alpha in zip(NAMES, alphas, strict=True):
            A = self[f"{name}/A"]
            found.append(LoRA(A, self[f"{name}/B"], alpha / A.shape[0]))
        return found


@pytest.mark.parametrize("name", [name for name in PEFT["cases"] if name != "mixed"])
def test_a_combination_is_the_recorded_one(name):
    case, config = Case(PEFT, "peft_combined", name), PEFT["config"]
    settings = {"density": config["density"], "rank": config["svd_rank"]}
    settings |= {"masks": case.masks(), "elect": case.facts["elect"]}
    ours = combined(case.facts["type"], case.parts(), config["weights"], **settings)
    if "delta" in case.facts["arrays"]:
        assert_close(ours.delta(), case["delta"], "golden", "ΔW")
        return
    assert_close(ours.A, case["new/A"], "golden", "A")
    assert_close(ours.B, case["new/B"], "golden", "B")


@pytest.mark.parametrize("mixed", MIXED)
def test_a_mixed_batch_is_the_recorded_one(mixed):
    case = Case(PEFT, "peft_combined", "mixed")
    each = [NAMES.index(name) if name in NAMES else -1 for name in case.facts["chosen"]]
    x = case["x"]
    chosen = np.broadcast_to(np.array(each)[:, None], x.shape[:2])
    y, backward = mixed(x, case["W"], chosen, case.parts())
    dx, gradients = backward(case["dy"])
    assert_close(y, case["y"], "golden", "y")
    assert_close(dx, case["dx"], "golden", "dx")
    for name, gradient in zip(NAMES, gradients, strict=True):
        assert_close(gradient.A, case[f"d{name}/A"], "golden", f"dA of {name}")
        assert_close(gradient.B, case[f"d{name}/B"], "golden", f"dB of {name}")


def trimmed(case):
    return [trim(t, MERGEKIT["config"]["density"]) for t in case.all("update")]


def dropped(case):
    return [drop_and_match(t, m) for t, m in zip(case.all("update"), case.masks(), strict=True)]


MERGES = {
    "task_arithmetic": (lambda case: case.all("update"), weighted_sum, "golden"),
    "task_arithmetic-normalized": (lambda case: case.all("update"), weighted_mean, "golden"),
    "ties": (trimmed, consensus_mean, "golden"),
    "ties-unnormalized": (trimmed, consensus_sum, "golden"),
    "dare_linear": (dropped, weighted_sum, "float32"),
    "dare_ties": (dropped, consensus_sum, "float32"),
}


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_is_mergekits(name):
    case = Case(MERGEKIT, "mergekit_merge", name)
    prune, merge, kind = MERGES[name]
    found = merge(prune(case), MERGEKIT["config"]["weights"])
    assert_close(found, case["merged"], kind, name)


def test_the_rescaling_of_dare_is_mergekits_in_float64():
    case = Case(MERGEKIT, "mergekit_merge", "rescale")
    found = drop_and_match(case["update/0"], case.masks()[0])
    assert_close(found, case["merged"], "golden", "t")


def test_every_recorded_case_is_tested():
    assert {*MERGEKIT["cases"]} == {*MERGES, "rescale"}
