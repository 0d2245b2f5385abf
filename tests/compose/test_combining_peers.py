"""PEFT's add_weighted_adapter and mixed batches run beside ours in float64, and where they part."""

import contextlib
import warnings

import numpy as np
import pytest
from peft_types import TYPES, combined

from lora_ref.adapters import ConvLoRA, DoRA, EmbeddingLoRA, LoRA
from lora_ref.compose.factors import linear, weighted_cat
from lora_ref.compose.mixed_batch import mixed_batch
from lora_ref.compose.mixed_gather import mixed_gather
from lora_ref.compose.mixed_grouped import mixed_grouped
from lora_ref.compose.task_arithmetic import weighted_sum
from lora_ref.compose.truncated import clamped, truncated
from lora_ref.layers.convolution import Geometry
from lora_ref.testing.tolerance import assert_close, relative_error, to_numpy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

NAMES, ALPHAS, WEIGHTS = ("a", "b", "c"), (5, 7, 2), (0.7, -0.4, 1.3)
DENSITY = 0.6


def model_of(rng, base, ranks=(3, 3, 3), **config):
    """A PEFT model with three adapters on its one layer, every number random."""
    config = {"target_modules": ["layer"], "init_lora_weights": False, **config}
    model = None
    for name, rank, alpha in zip(NAMES, ranks, ALPHAS, strict=True):
        settings = peft.LoraConfig(r=rank, lora_alpha=alpha, **config)
        if model is None:
            net = torch.nn.ModuleDict({"layer": base.double()})
            model = peft.get_peft_model(net, settings, name)
        else:
            model.add_adapter(name, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor(rng.standard_normal(tuple(parameter.shape))))
    return model.eval(), model.base_model.model["layer"]


def merged(model, layer, name, weights=WEIGHTS, names=NAMES, **settings):
    """PEFT's new adapter as a LoRA, with the scale that PEFT will use."""
    model.base_model.add_weighted_adapter(
        list(names), list(weights), "new", combination_type=name, **settings
    )
    return part_of(layer, "new")


def part_of(layer, name):
    A, B = (to_numpy(getattr(layer, f"lora_{k}")[name].weight).copy() for k in "AB")
    return LoRA(A, B, layer.scaling[name])


def parts_of(layer):
    return [part_of(layer, name) for name in NAMES]


@contextlib.contextmanager
def recorded_masks(monkeypatch):
    """The masks that PEFT draws, in its order."""
    drawn, bernoulli = [], torch.bernoulli

    def recording(chances):
        mask = bernoulli(chances)
        drawn.append(to_numpy(mask) == 1)
        return mask

    with monkeypatch.context() as patch:
        patch.setattr(torch, "bernoulli", recording)
        yield drawn


@pytest.mark.parametrize("elect", ["total", "frequency"])
@pytest.mark.parametrize("m", [7, 11])
@pytest.mark.parametrize("name", TYPES)
def test_combined_factors_are_pefts(rng, monkeypatch, name, m, elect):
    model, layer = model_of(rng, torch.nn.Linear(11, m))
    torch.manual_seed(0)
    with recorded_masks(monkeypatch) as masks:
        settings = {} if name == "linear" else {"density": DENSITY}
        theirs = merged(model, layer, name, majority_sign_method=elect, **settings)
    ours = combined(name, parts_of(layer), WEIGHTS, density=DENSITY, masks=masks, elect=elect)
    assert len(masks) == (6 if name.startswith("dare") else 0)
    assert_close(ours.A, theirs.A, "golden", "A")
    assert_close(ours.B, theirs.B, "golden", "B")
    assert theirs.scale == ours.scale == 1.0


@pytest.mark.parametrize("elect", ["total", "frequency"])
@pytest.mark.parametrize("rank", [2, 7])
@pytest.mark.parametrize("name", ["svd", *(f"{kind}_svd" for kind in TYPES[1:])])
def test_combined_updates_are_pefts(rng, monkeypatch, name, rank, elect):
    model, layer = model_of(rng, torch.nn.Linear(11, 7), ranks=(3, 2, 5))
    torch.manual_seed(0)
    with recorded_masks(monkeypatch) as masks:
        settings = {} if name == "svd" else {"density": DENSITY}
        theirs = merged(model, layer, name, svd_rank=rank, majority_sign_method=elect, **settings)
    settings = {"density": DENSITY, "masks": masks, "elect": elect, "rank": rank}
    ours = combined(name, parts_of(layer), WEIGHTS, **settings)
    assert len(masks) == (3 if name.startswith("dare") else 0)
    assert ours.A.shape == theirs.A.shape == (rank, 11)
    assert_close(ours.delta(), theirs.delta(), "golden", "B A")
    assert_close(np.abs(ours.A), np.abs(theirs.A), "routes", "A up to signs")
    assert_close(np.abs(ours.B), np.abs(theirs.B), "routes", "B up to signs")


