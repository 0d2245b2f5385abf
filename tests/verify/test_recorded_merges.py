"""PEFT's merges, recorded bit by bit, are what the recipes say, without PEFT at test time."""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_ref.adapters.lora import scaling, stabilised_scaling
from lora_ref.checkpoint import SafetensorsFile
from lora_ref.verdict.grids import grid_of
from lora_ref.verify.fit import fit
from lora_ref.verify.measure import Pair
from lora_ref.verify.updates import Conventions, LowRank, Part

VECTORS = Path(__file__).parents[1] / "vectors"
RECORD = json.loads((VECTORS / "peft_merge.json").read_text())
RANK, ALPHA = RECORD["config"]["r"], RECORD["config"]["lora_alpha"]


def parts_of(kind, tensor, shape):
    """The factors of one recorded layer, in the form of an update."""
    find = {"linear": "dense.lora_{}.weight", "embedding": "embed.lora_embedding_{}",
            "experts": "experts.lora_{}.weight"}  # fmt: skip
    name = find[kind.removesuffix("_rslora")]
    A, B = (tensor(f"adapter/base_model.model.{name.format(f)}").astype(float) for f in "AB")
    if kind == "embedding":
        return shape, (Part(0, A.T, B.T),)
    if kind != "experts":
        return shape, (Part(0, B, A),)
    E, m, n = shape
    A, B = A.reshape(E, RANK, n), B.reshape(m, RANK, E).transpose(2, 0, 1)
    return (E * m, n), tuple(Part(e * m, B[e], A[e]) for e in range(E))


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["name"])
def test_a_recorded_merge_is_reproduced_bit_for_bit(case):
    tensor = SafetensorsFile.open(VECTORS / "peft_merge.safetensors").tensor
    name = case["arrays"][0]
    merged, base = tensor(f"{case['name']}/{name}"), tensor(f"base/{name}")
    base = base.astype(merged.dtype)  # PEFT merges into a base that was loaded in that dtype
    shape, parts = parts_of(case["name"].split("-")[0], tensor, base.shape)
    scale = (stabilised_scaling if case["use_rslora"] else scaling)(ALPHA, RANK)
    conventions = Conventions(ALPHA, RANK, case["use_rslora"], ALPHA, RANK)
    update = LowRank(name, name, shape, parts, scale, conventions)
    grid = grid_of(merged.dtype)
    pair = Pair(base.reshape(shape), merged.reshape(shape), grid, grid)
    best = fit(pair, update, np.random.default_rng(0))
    assert best is not None
    assert best.is_bitwise
