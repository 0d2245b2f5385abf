"""Every layout of LoRA against PEFT's own modules, in float64: values, merges and gradients.

PEFT's factors are set to the adapter's and both are run on the same input, so a disagreement is a
different formula. Where PEFT's forward is not that of its own merged weight, the test says so.
"""

import numpy as np
import pytest

from lora_ref.adapters import (
    BiasedLoRA,
    ConvLoRA,
    EmbeddingLoRA,
    FanInFanOut,
    LoRA,
    LoRASum,
)
from lora_ref.adapters.conv import peft_grouped
from lora_ref.adapters.experts import from_peft, to_peft
from lora_ref.adapters.lora_sum import cat
from lora_ref.layers.convolution import Geometry, ungrouped
from lora_ref.layers.linear import adapted_linear
from lora_ref.layers.padding import pad_circular, pad_reflect, pad_replicate, pad_zeros
from lora_ref.testing.tolerance import assert_close, to_numpy

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
pytestmark = pytest.mark.peers

RANK, ALPHA = 3, 5
SCALE = ALPHA / RANK
PADS = {
    "zeros": pad_zeros,
    "reflect": pad_reflect,
    "replicate": pad_replicate,
    "circular": pad_circular,
}


def inside(module, rank=RANK, alpha=ALPHA, **config):
    """PEFT's LoRA module around `module`, with random factors."""
    model = torch.nn.ModuleDict({"layer": module.double()})
    config = {"target_modules": ["layer"], **config}
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights=False, **config)
    return peft.get_peft_model(model, settings).base_model.model["layer"]


def factor(module, which):
    return getattr(module, f"lora_{which}")["default"].weight


def drawn(rng, *shape, gradient=True):
    return torch.tensor(rng.standard_normal(shape), requires_grad=gradient)


def ours(t):
    return t.detach().numpy().copy()


def agree(pairs):
    """Every (name, ours, PEFT's) to the accuracy of a golden vector."""
    for name, mine, theirs in pairs:
        assert_close(mine, to_numpy(theirs), "golden", name)


def ran(module, x, rng):
    """PEFT's output, and the cotangent that its gradients were taken at."""
    y = module(x)
    dy = drawn(rng, *y.shape, gradient=False)
    y.backward(dy)
    return y, dy


def merged(module):
    module.merge()
    return module.get_base_layer().weight


@pytest.mark.parametrize("m", [7, 11])
def test_linear_with_a_bias_on_B_is_pefts_lora_bias(rng, m):
    module = inside(torch.nn.Linear(11, m), lora_bias=True)
    base, b = (ours(t) for t in (module.base_layer.weight, module.base_layer.bias))
    lora_B = module.lora_B["default"]
    lora = LoRA(ours(factor(module, "A")), ours(lora_B.weight), SCALE)
    adapter = BiasedLoRA(lora, ours(lora_B.bias))
    x = drawn(rng, 2, 3, 11)
    y, dy = ran(module, x, rng)
    mine, backward = adapted_linear(ours(x), base, adapter, b)
    dx, d = backward(ours(dy))
    agree(
        [
            ("y", mine, y),
            ("dx", dx, x.grad),
            ("dA", d.lora.A, factor(module, "A").grad),
            ("dB", d.lora.B, lora_B.weight.grad),
            ("dbeta", d.beta, lora_B.bias.grad),
            ("W'", adapter.merge(base), merged(module)),
            ("b'", adapter.bias(b)[0], module.base_layer.bias),
        ]
    )


@pytest.mark.parametrize("m", [7, 11])
def test_fan_in_fan_out_is_pefts_lora_on_conv1d(rng, m):
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="[peers] extra").Conv1D
    module = inside(conv1d(m, 11), fan_in_fan_out=True)
    base = ours(module.base_layer.weight)
    adapter = FanInFanOut(LoRA(ours(factor(module, "A")), ours(factor(module, "B")), SCALE))
    x = drawn(rng, 2, 3, 11)
    y, dy = ran(module, x, rng)
    mine, backward = adapter.apply(ours(x), base)
    dx, d = backward(ours(dy))
    agree(
        [
            ("y", mine + ours(module.base_layer.bias), y),
            ("dx", dx, x.grad),
            ("dA", d.inner.A, factor(module, "A").grad),
            ("dB", d.inner.B, factor(module, "B").grad),
            ("V'", adapter.merge(base), merged(module)),
        ]
    )


@pytest.mark.parametrize("width", [7, 13])
def test_embedding_is_pefts(rng, width):
    module = inside(torch.nn.Embedding(13, width))
    base = ours(module.base_layer.weight)
    A, B = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
    adapter = EmbeddingLoRA(ours(A), ours(B), SCALE)
    ids = torch.tensor(rng.integers(0, 13, size=(2, 9)))  # 18 of 13: some repeat
    y, dy = ran(module, ids, rng)
    mine, backward = adapter.apply(ids.numpy(), base)
    dids, d = backward(ours(dy))
    assert dids is None
    agree(
        [
            ("y", mine, y),
            ("dA", d.A, A.grad),
            ("dB", d.B, B.grad),
            ("E'", adapter.merge(base), merged(module)),
        ]
    )