def test_cat_is_pefts_at_unequal_ranks(rng):
    model, layer = model_of(rng, torch.nn.Linear(11, 7), ranks=(3, 2, 5))
    theirs = merged(model, layer, "cat")
    ours = combined("cat", parts_of(layer), WEIGHTS)
    assert_close(ours.A, theirs.A, "golden", "A")
    assert_close(ours.B, theirs.B, "golden", "B")


def test_the_rank_of_svd_is_the_largest_unless_it_is_said(rng):
    model, layer = model_of(rng, torch.nn.Linear(11, 7), ranks=(3, 2, 5))
    assert merged(model, layer, "svd").A.shape == (5, 11)


@pytest.mark.parametrize("quantile", [0.7, 0.97])
def test_clamping_is_pefts_at_pefts_signs(rng, quantile):
    model, layer = model_of(rng, torch.nn.Linear(11, 7))
    plain = merged(model, layer, "svd")
    model.delete_adapter("new")
    theirs = merged(model, layer, "svd", svd_clamp=quantile)
    assert_close(clamped(plain, quantile).A, theirs.A, "golden", "A")
    assert_close(clamped(plain, quantile).B, theirs.B, "golden", "B")


def test_combined_embeddings_are_pefts(rng):
    model, layer = model_of(rng, torch.nn.Embedding(13, 7))
    settings = {"combination_type": "linear"}
    model.base_model.add_weighted_adapter(list(NAMES), list(WEIGHTS), "new", **settings)

    def part(name):
        A, B = (to_numpy(getattr(layer, f"lora_embedding_{k}")[name]).copy() for k in "AB")
        return EmbeddingLoRA(A, B, layer.scaling[name])

    ours = combined("linear", [part(name) for name in NAMES], WEIGHTS)
    assert_close(ours.A, part("new").A, "golden", "A")
    assert_close(ours.B, part("new").B, "golden", "B")


@pytest.mark.parametrize("name", ["linear", "ties", "svd"])
def test_combined_convolutions_are_pefts(rng, name):
    """The svd of a convolution is that of its kernels as rows."""
    model, layer = model_of(rng, torch.nn.Conv2d(4, 6, (3, 2)))
    theirs = merged_convolution(model, layer, name)
    parts = [convolution(layer, n) for n in NAMES]
    if name != "svd":
        ours = combined(name, parts, WEIGHTS, density=DENSITY)
        assert_close(ours.A, theirs.A, "golden", "A")
        assert_close(ours.B, theirs.B, "golden", "B")
        return
    deltas = [part.merge(np.zeros((6, 4, 3, 2))).reshape(6, -1) for part in parts]
    ours = truncated(weighted_sum(deltas, [float(np.float32(w)) for w in WEIGHTS]), 3)
    assert_close(ours.delta(), theirs.merge(np.zeros((6, 4, 3, 2))).reshape(6, -1), "golden", "ΔW")


def merged_convolution(model, layer, name):
    settings = {"combination_type": name, "density": DENSITY}
    model.base_model.add_weighted_adapter(list(NAMES), list(WEIGHTS), "new", **settings)
    return convolution(layer, "new")


def convolution(layer, name):
    A, B = (to_numpy(getattr(layer, f"lora_{k}")[name].weight).copy() for k in "AB")
    return ConvLoRA(A, B, layer.scaling[name], Geometry.uniform(2))


CHOSEN = ["b", "__base__", "a", "c", "b", "__base__"]


@pytest.mark.parametrize("mixed", [mixed_batch, mixed_gather, mixed_grouped])
@pytest.mark.parametrize("m", [7, 11])
def test_a_mixed_batch_is_pefts_forward_and_backward(rng, mixed, m):
    _, layer = model_of(rng, torch.nn.Linear(11, m), ranks=(3, 2, 5))
    for name in NAMES:
        for k in "AB":
            getattr(layer, f"lora_{k}")[name].weight.requires_grad_()
    x = torch.tensor(rng.standard_normal((6, 4, 11)), requires_grad=True)
    theirs = layer(x, adapter_names=CHOSEN)
    dy = torch.tensor(rng.standard_normal(tuple(theirs.shape)))
    theirs.backward(dy)
    each = [-1 if name == "__base__" else NAMES.index(name) for name in CHOSEN]
    chosen = np.broadcast_to(np.array(each)[:, None], (6, 4))
    W, b = (to_numpy(t) for t in (layer.base_layer.weight, layer.base_layer.bias))
    y, backward = mixed(to_numpy(x), W, chosen, parts_of(layer))
    dx, gradients = backward(to_numpy(dy))
    assert_close(y + b, theirs, "golden", "y")
    assert_close(dx, x.grad, "golden", "dx")
    for name, gradient in zip(NAMES, gradients, strict=True):
        assert_close(gradient.A, layer.lora_A[name].weight.grad, "golden", f"dA of {name}")
        assert_close(gradient.B, layer.lora_B[name].weight.grad, "golden", f"dB of {name}")


# Where PEFT differs from its formula: each has its entry in docs/divergences.md.


