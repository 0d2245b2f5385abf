"""PEFT 0.21.2 on a square Conv1D: what is opened merges as PEFT does, where no shape would tell."""

import warnings

import numpy as np
import pytest
from peft_files import adapter_of_q

from lora_ref.adapters import FanInFanOut
from lora_ref.testing.tolerance import TOLERANCE, assert_close, relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
    from transformers.pytorch_utils import Conv1D

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

Q = {"target_modules": ["q"], "fan_in_fan_out": True}
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, **Q),
    "LoRA, lora_bias": lambda: peft.LoraConfig(r=3, lora_alpha=5, lora_bias=True, **Q),
    "DoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, use_dora=True, **Q),
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=3, lora_alpha=5, total_step=30, **Q),
    "VeRA": lambda: peft.VeraConfig(r=3, **Q),
    "IA3": lambda: peft.IA3Config(feedforward_modules=[], **Q),
    "IA3, inputs": lambda: peft.IA3Config(feedforward_modules=["q"], **Q),
}


def base():
    torch.manual_seed(5)
    net = torch.nn.ModuleDict({"q": Conv1D(12, 12)}).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return net


def trained(config):
    model = peft.get_peft_model(base(), config).eval()
    torch.manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:  # PEFT's divisor, in no file
                parameter += torch.randn_like(parameter) / 3
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_opened_merges_into_a_square_weight_as_peft_does(name, tmp_path):
    model = trained(CONFIGS[name]())
    model.save_pretrained(tmp_path / "a")
    found = adapter_of_q(tmp_path / "a")
    merged = model.merge_and_unload().q
    W, W_merged = (q.weight.detach().numpy() for q in (base()["q"], merged))
    assert W.shape == (12, 12)
    assert_close(found.merge(W), W_merged, "golden", "W'")
    b, b_merged = (q.bias.detach().numpy() for q in (base()["q"], merged))
    assert_close(found.bias(b)[0], b_merged, "golden", "b'")
    # Without the wrapper it is another weight.
    assert isinstance(found, FanInFanOut)
    assert relative_error(found.inner.merge(W), np.asarray(W_merged)) > 1e3 * TOLERANCE["golden"]