def test_an_embedding_that_its_layer_scales_is_pefts(rng):
    gemma = pytest.importorskip(
        "transformers.models.gemma3.modeling_gemma3", reason="transformers is in the [peers] extra"
    )
    module = inside(gemma.Gemma3TextScaledWordEmbedding(13, 7, padding_idx=None, embed_scale=2.5))
    base = ours(module.base_layer.weight)
    A, B = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
    adapter = EmbeddingLoRA(ours(A), ours(B), SCALE)
    ids = torch.tensor(rng.integers(0, 13, size=(2, 9)))
    y, dy = ran(module, ids, rng)
    mine, backward = adapter.apply(ids.numpy(), base)
    d = backward(2.5 * ours(dy))[1]
    agree([("y", 2.5 * mine, y), ("dA", d.A, A.grad), ("dB", d.B, B.grad)])
    agree([("E'", adapter.merge(base), merged(module))])


def convolution_module(dimensions, **settings):
    """A base convolution whose sizes all differ, and its geometry."""
    kernel, stride, padding, space = (3, 2, 4), (2, 1, 3), (1, 2, 0), (9, 7, 8)
    cut = [tuple(t[:dimensions]) for t in (kernel, stride, padding)]
    layer = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[dimensions - 1]
    pad = PADS[settings.get("padding_mode", "zeros")]
    dilation = settings.get("dilation", 1)
    pairs = tuple((p, p) for p in cut[2])
    groups = settings.get("groups", 1)
    geometry = Geometry(cut[1], pairs, (dilation,) * dimensions, groups, pad)
    return layer(4, 10, *cut, **settings), geometry, space[:dimensions]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolution_is_pefts(rng, dimensions):
    base_layer, geometry, space = convolution_module(dimensions)
    module = inside(base_layer)
    base, bias = ours(module.base_layer.weight), ours(module.base_layer.bias)
    adapter = ConvLoRA(ours(factor(module, "A")), ours(factor(module, "B")), SCALE, geometry)
    x = drawn(rng, 2, 4, *space)
    y, dy = ran(module, x, rng)
    mine, backward = adapter.apply(ours(x), base)
    dx, d = backward(ours(dy))
    agree(
        [
            ("y", mine + bias.reshape(-1, *[1] * dimensions), y),
            ("dx", dx, x.grad),
            ("dA", d.A, factor(module, "A").grad),
            ("dB", d.B, factor(module, "B").grad),
            ("W'", adapter.merge(base), merged(module)),
        ]
    )


def test_a_convolution_with_a_bias_on_B_is_pefts(rng):
    base_layer, geometry, space = convolution_module(2)
    module = inside(base_layer, lora_bias=True)
    base, bias = ours(module.base_layer.weight), ours(module.base_layer.bias)
    lora_B = module.lora_B["default"]
    lora = ConvLoRA(ours(factor(module, "A")), ours(lora_B.weight), SCALE, geometry)
    adapter = BiasedLoRA(lora, ours(lora_B.bias))
    x = drawn(rng, 2, 4, *space)
    y, dy = ran(module, x, rng)
    b_adapted, bias_backward = adapter.bias(bias)
    mine = adapter.apply(ours(x), base)[0] + b_adapted[:, None, None]
    dbeta = bias_backward(ours(dy).sum(axis=(0, 2, 3))).beta
    agree([("y", mine, y), ("dbeta", dbeta, lora_B.bias.grad)])
    agree([("W'", adapter.merge(base), merged(module))])
    agree([("b'", b_adapted, module.base_layer.bias)])


def test_a_convolution_of_kernel_one_is_pefts(rng):
    module = inside(torch.nn.Conv2d(4, 10, 1, bias=False))
    base = ours(module.base_layer.weight)
    factors = ours(factor(module, "A")), ours(factor(module, "B"))
    adapter = ConvLoRA(*factors, SCALE, Geometry.uniform(2))
    x = drawn(rng, 2, 4, 5, 6)
    y, _ = ran(module, x, rng)
    pairs = [("y", adapter.apply(ours(x), base)[0], y), ("W'", adapter.merge(base), merged(module))]
    agree(pairs)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_grouped_convolution_of_peft_is_lora_on_the_ungrouped_kernel(rng, dimensions):
    base_layer, geometry, space = convolution_module(dimensions, groups=2, bias=False)
    with pytest.warns(UserWarning, match="groups > 1"):
        module = inside(base_layer, rank=6, alpha=10)
    base = ours(module.base_layer.weight)
    A, B = factor(module, "A"), factor(module, "B")
    assert (A.shape[1], B.shape[1]) == (4, 3)  # all channels, a group's share of the rank
    adapter = peft_grouped(ours(A), ours(B), SCALE, geometry)
    x = drawn(rng, 2, 4, *space)
    y, dy = ran(module, x, rng)
    mine, backward = adapter.apply(ours(x), ungrouped(base, 2))
    dx, d = backward(ours(dy))
    dB = ours(B.grad)
    dB_wide = d.B.reshape(2, 5, 2, 3)  # (group of m, m/g, group of r, r/g)
    mine_dB = np.concatenate([dB_wide[0, :, 0], dB_wide[1, :, 1]]).reshape(dB.shape)
    agree([("y", mine, y), ("dx", dx, x.grad), ("dA", d.A, A.grad), ("dB", mine_dB, dB)])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_peft_forgets_the_padding_mode_in_its_forward_and_not_in_its_merge(rng, mode):
    base_layer, geometry, space = convolution_module(2, padding_mode=mode, bias=False)
    module = inside(base_layer)
    base = ours(module.base_layer.weight)
    adapter = ConvLoRA(ours(factor(module, "A")), ours(factor(module, "B")), SCALE, geometry)
    x = drawn(rng, 2, 4, *space)
    unmerged = ours(module(x))
    mine = adapter.apply(ours(x), base)[0]
    assert np.max(np.abs(mine - unmerged)) > 1e-2
    merged(module)
    agree([("y", mine, module(x))])


