"""AdaLoRA's allocation against PEFT's own, step by step, on a small model that is trained."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")

from adalora_toys import (  # noqa: E402
    Chain,
    chain,
    layers_of,
    pattern_of,
    read_from,
    statistics_of,
    wrapped,
)

from lora_ref.adapters import AdaConvLoRA  # noqa: E402
from lora_ref.checkpoint.peft_adalora import read_adalora, write_adalora  # noqa: E402
from lora_ref.layers.convolution import Geometry  # noqa: E402
from lora_ref.rank.allocation import (  # noqa: E402
    AllocationState,
    CubicSchedule,
    kept,
    peft_penalty,
    peft_step,
    ranks,
)
from lora_ref.testing.checks import assert_trees_close  # noqa: E402
from lora_ref.testing.tolerance import assert_close  # noqa: E402

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]

RUNS = {
    "every step": {},
    "warm-up, intervals, final steps": {"tinit": 4, "tfinal": 6, "deltaT": 3},
    "other averages": {"tfinal": 9, "deltaT": 2, "beta1": 0.6, "beta2": 0.95},
    "no final step": {"tinit": 2, "deltaT": 4},
}


def schedule_of(model):
    config, allocator = model.peft_config["default"], model.base_model.rankallocator
    return CubicSchedule(
        allocator.init_bgt,
        allocator.target_bgt,
        config.total_step,
        config.tinit,
        config.tfinal,
        config.deltaT,
    )


def trained(model, steps=range(1, 31)):
    """Train by PEFT; yield each step with adapters and gradients as PEFT's allocation gets them."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    draw = torch.Generator().manual_seed(5)
    for step in steps:
        optimiser.zero_grad()
        x = torch.randn((16, 7), generator=draw, dtype=torch.float64)
        model.base_model(x).loss.backward()  # the inner model's forward adds the penalty
        optimiser.step()
        yield step, read_from(model), read_from(model, lambda parameter: parameter.grad)


@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS.keys())
def test_thirty_steps_of_allocation_are_pefts_to_the_last_bit(fields):
    model = chain(**fields)
    config, schedule = model.peft_config["default"], schedule_of(model)
    state = AllocationState.start(read_from(model))
    averages = {"beta1": config.beta1, "beta2": config.beta2}
    seen_ranks = set()
    for step, adapters, gradients in trained(model):
        state, ours = peft_step(state, adapters, gradients, step, schedule, **averages)
        model.base_model.update_and_allocate(step)
        assert_trees_close(ours, read_from(model), "identical", f"adapters of step {step}")
        theirs = pattern_of(model)
        assert (state.mask is None) == (theirs is None)
        for name, stay in (theirs or {}).items():
            assert np.array_equal(state.mask[name], stay), (step, name)
        if step < schedule.last:
            for which, tree in (
                ("exp_avg_ipt", state.importance.sensitivity),
                ("exp_avg_unc", state.importance.uncertainty),
            ):
                assert_trees_close(tree, statistics_of(model, which), "identical", f"{which}")
        seen_ranks.add(tuple(ranks(state.mask or {}).values()))
    assert len(seen_ranks) > 3
    assert sum(ranks(state.mask).values()) == schedule.target


@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS.keys())
def test_the_budget_of_every_step_is_pefts(fields):
    model = chain(**fields)
    schedule, allocator = schedule_of(model), model.base_model.rankallocator
    for step in range(31):
        budget, is_due = allocator.budget_schedule(step)
        assert schedule.peft_budget(step) == budget
        if step < schedule.last:
            assert schedule.is_due(step) == is_due


