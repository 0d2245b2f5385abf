"""Adapters that started elsewhere: PEFT's files are read, and ours are loaded by PEFT."""

import copy

import numpy as np
import pytest

from lora_ref.adapters import LoRA
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_config import LoraConfig
from lora_ref.checkpoint.peft_convert import from_lora, to_lora
from lora_ref.init import adjusted_alpha, mica, plain_lora
from lora_ref.testing.tolerance import relative_error

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
from peft_layers import CASES, adapted, inside, layer, lora_of, numpy_of, prepared  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
BASE_CHANGING = ["pissa", "olora", "corda_ipm", "lora_ga"]


def trained(model, rng):
    """The start, and the adapter after something that stands for training."""
    start = lora_of(model)
    with torch.no_grad():
        for factor in (inside(model).lora_A, inside(model).lora_B):
            weight = factor["default"].weight
            weight += torch.tensor(rng.standard_normal(weight.shape), dtype=weight.dtype)
    return start, lora_of(model)


def saved_start(model, directory):
    """The adapter before training, saved the way that PEFT's conversion wants it."""
    config = model.peft_config["default"]
    kept = config.init_lora_weights
    config.init_lora_weights = True
    model.save_pretrained(directory)
    config.init_lora_weights = kept


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", BASE_CHANGING)
def test_the_plain_lora_is_the_one_that_peft_saves(name, rslora, rng, tmp_path):
    net, config = prepared(name, layer(rng), rng)
    config.use_rslora = rslora
    model = peft.get_peft_model(net, config)
    saved_start(model, tmp_path / "start")
    start, now = trained(model, rng)
    model.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    [module] = PeftAdapter.open(tmp_path / "plain").modules
    theirs, ours = to_lora(module), plain_lora(now, start)
    assert theirs.scale == pytest.approx(ours.scale, rel=1e-15)
    assert np.array_equal(theirs.A, ours.A)
    assert np.array_equal(theirs.B, ours.B)


@pytest.mark.parametrize("name", BASE_CHANGING)
def test_peft_loads_our_plain_lora_on_the_weight_before(name, rng, tmp_path):
    net = layer(rng)
    model = adapted(name, net, rng)
    start, now = trained(model, rng)
    plain = plain_lora(now, start)
    config = LoraConfig.from_fields(
        {"peft_type": "LORA", "r": 6, "lora_alpha": 10, "target_modules": ["layer"]}
    )
    write_adapter(tmp_path, from_lora({"layer": plain}, config))
    again = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path)
    x = torch.tensor(rng.standard_normal((5, 7)), dtype=torch.float32)
    assert relative_error(inside(again)(x), inside(model)(x)) < 1e-5


@pytest.mark.parametrize("name", [*BASE_CHANGING, "pissa_niter_4", "orthogonal", "mica"])
def test_what_peft_saves_is_read_with_its_factors_and_its_start(name, rng, tmp_path):
    model = adapted(name, layer(rng), rng)
    _, now = trained(model, rng)
    model.save_pretrained(tmp_path)
    adapter = PeftAdapter.open(tmp_path)
    [module] = adapter.modules
    found = to_lora(module)
    assert np.array_equal(found.A, now.A)
    assert np.array_equal(found.B, now.B)
    assert found.scale == now.scale
    assert adapter.config.init_lora_weights == CASES[name].init


def test_peft_loads_our_mica_and_keeps_B_frozen(rng, tmp_path):
    net = layer(rng)
    W = numpy_of(net["layer"].weight)
    start, _ = mica(W, 3, 5 / 3)
    lora = LoRA(rng.standard_normal((3, 7)).astype(np.float32), start.B, start.scale)
    fields = {"peft_type": "LORA", "r": 3, "lora_alpha": 5, "target_modules": ["layer"]}
    config = LoraConfig.from_fields({**fields, "init_lora_weights": "mica"})
    write_adapter(tmp_path, from_lora({"layer": lora}, config))
    model = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path, is_trainable=True)
    theirs = lora_of(model)
    assert np.array_equal(theirs.A, lora.A)
    assert np.array_equal(theirs.B, lora.B)
    assert not inside(model).lora_B["default"].weight.requires_grad


def test_ranks_that_eva_has_moved_are_read_with_the_scale_they_had(rng, tmp_path):
    """PEFT writes the new ranks to rank_pattern and α r_new / r to alpha_pattern."""
    from peft.tuners.lora.eva import initialize_lora_eva_weights

    net = torch.nn.Sequential(torch.nn.Linear(7, 6, bias=False), torch.nn.Linear(6, 5, bias=False))
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=["0", "1"],
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=2.0),
    )
    model = peft.get_peft_model(net, config)
    x = torch.tensor(rng.standard_normal((50, 7)) * 0.3 ** np.arange(7)).float()
    states = {
        "base_model.model.0": torch.tensor(np.eye(7)[:1]).float(),
        "base_model.model.1": torch.tensor(np.eye(6)[:3]).float(),
    }
    initialize_lora_eva_weights(model, eva_state_dict=dict(states))
    model.save_pretrained(tmp_path)
    read = {module.path: to_lora(module) for module in PeftAdapter.open(tmp_path).modules}
    assert {path: lora.A.shape[0] for path, lora in read.items()} == {"0": 1, "1": 3}
    for path, rank in (("0", 1), ("1", 3)):
        assert read[path].scale == adjusted_alpha(5, 2, rank) / rank == 5 / 2
    base = torch.nn.Sequential(*(m.base_layer for m in model.base_model.model))
    assert relative_error(model(x), base(x)) == 0
