"""DoRA of convolutions and embeddings against PEFT's modules, and where PEFT departs from it."""

import copy

import numpy as np
import pytest

from lora_ref.adapters import ConvDoRA, ConvLoRA, DoRA, EmbeddingDoRA, EmbeddingLoRA, LoRA
from lora_ref.compose.dropout import dropped_apply
from lora_ref.compose.strength import rescaled
from lora_ref.layers.convolution import Geometry, ungrouped
from lora_ref.testing.tolerance import assert_close, relative_error

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

RANK, SCALE = 4, 1.5


def model_of(module, names=("default",), **config):
    """PEFT's model around `module`, every factor and magnitude random."""
    settings = {"r": RANK, "lora_alpha": 6, "target_modules": ["layer"], "use_dora": True}
    config = peft.LoraConfig(**settings, init_lora_weights=False, **config)
    model = torch.nn.ModuleDict({"layer": module.double()})
    model = peft.get_peft_model(model, copy.deepcopy(config), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, copy.deepcopy(config))
    layer = model.base_model.model["layer"]
    with torch.no_grad():
        for name in names:
            magnitude(layer, name).mul_(torch.rand_like(magnitude(layer, name)) + 1)
    return model, layer


def magnitude(layer, name="default"):
    return layer.lora_magnitude_vector[name].weight


def factors(layer, name="default"):
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def ours(t):
    return t.detach().numpy().copy()


def drawn(rng, *shape):
    return torch.tensor(rng.standard_normal(shape), requires_grad=True)


def dora_of(layer, name="default"):
    A, B = factors(layer, name)
    return DoRA(ours(A), ours(B), ours(magnitude(layer, name)), SCALE, detach_norm=True)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_convolution_is_pefts(rng, dimensions):
    kind = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[dimensions - 1]
    cut = [t[:dimensions] for t in ((3, 2, 4), (2, 1, 3), (1, 2, 0), (9, 7, 8))]
    _, layer = model_of(kind(4, 10, *cut[:3], bias=False))
    geometry = Geometry(cut[1], tuple((p, p) for p in cut[2]), (1,) * dimensions)
    A, B = factors(layer)
    W, m = ours(layer.base_layer.weight), magnitude(layer)
    adapter = ConvDoRA(ConvLoRA(ours(A), ours(B), SCALE, geometry), ours(m).reshape(-1), True)
    x = drawn(rng, 2, 4, *cut[3])
    y = layer(x)
    dy = rng.standard_normal(y.shape)
    y.backward(torch.tensor(dy))
    mine, backward = adapter.apply(ours(x), W)
    dx, d = backward(dy)
    pairs = {"y": (mine, y), "dx": (dx, x.grad), "dA": (d.lora.A, A.grad)}
    pairs |= {"dB": (d.lora.B, B.grad), "dm": (d.m.reshape(m.shape), m.grad)}
    layer.merge()
    pairs["W'"] = adapter.merge(W), layer.base_layer.weight
    for name, (found, theirs) in pairs.items():
        assert_close(found, ours(theirs), "golden", name)


@pytest.mark.parametrize("width", [7, 13])
def test_an_embedding_is_pefts(rng, width):
    _, layer = model_of(torch.nn.Embedding(13, width))
    A, B = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    E, m = ours(layer.base_layer.weight), magnitude(layer)
    adapter = EmbeddingDoRA(EmbeddingLoRA(ours(A), ours(B), SCALE), ours(m), True)
    ids = rng.integers(0, 13, size=(2, 9))  # 18 of 13: some repeat
    y = layer(torch.tensor(ids))
    dy = rng.standard_normal(y.shape)
    y.backward(torch.tensor(dy))
    mine, backward = adapter.apply(ids, E)
    d = backward(dy)[1]
    pairs = {"y": (mine, y), "dA": (d.lora.A, A.grad), "dB": (d.lora.B, B.grad)}
    pairs["dm"] = d.m, m.grad
    layer.merge()
    pairs["E'"] = adapter.merge(E), layer.base_layer.weight
    for name, (found, theirs) in pairs.items():
        assert_close(found, ours(theirs), "golden", name)


STARTS = {
    "convolution": lambda: torch.nn.Conv2d(4, 10, (3, 2), bias=False),
    "grouped": lambda: torch.nn.Conv2d(8, 12, (3, 2), groups=2, bias=False),
    "embedding": lambda: torch.nn.Embedding(13, 7),
}


@pytest.mark.parametrize("module", STARTS.values(), ids=STARTS)
def test_training_starts_where_pefts_does(module, rng):
    """With its magnitudes, and the same factor zero."""
    config = peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=["layer"], use_dora=True)
    net = torch.nn.ModuleDict({"layer": module().double()})
    layer = peft.get_peft_model(net, config).base_model.model["layer"]
    W = ours(layer.base_layer.weight)
    if isinstance(layer.base_layer, torch.nn.Embedding):
        factors_of = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
        dora = EmbeddingDoRA.init(W, RANK, 6, rng)
    else:
        factors_of = factors(layer)
        geometry = Geometry.uniform(2, groups=layer.base_layer.groups)
        dora = ConvDoRA.init(W, RANK, 6, geometry, rng)
    assert_close(dora.m, ours(magnitude(layer)).reshape(-1), "golden", "m")
    drawn_ones = [bool(np.any(ours(t) != 0)) for t in factors_of]
    assert drawn_ones == [bool(np.any(t != 0)) for t in (dora.lora.A, dora.lora.B)]