def test_the_penalty_and_its_gradients_are_pefts():
    model = chain(orth_reg_weight=0.7)
    x = torch.randn((5, 7), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = model.base_model.model(x).loss
    model.base_model(x).loss.backward()
    total = read_from(model, lambda parameter: parameter.grad)
    model.zero_grad()
    plain.backward()
    task = read_from(model, lambda parameter: parameter.grad)
    R, backward = peft_penalty(read_from(model))
    ours = backward(0.7)
    for name in ours:
        for leaf in ("P", "Q"):
            expected = getattr(total[name], leaf) - getattr(task[name], leaf)
            assert_close(getattr(ours[name], leaf), expected, "golden", f"{name}.{leaf}")
        assert np.array_equal(total[name].lam, task[name].lam)
    penalised = model.base_model(x).loss
    assert_close(plain.detach().numpy() + 0.7 * R, penalised.detach().numpy(), "golden", "loss")


def batch(seed=3):
    return torch.randn((4, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hidden(model):
    """The last layer's output, without the loss and what PEFT adds to it."""
    net = model.base_model.model
    with torch.no_grad():
        return net.third(torch.tanh(net.second(torch.tanh(net.first(batch())))))


def trained_to_the_end(**fields):
    model = chain(**{"tinit": 2, "tfinal": 5, "deltaT": 3, **fields})
    for step, *_ in trained(model):
        model.base_model.update_and_allocate(step)
    return model


def bases_like(model):
    """A fresh base model with the frozen weights of `model`."""
    net = Chain().double()
    layers = model.base_model.model.state_dict()
    net.load_state_dict({n: layers[n.replace(".", ".base_layer.")] for n in net.state_dict()})
    return net


@pytest.mark.parametrize("fields", [{}, {"init_r": 2, "target_r": 1}], ids=["5 to 2", "2 to 1"])
def test_what_peft_saves_is_read_with_its_mask_and_scale(fields, tmp_path):
    model = trained_to_the_end(**fields)
    full, mask = read_from(model), pattern_of(model)
    model.save_pretrained(tmp_path / "theirs")
    read = read_adalora(tmp_path / "theirs")
    expected = {name: kept(adapter, mask[name]) for name, adapter in full.items()}
    assert_trees_close(read.adapters, expected, "identical", "adapters")
    for name, layer in layers_of(model).items():
        theirs = layer.get_delta_weight("default").detach().numpy()
        ours = read.adapters[name].weight(np.zeros(theirs.shape))[0]
        assert_close(ours, theirs, "golden", name)


def test_before_the_first_mask_the_file_has_all_triplets(tmp_path):
    model = chain()
    model.save_pretrained(tmp_path / "theirs")
    read = read_adalora(tmp_path / "theirs")
    assert read.mask is None
    assert_trees_close(read.adapters, read_from(model), "identical", "adapters")


@pytest.mark.parametrize("is_masked", [False, True])
def test_what_we_write_is_pefts_file_and_peft_loads_it(is_masked, tmp_path):
    model = trained_to_the_end() if is_masked else chain()
    before, full, mask = hidden(model), read_from(model), pattern_of(model)
    model.save_pretrained(tmp_path / "theirs")
    fields = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    write_adalora(tmp_path / "ours", full, fields, mask)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        theirs = (tmp_path / "theirs" / name).read_bytes()
        assert (tmp_path / "ours" / name).read_bytes() == theirs
    loaded = peft.PeftModel.from_pretrained(bases_like(model), tmp_path / "ours")
    assert_close(hidden(loaded).numpy(), before.numpy(), "golden", "forward after loading")


@pytest.mark.parametrize(
    "fields", [{"modules_to_save": ["third"]}, {"bias": "lora_only"}], ids=["module", "biases"]
)
def test_what_a_file_replaces_goes_both_ways(fields, tmp_path):
    model = chain(target_modules=["first", "second"], **fields)
    before = hidden(model)
    model.save_pretrained(tmp_path / "theirs")
    read = read_adalora(tmp_path / "theirs")
    names = (
        ("third.weight", "third.bias") if "bias" not in fields else ("first.bias", "second.bias")
    )
    assert {*read.replaced} == {*names}
    write_adalora(tmp_path / "ours", read.adapters, read.fields, replaced=read.replaced)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        theirs = (tmp_path / "theirs" / name).read_bytes()
        assert (tmp_path / "ours" / name).read_bytes() == theirs
    torch.manual_seed(0)  # the base that `chain` began with
    loaded = peft.PeftModel.from_pretrained(Chain().double(), tmp_path / "ours")
    assert_close(hidden(loaded).numpy(), before.numpy(), "golden", "forward after loading")


def test_a_convolutions_file_is_that_of_its_matrix_and_goes_both_ways(tmp_path):
    def base():
        torch.manual_seed(1)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 5, (2, 4)))

    model = wrapped(base(), target_modules=["0"])
    model.save_pretrained(tmp_path / "theirs")
    read = read_adalora(tmp_path / "theirs")
    adapter = AdaConvLoRA(read.adapters["0"], Geometry.uniform(2))
    theirs = model.base_model.model[0].get_delta_weight("default").detach().numpy()
    assert_close(adapter.merge(np.zeros((5, 3, 2, 4))), theirs, "golden", "ΔW")
    write_adalora(tmp_path / "ours", {"0": adapter.inner}, read.fields)
    loaded = peft.PeftModel.from_pretrained(base().double(), tmp_path / "ours")
    found = loaded.base_model.model[0].get_delta_weight("default").detach().numpy()
    assert_close(found, theirs, "identical", "ΔW after loading")