def test_peft_forgets_the_dilation_in_its_forward_and_not_in_its_merge(rng):
    geometry = Geometry.uniform(2, padding=2, dilation=2)
    module = inside(torch.nn.Conv2d(4, 10, 3, padding=2, dilation=2, bias=False))
    base = ours(module.base_layer.weight)
    adapter = ConvLoRA(ours(factor(module, "A")), ours(factor(module, "B")), SCALE, geometry)
    x = drawn(rng, 2, 4, 9, 7)
    with pytest.raises(RuntimeError, match="size of tensor"):
        module(x)
    merged(module)
    agree([("y", adapter.apply(ours(x), base)[0], module(x))])


class Experts(torch.nn.Module):
    """A stack of linear maps, one for each expert; transposed: stored (E, n, m)."""

    def __init__(self, experts, m, n, is_transposed):
        super().__init__()
        self.is_transposed = is_transposed
        shape = (experts, n, m) if is_transposed else (experts, m, n)
        self.weight = torch.nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return x @ (self.weight if self.is_transposed else self.weight.mT)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("sizes", [(5, 7, 11), (5, 5, 5)])
def test_experts_are_pefts_target_parameters(rng, sizes, is_transposed):
    experts, _, n = sizes
    module = inside(
        Experts(*sizes, is_transposed), target_modules=[], target_parameters=["layer.weight"]
    )
    base = ours(module.get_base_layer().weight)
    A, B = factor(module, "A"), factor(module, "B")
    inner = from_peft(ours(A), ours(B), experts, SCALE)
    adapter = FanInFanOut(inner) if is_transposed else inner
    x = drawn(rng, experts, 4, n)
    y, dy = ran(module, x, rng)
    mine, backward = adapter.apply(ours(x), base)
    dx, d = backward(ours(dy))
    dA, dB = to_peft(d.inner if is_transposed else d)
    agree([("y", mine, y), ("dx", dx, x.grad), ("dA", dA, A.grad), ("dB", dB, B.grad)])
    agree([("W'", adapter.merge(base), merged(module))])


def test_several_active_adapters_are_a_sum_and_cat_joins_them_exactly(rng):
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(11, 7, bias=False).double()})
    shared = {"target_modules": ["layer"], "init_lora_weights": False}
    first = peft.LoraConfig(r=3, lora_alpha=5, **shared)
    second = peft.LoraConfig(r=2, lora_alpha=8, **shared)
    wrapped = peft.get_peft_model(model, first, adapter_name="first")
    wrapped.add_adapter("second", second)
    wrapped.base_model.set_adapter(["first", "second"])
    wrapped.base_model.add_weighted_adapter(
        ["first", "second"], [1.0, 1.0], "joined", combination_type="cat"
    )
    wrapped.base_model.set_adapter(["first", "second"])
    module = wrapped.base_model.model["layer"]
    parts = tuple(
        LoRA(ours(module.lora_A[k].weight), ours(module.lora_B[k].weight), scale)
        for k, scale in (("first", 5 / 3), ("second", 4.0))
    )
    adapter, base = LoRASum(parts), ours(module.base_layer.weight)
    x = drawn(rng, 2, 11)
    y, dy = ran(module, x, rng)
    mine, backward = adapter.apply(ours(x), base)
    dx, d = backward(ours(dy))
    joined = cat(parts)
    agree(
        [
            ("y", mine, y),
            ("dx", dx, x.grad),
            ("dA of the second", d.parts[1].A, module.lora_A["second"].weight.grad),
            ("dB of the first", d.parts[0].B, module.lora_B["first"].weight.grad),
            ("A of cat", joined.A, module.lora_A["joined"].weight),
            ("B of cat", joined.B, module.lora_B["joined"].weight),
        ]
    )