def test_the_norm_of_a_grouped_convolution_is_that_of_a_scrambled_kernel(rng):
    _, layer = model_of(torch.nn.Conv2d(6, 8, (3, 2), groups=2, bias=False))
    A, B = (ours(t) for t in factors(layer))
    W = ours(layer.base_layer.weight)
    assert (A.shape, B.shape) == ((4, 6, 3, 2), (8, 2, 1, 1))
    scrambled = W + SCALE * (B.reshape(-1, RANK) @ A.reshape(RANK, -1)).reshape(W.shape)
    update = np.einsum("or,rcij->ocij", ungrouped(B, 2)[:, :, 0, 0], A)
    V = ungrouped(W, 2) + SCALE * update
    lengths, found = ((t.reshape(8, -1) ** 2).sum(axis=1) ** 0.5 for t in (V, scrambled))
    x = drawn(rng, 2, 6, 7, 5)
    h = layer.base_layer(x) + SCALE * layer.lora_B["default"](layer.lora_A["default"](x))
    g = ours(layer(x) / h)[0, :, 0, 0]
    assert_close(g, ours(magnitude(layer)).reshape(-1) / found, "golden", "g")
    assert relative_error(found, lengths) > 0.01


def two_adapters(dropout):
    torch.manual_seed(1)
    model, layer = model_of(torch.nn.Linear(11, 7), ("one", "two"), lora_dropout=dropout)
    model.base_model.set_adapter(["one", "two"])
    return model, layer


def test_two_doras_are_nested_in_the_order_in_which_they_are_set(rng):
    model, layer = two_adapters(0.0)
    W, b = ours(layer.base_layer.weight), ours(layer.base_layer.bias)
    one, two = dora_of(layer, "one"), dora_of(layer, "two")
    x = drawn(rng, 3, 11)

    def nested(first, then):
        g = then.merge(W) / LoRA(then.A, then.B, SCALE).merge(W)  # by row
        return g * (first.merge(W) + SCALE * then.B @ then.A)

    assert_close(ours(x) @ nested(one, two).T + b, ours(layer(x)), "golden", "one, two")
    model.base_model.set_adapter(["two", "one"])
    assert_close(ours(x) @ nested(two, one).T + b, ours(layer(x)), "golden", "two, one")
    assert relative_error(nested(one, two), nested(two, one)) > 0.01


def test_with_dropout_two_doras_are_a_sum_in_training_and_nested_in_inference(rng):
    model, layer = two_adapters(1e-15)  # drops nothing
    W, b = ours(layer.base_layer.weight), ours(layer.base_layer.bias)
    summed = W + sum(dora_of(layer, name).merge(W) - W for name in ("one", "two"))
    x = drawn(rng, 3, 11)
    trained = ours(model.train().base_model.model["layer"](x))
    assert_close(trained, ours(x) @ summed.T + b, "golden", "training")
    assert relative_error(ours(model.eval().base_model.model["layer"](x)), trained) > 0.01


def test_with_dropout_a_circular_convolution_loses_its_padding_in_training(rng):
    base = torch.nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular", bias=False)
    _, layer = model_of(base, lora_dropout=1e-15)
    x = drawn(rng, 2, 4, 9)
    layer.train()
    trained = ours(layer(x))
    layer.eval()
    assert relative_error(ours(layer(x)), trained) > 0.01
    assert_close(ours(layer(x))[..., 1:-1], trained[..., 1:-1], "golden", "away from the ends")
    layer.merge()
    assert relative_error(ours(layer.base_layer(x)), trained) > 0.01


def test_scaling_a_dora_to_nothing_leaves_its_magnitudes(rng):
    _, layer = model_of(torch.nn.Linear(11, 7, bias=False))
    W, dora, x = ours(layer.base_layer.weight), dora_of(layer), drawn(rng, 3, 11)
    layer.set_scale("default", 0.5)
    W_half = rescaled(dora, W, 0.5)[0]
    assert_close(ours(x) @ W_half.T, ours(layer(x)), "golden", "half")
    layer.set_scale("default", 0.0)
    W_none = rescaled(dora, W, 0.0)[0]
    assert_close(ours(x) @ W_none.T, ours(layer(x)), "golden", "none")
    assert relative_error(W_none, W) > 0.01


def test_dropout_with_a_mask_is_pefts_in_training(rng):
    _, layer = model_of(torch.nn.Linear(11, 7), lora_dropout=0.5)
    W, b = ours(layer.base_layer.weight), ours(layer.base_layer.bias)
    x, seen = drawn(rng, 5, 11), []
    layer.lora_dropout["default"].register_forward_hook(lambda _, args, out: seen.append(out))
    trained = ours(layer.train()(x))
    mask = np.where(ours(seen[0]) != 0, 2.0, 0.0)
    assert 0 < np.count_nonzero(mask) < mask.size
    mine = dropped_apply(dora_of(layer), ours(x), W, mask)[0] + b
    assert_close(mine, trained, "golden", "y")
