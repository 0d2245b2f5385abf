"""What PEFT 0.21.2 itself computes, writes and reads with its methods other than LoRA."""

import importlib.util
import json
import warnings
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft_files import content
from tuner_records import adapters_for, check

from lora_ref.checkpoint.peft import write_adapter
from lora_ref.checkpoint.tuners import TUNERS, from_adapters, open_adapter
from lora_ref.layers.linear import adapted_linear
from lora_ref.testing.tolerance import TOLERANCE, relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
    path = Path(__file__).parents[1] / "vectors" / "generate" / "peft_tuner_cases.py"
    spec = importlib.util.spec_from_file_location("peft_tuner_cases", path)
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

Saved = namedtuple("Saved", "case model directory")


@pytest.fixture(params=cases.CASES)
def saved(request, tmp_path):
    """The adapter of a case, saved by PEFT."""
    return made(cases.CASES[request.param], tmp_path)


def made(case, tmp_path):
    model = case.model()
    model.save_pretrained(tmp_path / "theirs")
    return Saved(case, model, tmp_path / "theirs")


def config_of(saved):
    return json.loads((saved.directory / "adapter_config.json").read_text())


def x_of(case):
    return torch.linspace(-1, 1, 3 * case.sizes[0]).reshape(3, -1).double()


def outputs(case, model):
    with torch.no_grad():
        return model(x_of(case))


def ours(saved, read):
    """The output of both layers by this library."""
    base = {name: t.numpy() for name, t in saved.case.base().state_dict().items()}
    found = adapters_for(read, saved.case.is_turned)
    h, _ = adapted_linear(x_of(saved.case).numpy(), base["q.weight"], found["q"], base["q.bias"])
    return adapted_linear(h, base["v.weight"], found["v"])[0]


def test_values_and_gradients_are_those_of_peft(saved, tmp_path):
    arrays = {name: t.numpy() for name, t in cases.run(saved.case, saved.model).items()}
    check(arrays, config_of(saved), saved.case.is_turned, tmp_path / "a")


def test_pefts_file_is_read_as_the_adapter_that_peft_runs(saved):
    y = ours(saved, open_adapter(saved.directory))
    assert relative_error(y, outputs(saved.case, saved.model).numpy()) <= TOLERANCE["golden"]


def test_pefts_file_is_written_back_to_the_byte(saved, tmp_path):
    write_adapter(tmp_path / "ours", open_adapter(saved.directory))
    theirs = content(saved.directory)
    assert content(tmp_path / "ours").items() <= theirs.items()
    assert {*theirs} - {"README.md"} == {*content(tmp_path / "ours")}


def test_peft_loads_what_we_lay_out_and_computes_the_same(saved, tmp_path):
    read = open_adapter(saved.directory)
    write_adapter(tmp_path / "ours", from_adapters(read.adapters, read.config.raw, read.tuner))
    loaded = peft.PeftModel.from_pretrained(saved.case.base(), tmp_path / "ours").eval()
    assert torch.equal(outputs(saved.case, loaded), outputs(saved.case, saved.model))


def test_peft_finds_the_modules_of_a_file_that_was_told_of_none(saved, tmp_path):
    read = open_adapter(saved.directory)
    left_out = ("target_modules", "feedforward_modules")
    fields = {name: value for name, value in read.config.raw.items() if name not in left_out}
    write_adapter(tmp_path / "ours", from_adapters(read.adapters, fields, read.tuner))
    loaded = peft.PeftModel.from_pretrained(saved.case.base(), tmp_path / "ours").eval()
    assert torch.equal(outputs(saved.case, loaded), outputs(saved.case, saved.model))


@pytest.mark.parametrize("given", [("target_modules",), ("feedforward_modules",)])
def test_peft_finds_both_kinds_of_modules_of_ia3_by_either_list(given, tmp_path):
    case = cases.CASES["ia3"]
    both = {"target_modules": ["q", "v"], "feedforward_modules": ["v"]}
    saved = made(replace(case, config={**case.config, **both}), tmp_path)
    read = open_adapter(saved.directory)
    assert len({*map(type, read.adapters.values())}) == 2
    lists = ("target_modules", "feedforward_modules")
    kept = {n: v for n, v in read.config.raw.items() if n in given or n not in lists}
    write_adapter(tmp_path / "ours", from_adapters(read.adapters, kept, read.tuner))
    loaded = peft.PeftModel.from_pretrained(saved.case.base(), tmp_path / "ours").eval()
    assert torch.equal(outputs(saved.case, loaded), outputs(saved.case, saved.model))


@pytest.mark.parametrize("peft_type", TUNERS)
def test_our_defaults_are_pefts(peft_type):
    kinds = {"LOHA": "LoHa", "IA3": "IA3", "LOKR": "LoKr", "VERA": "Vera", "MISS": "Miss"}
    theirs = getattr(peft, f"{kinds.get(peft_type, peft_type)}Config")()
    for name, field in TUNERS[peft_type].fields.items():
        if name != "feedforward_modules":  # null, until PEFT knows the model
            assert getattr(theirs, name) == field.default


