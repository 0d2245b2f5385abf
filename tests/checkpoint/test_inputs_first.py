"""Adapters of weights that the base stores inputs first: what is written is opened as it was."""

import json

import numpy as np
import pytest
from peft_files import adapter_of_q, save, values

from lora_ref.adapters import IA3, AdaLoRA, DoRA, FanInFanOut, LoHa, LoRA, VeRA
from lora_ref.adapters.adalora import peft_scaling
from lora_ref.adapters.embedding import EmbeddingLoRA
from lora_ref.checkpoint.peft import write_adapter
from lora_ref.checkpoint.peft_adalora import from_adalora
from lora_ref.checkpoint.peft_config import LoraConfig
from lora_ref.checkpoint.peft_convert import from_lora, to_lora
from lora_ref.checkpoint.peft_dora import from_dora
from lora_ref.checkpoint.tuners import TUNERS, from_adapters, open_adapter
from lora_ref.checkpoint.tuners.vera import of_inputs
from lora_ref.testing.tolerance import assert_close

A, B, SCALE = values(3, 7, dtype="float64"), values(7, 3, dtype="float64"), 5 / 3
FIELDS = {"r": 3, "lora_alpha": 5}
ADALORA = {"init_r": 3, "lora_alpha": 5, "total_step": 9}


def lora(adapter, **fields):
    return from_lora({"q": adapter}, LoraConfig.from_fields({**FIELDS, **fields}))


def dora(adapter, **fields):
    return from_dora({"q": adapter}, {**FIELDS, **fields})


def adalora(adapter, **fields):
    return from_adalora({"q": adapter}, {**ADALORA, **fields})


def vera(adapter, **fields):
    return from_adapters({"q": adapter}, {"r": 3, **fields}, TUNERS["VERA"])


def ia3(adapter, **fields):
    return from_adapters({"q": adapter}, fields, TUNERS["IA3"])


# For a square weight, where nothing but the numbers tells: an adapter, and how it is laid out.
METHODS = {
    "LoRA": (LoRA(A, B, SCALE), lora),
    "DoRA": (DoRA(A, B, values(7, dtype="float64") + 2, SCALE, detach_norm=True), dora),
    "AdaLoRA": (AdaLoRA(B, values(3, dtype="float64"), A, peft_scaling(5, 3)), adalora),
    "VeRA": (VeRA(values(7, dtype="float64"), values(3, dtype="float64"), A, B), vera),
    "IA3": (IA3(values(7, dtype="float64")), ia3),
}


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.mark.parametrize("inputs_first", [False, True])
def test_what_is_written_is_opened_for_weights_stored_the_same_way(method, inputs_first, tmp_path):
    adapter, lay_out = method
    given = FanInFanOut(adapter) if inputs_first else adapter
    write_adapter(tmp_path / "a", lay_out(given, fan_in_fan_out=inputs_first))
    fields = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert fields["fan_in_fan_out"] is inputs_first
    W = values(7, 7, dtype="float64") + np.eye(7)
    found = adapter_of_q(tmp_path / "a")
    assert isinstance(found, FanInFanOut) == inputs_first
    assert_close(found.merge(W), given.merge(W), "identical", "W'")


@pytest.mark.parametrize("inputs_first", [False, True])
def test_an_adapter_that_would_come_back_the_other_way_is_refused(method, inputs_first):
    adapter, lay_out = method
    given = adapter if inputs_first else FanInFanOut(adapter)
    need = "in" if inputs_first else "without"
    with pytest.raises(ValueError, match=f"adapter at q must be {need} FanInFanOut, as fan_in_fan"):
        lay_out(given, fan_in_fan_out=inputs_first)


def test_a_method_that_peft_does_not_put_on_such_layers_takes_no_wrapper():
    loha = FanInFanOut(LoHa(A, B, A, B, 5 / 3))
    with pytest.raises(ValueError, match="must be without FanInFanOut"):
        from_adapters({"q": loha}, {"r": 3, "alpha": 5}, TUNERS["LOHA"])


def test_an_embedding_has_one_orientation_whatever_the_flag(tmp_path):
    adapter = EmbeddingLoRA(values(3, 13), values(7, 3), SCALE)
    made = lora(adapter, fan_in_fan_out=True)
    assert isinstance(to_lora(made.modules[0]), EmbeddingLoRA)
    with pytest.raises(ValueError, match="must be without FanInFanOut"):
        lora(FanInFanOut(adapter), fan_in_fan_out=True)


def test_the_columns_of_a_turned_vera_are_taken_inside(tmp_path):
    adapter = of_inputs(FanInFanOut(METHODS["VeRA"][0]), 5)
    assert isinstance(adapter, FanInFanOut)
    assert np.array_equal(adapter.inner.A, A[:, :5])


@pytest.mark.parametrize("flag", ["true", 1, None])
def test_a_flag_that_is_none_is_refused(flag, tmp_path):
    tensors = {"base_model.model.q.ia3_l": values(7, 1)}
    with pytest.raises(ValueError, match="fan_in_fan_out must be true or false"):
        open_adapter(save(tmp_path / "a", tensors, peft_type="IA3", fan_in_fan_out=flag))
