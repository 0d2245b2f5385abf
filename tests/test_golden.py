"""Values and gradients recorded from PEFT, loralib and transformers: what catches a misread paper.

Both routes of an adapter could agree on a wrong formula; a recording of the framework cannot. The
files name version, command and a reason for each case; reading them needs neither framework.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_ref.adapters import (
    BiasedLoRA,
    ConvLoRA,
    DoRA,
    EmbeddingLoRA,
    FanInFanOut,
    FusedLoRA,
    LoRA,
    LoralibConvLoRA,
)
from lora_ref.adapters.conv import peft_grouped
from lora_ref.adapters.experts import from_peft, to_peft
from lora_ref.adapters.fused_qkv import blocks
from lora_ref.adapters.lora import scaling, stabilised_scaling
from lora_ref.checkpoint import SafetensorsFile
from lora_ref.layers import rotary_angles, rotary_half, rotary_interleaved
from lora_ref.layers.convolution import Geometry, same_padding, ungrouped
from lora_ref.layers.linear import adapted_linear
from lora_ref.layers.padding import pad_circular, pad_reflect, pad_replicate, pad_zeros
from lora_ref.testing.tolerance import assert_close

VECTORS = Path(__file__).parent / "vectors"
PADS = {"circular": pad_circular, "reflect": pad_reflect, "replicate": pad_replicate}
EXACT_NAMES = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
    "lora_magnitude_vector": "m",
}


class Recorded:
    """One case of a recording: its settings, and its arrays by the last part of their names."""

    def __init__(self, source: str, name: str, fields: dict) -> None:
        self.fields, self.config = fields, fields["config"]
        self.geometry = fields.get("geometry") or {}
        self.file = SafetensorsFile.open(VECTORS / f"{source}.safetensors")
        self.name = name

    def __getitem__(self, key: str) -> np.ndarray:
        """The array under `key`, or the only one whose name ends like it."""
        found = [a for a in self.fields["arrays"] if a == key or _short(a) == key]
        assert len(found) == 1, (key, found)
        return self.file.tensor(f"{self.name}/{found[0]}")

    def has(self, key: str) -> bool:
        return any(a == key or _short(a) == key for a in self.fields["arrays"])

    @property
    def scale(self) -> float:
        rule = stabilised_scaling if self.config.get("use_rslora") else scaling
        return rule(self.config["lora_alpha"], self.config["r"])

    @property
    def lora(self) -> LoRA:
        return LoRA(self["adapter/A"], self["adapter/B"], self.scale)

    def expect(self, kind: str, actual: np.ndarray) -> None:
        assert_close(actual, self[kind], "golden", f"{self.name}, {kind}")

    def expect_gradients(self, dA: np.ndarray, dB: np.ndarray) -> None:
        self.expect("d_adapter/A", dA)
        self.expect("d_adapter/B", dB)


def _short(name: str) -> str:
    """d_adapter/base_model.model.layer.lora_B.bias -> d_adapter/B.bias, base/layer.bias -> …"""
    kind, _, rest = name.partition("/")
    rest = rest.removeprefix("base_model.model.").removeprefix("layer.").removeprefix("conv.")
    for long, letter in EXACT_NAMES.items():
        rest = rest.replace(f"{long}.weight", letter).replace(f"{long}.bias", f"{letter}.bias")
        rest = letter if rest == long else rest
    return f"{kind}/{rest}" if rest else kind


def recorded(source: str, *layers: str) -> list:
    cases = json.loads((VECTORS / f"{source}.json").read_text())["cases"]
    return [
        pytest.param(Recorded(source, name, fields), id=f"{source}-{name}")
        for name, fields in cases.items()
        if fields["layer"] in layers
    ]


def adapted(case: Recorded, lora: LoRA):
    """The adapter of a linear case, in the layout of its base."""
    if case.has("adapter/B.bias"):
        return BiasedLoRA(lora, case["adapter/B.bias"])
    adapter = lora
    if case.has("adapter/m"):
        adapter = DoRA(lora.A, lora.B, case["adapter/m"], lora.scale, detach_norm=True)
    inputs_first = case.fields["layer"] == "Conv1D" or case.config.get("fan_in_fan_out")
    return FanInFanOut(adapter) if inputs_first else adapter


@pytest.mark.parametrize(
    "case", recorded("peft_lora", "Linear", "Conv1D") + recorded("loralib_lora", "Linear")
)
def test_a_linear_layer_gives_the_recorded_numbers(case):
    W, x = case["base/weight"], case["input/0"]
    b = case["base/bias"] if case.has("base/bias") else None
    adapter = adapted(case, case.lora)
    y, backward = adapted_linear(x, W, adapter, b)
    dx, dadapter = backward(case["dy"])
    inner = getattr(dadapter, "inner", getattr(dadapter, "lora", dadapter))
    case.expect("y", y)
    case.expect("d_input/0", dx)
    case.expect_gradients(inner.A, inner.B)
    if case.has("adapter/m"):
        case.expect("d_adapter/m", inner.m)
    case.expect("merged/weight", adapter.merge(W))
    if b is not None:
        case.expect("merged/bias", adapter.bias(b)[0])
    if case.has("d_adapter/B.bias"):
        case.expect("d_adapter/B.bias", dadapter.beta)


@pytest.mark.parametrize(
    "case", recorded("peft_lora", "Embedding") + recorded("loralib_lora", "Embedding")
)
def test_an_embedding_gives_the_recorded_numbers(case):
    ids, E = case["input/0"], case["base/weight"]
    adapter = EmbeddingLoRA(case["adapter/A"], case["adapter/B"], case.scale)
    y, backward = adapter.apply(ids, E)
    case.expect("y", y)
    case.expect("merged/weight", adapter.merge(E))
    if "padding_idx" not in case.geometry:  # a padding row takes no part in training there
        _, dadapter = backward(case["dy"])
        case.expect_gradients(dadapter.A, dadapter.B)


def geometry_of(fields: dict, kernel: tuple[int, ...]) -> Geometry:
    def each(name: str, default: int) -> tuple[int, ...]:
        value = fields.get(name, default)
        return tuple(value) if isinstance(value, list) else (value,) * len(kernel)

    dilation, pad = each("dilation", 1), PADS.get(fields.get("padding_mode"), pad_zeros)
    if fields.get("padding") == "same":
        padding = same_padding(kernel, dilation)
    else:
        padding = tuple((p, p) for p in each("padding", 0))
    return Geometry(each("stride", 1), padding, dilation, fields.get("groups", 1), pad)


@pytest.mark.parametrize(
    "case", recorded("peft_lora", "Conv1d", "Conv2d", "Conv3d") + recorded("loralib_lora", "Conv2d")
)
def test_a_convolution_gives_the_recorded_numbers(case):
    W, x, A, B = (case[k] for k in ("base/weight", "input/0", "adapter/A", "adapter/B"))
    is_peft = "target_modules" in case.config
    geometry = geometry_of(case.geometry if is_peft else case.config, W.shape[2:])
    if not is_peft:
        adapter = LoralibConvLoRA(A, B, case.scale, geometry)
    elif geometry.groups > 1:
        adapter = peft_grouped(A, B, case.scale, geometry)
        W = ungrouped(W, geometry.groups)
    else:
        adapter = ConvLoRA(A, B, case.scale, geometry)
    y, backward = adapter.apply(x, W)
    dx, dadapter = backward(case["dy"])
    b = case["base/bias"] if case.has("base/bias") else np.zeros(W.shape[0])
    case.expect("y", y + b.reshape(-1, *[1] * (W.ndim - 2)))
    case.expect("d_input/0", dx)
    case.expect("d_adapter/A", dadapter.A)
    if not (is_peft and geometry.groups > 1):  # there B is held ungrouped, zeros and all
        case.expect("d_adapter/B", dadapter.B)
        case.expect("merged/weight", adapter.merge(W))


@pytest.mark.parametrize("case", recorded("peft_lora", "Experts"))
def test_experts_give_the_recorded_numbers(case):
    W, x, ids = case["base/weight"], case["input/0"], case["input/1"]
    experts = from_peft(case["adapter/A"], case["adapter/B"], W.shape[0], case.scale)
    inputs_first = case.geometry["is_transposed"]
    adapter = FanInFanOut(experts) if inputs_first else experts
    W_merged, backward = adapter.weight(W)
    case.expect("merged/weight", W_merged)
    routed = W_merged[ids] if inputs_first else np.swapaxes(W_merged[ids], 1, 2)  # (N, n, m)
    case.expect("y", np.squeeze(x[:, None, :] @ routed, 1))
    dW = np.zeros_like(W)
    for i, e in enumerate(ids):
        outer = np.outer(x[i], case["dy"][i])
        dW[e] += outer if inputs_first else outer.T
    dadapter = backward(dW)
    case.expect_gradients(*to_peft(dadapter.inner if inputs_first else dadapter))


@pytest.mark.parametrize("case", recorded("loralib_lora", "MergedLinear"))
def test_a_merged_linear_of_loralib_gives_the_recorded_numbers(case):
    r, (q, k, v) = case.config["r"], (case.config["out_features"] // 3,) * 3
    A, B, W = case["adapter/A"], case["adapter/B"], case["base/weight"]
    first, last = LoRA(A[:r], B[:q], case.scale), LoRA(A[r:], B[q:], case.scale)
    fused = FusedLoRA((first, None, last), blocks(q, k, v))
    adapter = FanInFanOut(fused) if case.config.get("fan_in_fan_out") else fused
    y, backward = adapted_linear(case["input/0"], W, adapter, case["base/bias"])
    dx, dadapter = backward(case["dy"])
    dq, _, dv = getattr(dadapter, "inner", dadapter).parts
    case.expect("y", y)
    case.expect("d_input/0", dx)
    case.expect_gradients(np.concatenate([dq.A, dv.A]), np.concatenate([dq.B, dv.B]))
    case.expect("merged/weight", adapter.merge(W))


ROTARY = ("Llama", "GPTNeoX", "GPTJ")


@pytest.mark.parametrize("case", recorded("transformers_rotary", *ROTARY))
def test_a_rotary_embedding_gives_the_recorded_numbers(case):
    """With the recorded cos and sin, which by halves are there twice in a row."""
    cos, sin = case["cos"], case["sin"]
    if case.fields["layer"] == "GPTJ":
        turn, cos, sin = rotary_interleaved, cos[:, :, None], sin[:, :, None]
    else:
        half = cos.shape[-1] // 2
        turn, cos, sin = rotary_half, cos[:, None, :, :half], sin[:, None, :, :half]
    for name in ("q", "k"):
        y, backward = turn(case[name], cos=cos, sin=sin)
        case.expect(f"{name}_turned", y)
        case.expect(f"d{name}", backward(case[f"d{name}_turned"]))


@pytest.mark.parametrize("case", recorded("transformers_rotary", *ROTARY))
def test_rotary_angles_are_the_recorded_ones(case):
    """GPT-J's in float64; the others compute them in float32."""
    is_exact = case.fields["layer"] == "GPTJ"
    width = case["cos"].shape[-1] * (2 if is_exact else 1)
    for name, found in zip(
        ("cos", "sin"),
        rotary_angles(case["positions"], width, base=case.config.get("base", 10000.0)),
        strict=True,
    ):
        kind = "golden" if is_exact else "float32"
        assert_close(found, case[name][..., : width // 2], kind, f"{case.name}, {name}")
