"""Adapters that have no combination are refused, in one line that says why."""

import pytest
from combined_files import linear, made, random, three
from peft_files import P, save

from lora_ref.checkpoint import CheckpointError

Q = {"target_modules": ["q"]}
GOOD = linear("a.q", 3, (11, 7))
HEAD = {f"{P}head.weight": random(3, 7)}


@pytest.mark.parametrize(
    ("tensors", "fields", "said"),
    [
        (GOOD, {"peft_type": "LOHA"}, "peft_type must be 'LORA'"),
        (GOOD, {"use_dora": True}, "use_dora asks for DoRA"),
        (GOOD, {"init_lora_weights": "pissa"}, "converted to a plain LoRA before"),
        (GOOD, {"fan_in_fan_out": True}, "must have the fan_in_fan_out of"),
        (GOOD, {"layer_replication": [[0, 1]]}, "must have the layer_replication of"),
        (GOOD | HEAD, {"modules_to_save": ["head"]}, "1 that are not: "),
        (GOOD | {f"{P}a.q.lora_B.bias": random(11)}, {"lora_bias": True}, "a lora_bias"),
        (linear("a.q", 3, (11, 8)), Q, "of one kind and size"),
        (linear("a.q", 3, (12, 7)), Q, "of one kind and size"),
        (
            {f"{P}m.w.lora_A.weight": random(6, 7), f"{P}m.w.lora_B.weight": random(9, 6)},
            {"target_parameters": ["w.x"]},
            "a targeted parameter",
        ),
        (
            {
                f"{P}c.lora_A.weight": random(4, 4, 3, 2),
                f"{P}c.lora_B.weight": random(6, 2, 1, 1),
            },
            {"r": 4},
            "a grouped convolution",
        ),
        (
            GOOD | {f"{P}emb.token_adapter.trainable_tokens_delta": random(2, 7)},
            {"trainable_token_indices": [1, 2]},
            "no trained token rows",
        ),
    ],
)
def test_what_has_no_combination_is_refused_in_one_line(tmp_path, tensors, fields, said):
    good = save(tmp_path / "good", GOOD, **Q)
    bad = save(tmp_path / "bad", tensors, **Q | fields)
    with pytest.raises(CheckpointError) as refused:
        made([good, bad], "cat", weights=(1, 1))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("count", "weights"), [(0, ()), (2, (1,)), (1, (1, 1))])
def test_there_must_be_a_weight_for_each_adapter(tmp_path, count, weights):
    with pytest.raises(ValueError, match="one for each directory"):
        made(three(tmp_path)[:count], "cat", weights=weights)


def test_factors_that_leave_the_range_of_their_type_are_refused(tmp_path):
    large = save(tmp_path / "a", {k: 1e3 * t for k, t in GOOD.items()}, lora_alpha=1000, **Q)
    with pytest.raises(CheckpointError, match="must be finite, has NaN or infinity"):
        made([large], "cat", weights=(1000,), dtype="float16")