@pytest.mark.parametrize("name", ["vera", "miss", "oft"])
@pytest.mark.parametrize("bias", ["only", "all"])
def test_biases_and_saved_modules_are_accounted_for(name, bias, tmp_path):
    case = cases.CASES[name]
    tuner = TUNERS[name.upper()]
    fields = {"bias": tuner.only if bias == "only" else bias, "target_modules": ["q"]}
    fields |= {"modules_to_save": ["v"]}
    saved = made(replace(case, config={**case.config, **fields}), tmp_path)
    read = open_adapter(saved.directory)
    assert {*read.replaced} == {"q.bias", "v.weight"}
    assert np.array_equal(
        read.replaced["q.bias"], saved.model.base_model.model.q.base_layer.bias.detach().numpy()
    )
    again = from_adapters(read.adapters, read.config.raw, tuner, replaced=read.replaced)
    write_adapter(tmp_path / "ours", again)
    loaded = peft.PeftModel.from_pretrained(saved.case.base(), tmp_path / "ours").eval()
    assert torch.equal(outputs(case, loaded), outputs(case, saved.model))


# Where PEFT departs from the mathematics: docs/divergences.md.


def test_peft_rounds_the_scale_of_loha_to_float32():
    case = cases.CASES["loha"]
    model = case.model()
    layer = model.base_model.model.q
    factors = [getattr(layer, f"hada_w{i}")["default"] for i in ("1_a", "1_b", "2_a", "2_b")]
    B1, A1, B2, A2 = (t.detach().numpy() for t in factors)
    delta = layer.get_delta_weight("default").detach().numpy()
    product = (B1 @ A1) * (B2 @ A2)
    assert relative_error(delta, float(np.float32(5 / 3)) * product) < TOLERANCE["libraries"]
    assert 1e-8 < relative_error(delta, 5 / 3 * product) < 1e-7


def rotation(q, **options):
    from peft.tuners.oft.layer import OFTRotationModule

    module = OFTRotationModule(1, q.shape[1], 4, 4, **options).double()
    module.weight.data = torch.tensor(q)
    return module.get_weight().detach().numpy()


def test_pefts_exact_rotation_is_the_inverse_of_its_series(rng):
    q = 1e-3 * rng.standard_normal((1, 6))
    series, exact = rotation(q), rotation(q, use_cayley_neumann=False)
    assert relative_error(exact, series.T) < 1e-9
    assert relative_error(exact, series) > 1e-3


def test_pefts_series_of_three_terms_is_that_of_four(rng):
    q = rng.standard_normal((1, 6))
    three, four = (rotation(q, num_cayley_neumann_terms=n) for n in (3, 4))
    assert np.array_equal(three, four)


def test_pefts_series_of_two_terms_is_not_that_of_the_cayley_map(rng):
    q = rng.standard_normal((1, 6))
    Q = rotation(q, num_cayley_neumann_terms=2) - np.eye(4)
    assert relative_error(Q[0, 1:], 2 * q[0, :3]) < TOLERANCE["libraries"]


def test_pefts_unmerge_of_ia3_is_not_the_inverse_of_its_merge():
    model = cases.CASES["ia3"].model()
    layer = model.base_model.model.v
    layer.ia3_l["default"].data[:] = 1e-6
    W = layer.base_layer.weight.detach().clone().numpy()
    layer.merge()
    layer.unmerge()
    back = layer.base_layer.weight.detach().numpy()
    assert relative_error(back, W / (1 + 1e-2)) < 1e-9


def test_pefts_unmerge_of_oft_inverts_in_float32():
    layer = cases.CASES["oft_exact"].model().base_model.model.q
    W = layer.base_layer.weight.detach().clone().numpy()
    layer.merge()
    layer.unmerge()
    assert 1e-9 < relative_error(layer.base_layer.weight.detach().numpy(), W) < 1e-6


def test_pefts_module_dropout_of_oft_does_nothing():
    case = cases.CASES["oft"]
    model = replace(case, config={**case.config, "module_dropout": 0.9}).model()
    evaluated = outputs(case, model)
    assert torch.equal(outputs(case, model.train()), evaluated)


def test_pefts_rank_dropout_of_loha_gives_nan_when_it_drops_every_row():
    case = cases.CASES["loha"]
    model = replace(case, config={**case.config, "rank_dropout": 0.999}).model().train()
    assert torch.isnan(outputs(case, model)).any()


def test_pefts_constrained_oft_writes_its_parameter_in_the_forward():
    case = cases.CASES["oft"]
    model = replace(case, config={**case.config, "coft": True}).model()
    q = model.base_model.model.q.oft_R["default"].weight
    before = q.detach().clone()
    outputs(case, model)
    assert torch.norm(q.detach()) < 1e-3 * torch.norm(before)