@pytest.mark.parametrize("name", ["linear", "svd"])
def test_peft_rounds_the_weights_to_float32(rng, name):
    model, layer = model_of(rng, torch.nn.Linear(11, 7))
    theirs = merged(model, layer, name)
    meant = {
        "linear": lambda parts: linear(parts, WEIGHTS),
        "svd": lambda parts: truncated(weighted_sum([p.delta() for p in parts], WEIGHTS), 3),
    }[name](parts_of(layer))
    assert 1e-9 < relative_error(theirs.delta(), meant.delta()) < 1e-6


@pytest.mark.parametrize("name", ["linear", "cat", "svd", "ties"])
def test_with_rslora_pefts_result_is_too_large_by_the_root_of_the_rank(rng, name):
    model, layer = model_of(rng, torch.nn.Linear(11, 7), use_rslora=True)
    theirs = merged(model, layer, name, density=1.0)
    rank = theirs.A.shape[0]
    ours = combined(name, parts_of(layer), WEIGHTS, rank=rank)
    assert_close(theirs.delta(), rank**0.5 * ours.delta(), "golden", "ΔW")
    assert layer.scaling["a"] == 5 / 3**0.5


@pytest.mark.parametrize("name", ["magnitude_prune", "ties_svd", "dare_linear"])
def test_of_a_single_adapter_peft_prunes_and_truncates_nothing(rng, name):
    model, layer = model_of(rng, torch.nn.Linear(11, 7))
    theirs = merged(model, layer, name, [1.0], ["a"], density=0.1, svd_rank=1)
    assert relative_error(theirs.delta(), part_of(layer, "a").delta()) < 1e-6
    assert theirs.A.shape == (3, 11)


def test_dropping_everything_is_nan_in_peft(rng):
    model, layer = model_of(rng, torch.nn.Linear(11, 7))
    assert np.all(np.isnan(merged(model, layer, "dare_linear", density=0.0).A))


def test_peft_combines_no_lora_bias(rng):
    """The new adapter's bias is a fresh one: zeros here, as for training."""
    model, layer = model_of(rng, torch.nn.Linear(11, 7), lora_bias=True, init_lora_weights=True)
    merged(model, layer, "cat")
    assert all(bool((layer.lora_B[name].bias != 0).all()) for name in NAMES)
    assert not bool(layer.lora_B["new"].bias.any())


def test_peft_combines_no_magnitudes_of_dora(rng):
    """Of weights 1 and 0 the first adapter is left, with other magnitudes than its own."""
    model, layer = model_of(rng, torch.nn.Linear(11, 7), use_dora=True)
    W = to_numpy(layer.base_layer.weight)
    theirs = merged(model, layer, "cat", [1.0, 0.0], ["a", "b"])
    a = part_of(layer, "a")
    assert_close(theirs.delta(), a.delta(), "golden", "ΔW")
    m, m_new = (to_numpy(layer.lora_magnitude_vector[n].weight) for n in ("a", "new"))
    assert relative_error(m_new, m) > 0.1
    x = rng.standard_normal((4, 11))
    model.set_adapter("new")
    y = to_numpy(layer(torch.tensor(x))) - to_numpy(layer.base_layer.bias)
    assert_close(y, DoRA(theirs.A, theirs.B, m_new, 1.0).apply(x, W)[0], "golden", "y")
    assert relative_error(y, DoRA(a.A, a.B, m, a.scale).apply(x, W)[0]) > 0.1


@pytest.mark.parametrize("init", ["pissa", "olora", True])
def test_combining_after_an_init_that_changes_the_base_changes_it_once_more(rng, init):
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"layer": torch.nn.Linear(11, 7)})
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["layer"]}
    model = peft.get_peft_model(net, peft.LoraConfig(init_lora_weights=init, **settings), "a")
    model.add_adapter("b", peft.LoraConfig(**settings))
    layer = model.base_model.model["layer"]
    before = to_numpy(layer.base_layer.weight).copy()
    model.base_model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "new", combination_type="cat")
    moved = relative_error(layer.base_layer.weight, before)
    assert moved == 0 if init is True else moved > 0.1


def test_a_mixed_batch_with_dora_is_refused_by_peft(rng):
    _, layer = model_of(rng, torch.nn.Linear(11, 7), use_dora=True)
    with pytest.raises(ValueError, match="Cannot pass `adapter_names` when DoRA is enabled"):
        layer(torch.ones(6, 11, dtype=torch.float64), adapter_names=CHOSEN)


def test_our_cat_given_to_pefts_layer_is_the_same_update(rng):
    """As an adapter of its own, of rank and alpha 9."""
    model, layer = model_of(rng, torch.nn.Linear(11, 7))
    ours = weighted_cat(parts_of(layer), WEIGHTS)
    settings = {"r": 9, "lora_alpha": 9, "target_modules": ["layer"]}
    model.add_adapter("ours", peft.LoraConfig(**settings))
    with torch.no_grad():
        layer.lora_A["ours"].weight.copy_(torch.tensor(ours.A))
        layer.lora_B["ours"].weight.copy_(torch.tensor(ours.B))
    theirs = to_numpy(layer.get_delta_weight("ours"))
    assert_close(ours.delta(), theirs, "golden", "ΔW")
