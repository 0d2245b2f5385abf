"""PEFT runs what a generator wrote, as a plain LoRA."""

import warnings

import numpy as np
import pytest

from lora_ref.adapters import HyperLoRA
from lora_ref.adapters.generators import TextGenerator, UserEmbedding
from lora_ref.adapters.hyperlora import adapters_of
from lora_ref.checkpoint.peft import write_adapter
from lora_ref.checkpoint.peft_config import LoraConfig
from lora_ref.checkpoint.peft_convert import from_lora
from lora_ref.testing.generator_examples import generator_example
from lora_ref.testing.tolerance import assert_close

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def test_peft_gives_the_numbers_of_the_generated_adapters(rng, tmp_path):
    """Two kinds of modules, (7, 11) and (11, 7), at one depth."""
    generator, c, _ = generator_example(TextGenerator, rng)
    condition, kinds = UserEmbedding(c), {"up": (2, 0), "down": (2, 1)}
    loras, _ = adapters_of(generator, condition, [*kinds.values()], 5 / 3)
    config = LoraConfig.from_fields(
        {"peft_type": "LORA", "r": 3, "lora_alpha": 5, "target_modules": [*kinds]}
    )
    write_adapter(tmp_path / "a", from_lora(dict(zip(kinds, loras, strict=True)), config))

    layers = {"up": torch.nn.Linear(7, 11, bias=False), "down": torch.nn.Linear(11, 7, bias=False)}
    base = torch.nn.Sequential()
    for name, layer in layers.items():
        base.add_module(name, layer.double())
    weights = {name: layer.weight.detach().numpy() for name, layer in layers.items()}
    h = x = rng.standard_normal((4, 7))
    for name, at in kinds.items():
        h = HyperLoRA(generator, condition, at, 5 / 3).apply(h, weights[name])[0]
    model = peft.PeftModel.from_pretrained(base, tmp_path / "a", autocast_adapter_dtype=False)
    theirs = model.eval()(torch.tensor(x)).detach().numpy()
    assert theirs.dtype == np.float64
    assert_close(theirs, h, "golden", "y")
