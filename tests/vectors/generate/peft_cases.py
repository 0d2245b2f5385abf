"""The LoRA layers that peft_lora.py records: one frozen base layer, one configuration a case."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class Net(nn.Module):
    """The one layer under the name `layer`, so that PEFT has a path to target."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(*inputs)


class Experts(nn.Module):
    """Rows sent to experts that lie in one 3-D parameter, stored (E, out, in) or (E, in, out)."""

    def __init__(self, experts: int, inner: int, outer: int, is_transposed: bool) -> None:
        super().__init__()
        shape = (experts, inner, outer) if is_transposed else (experts, outer, inner)
        self.weight = nn.Parameter(torch.empty(shape))
        self.is_transposed = is_transposed

    def forward(self, x: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        layout = "nio,ni->no" if self.is_transposed else "noi,ni->no"
        return torch.einsum(layout, self.weight[expert], x)


class ExpertPair(nn.Module):
    """Gate and up in one (E, 2 * hidden, in) parameter, down in a second, as MoE blocks have it."""

    def __init__(self, experts: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * hidden, inner))
        self.down_proj = nn.Parameter(torch.empty(experts, inner, hidden))

    def forward(self, x: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        both = torch.einsum("noi,ni->no", self.gate_up_proj[expert], x)
        gate, up = both.chunk(2, dim=-1)
        h = nn.functional.silu(gate) * up
        return torch.einsum("noi,ni->no", self.down_proj[expert], h)


class AttentionNet(nn.Module):
    """`layer` called the way torch calls nn.MultiheadAttention."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x, x, need_weights=False)[0]


@dataclass(frozen=True)
class Case:
    """One layer, one configuration, the shapes or ids it is fed, and why it is here."""

    layer: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    config: dict[str, Any]
    reason: str
    geometry: dict[str, Any] = field(default_factory=dict)
    net: type[nn.Module] = Net
    route: str = "factored"
    mergeable: bool = True


def linear(
    r: int, alpha: int, reason: str, inner: int = 7, outer: int = 11, **options: Any
) -> Case:
    """A linear layer; x has two batch axes."""
    bias = options.pop("bias", True)
    config = {"r": r, "lora_alpha": alpha, **options}
    return Case(lambda: nn.Linear(inner, outer, bias), ((2, 4, inner),), config, reason)


def conv(
    kind: type, shape: tuple[int, ...], r: int, alpha: int, reason: str, **geometry: Any
) -> Case:
    """A convolution; `shape` is the input's, `geometry` what the base layer is built with.

    PEFT's A takes kernel, stride and padding from the base, but neither dilation, nor
    padding_mode, nor groups: with the first two its forward is not its merge, with groups it
    has no merge.
    """
    odd = {"dilation", "padding_mode"} & geometry.keys()
    return Case(
        lambda: kind(**geometry),
        (shape,),
        {"r": r, "lora_alpha": alpha},
        reason,
        geometry,
        route="merged" if odd else "factored",
        mergeable="groups" not in geometry,
    )


def experts(is_transposed: bool, r: int, alpha: int, reason: str) -> Case:
    """Three experts in one parameter; the ids leave no expert out and visit one twice."""
    return Case(
        lambda: Experts(3, 5, 4, is_transposed),
        ((6, 5), [2, 0, 1, 1, 2, 0]),
        {"r": r, "lora_alpha": alpha, "target_parameters": ["layer.weight"], "target_modules": []},
        reason,
        {"is_transposed": is_transposed},
    )


def expert_pair(names: list[str], r: int, alpha: int, reason: str) -> Case:
    """Both parameters of one expert module, targeted in the order named."""
    targets = [f"layer.{name}" for name in names]
    config = {"r": r, "lora_alpha": alpha, "target_parameters": targets, "target_modules": []}
    return Case(lambda: ExpertPair(3, 5, 4), ((6, 5), [2, 0, 1, 1, 2, 0]), config, reason)


CASES = {
    "linear": linear(3, 5, "the definition: y = xW' + b, s = alpha/r"),
    "linear_square": linear(4, 10, "square: a transposed factor does not fail by shape", 6, 6),
    "linear_rank_one": linear(1, 3, "rank 1: outer product, s = alpha"),
    "linear_wide_rank": linear(9, 4, "r above min(in, out): still a sum of r products"),
    "linear_no_base_bias": linear(2, 7, "base without a bias", bias=False),
    "linear_rslora": linear(5, 7, "s = alpha/sqrt(r)", use_rslora=True),
    "linear_lora_bias": linear(3, 8, "B has a bias, scaled by s", lora_bias=True),
    "conv1d_transformers": Case(
        lambda: Conv1D(11, 7),
        ((2, 3, 7),),
        {"r": 3, "lora_alpha": 5, "fan_in_fan_out": True},
        "fan_in_fan_out: the base is (in, out), the factors are as ever",
    ),
    "embedding": Case(
        lambda: nn.Embedding(13, 7),
        ([[3, 0, 12], [3, 5, 3]],),
        {"r": 4, "lora_alpha": 6},
        "A (r, vocabulary), B (dim, r), keys without .weight; repeated ids add up in dA",
    ),
    "embedding_padding": Case(
        lambda: nn.Embedding(13, 6, padding_idx=2),
        ([2, 5, 2, 11],),
        {"r": 3, "lora_alpha": 7},
        "padding_idx: its column of A gets no gradient, its update still counts in the value",
        {"padding_idx": 2},
    ),
    "conv1d": conv(
        nn.Conv1d,
        (2, 4, 9),
        3,
        5,
        "stride, zero padding and dilation at once",
        in_channels=4,
        out_channels=6,
        kernel_size=3,
        stride=2,
        padding=1,
        dilation=2,
    ),
    "conv1d_groups": conv(
        nn.Conv1d,
        (2, 6, 8),
        4,
        6,
        "groups: A sees all input channels, B is grouped; PEFT cannot merge this",
        in_channels=6,
        out_channels=10,
        kernel_size=2,
        groups=2,
    ),
    "conv1d_plain": conv(
        nn.Conv1d,
        (2, 4, 9),
        3,
        8,
        "stride and zero padding, PEFT's own forward",
        in_channels=4,
        out_channels=6,
        kernel_size=3,
        stride=2,
        padding=1,
    ),
    "conv1d_dilated_same": conv(
        nn.Conv1d,
        (2, 5, 8),
        2,
        7,
        "padding 'same' hides a lost dilation: the shapes agree, the values do not",
        in_channels=5,
        out_channels=4,
        kernel_size=3,
        padding="same",
        dilation=2,
    ),
    "conv1d_circular": conv(
        nn.Conv1d,
        (2, 3, 7),
        2,
        5,
        "padding_mode circular belongs to A too",
        in_channels=3,
        out_channels=5,
        kernel_size=4,
        padding=2,
        padding_mode="circular",
    ),
    "conv2d": conv(
        nn.Conv2d,
        (2, 3, 6, 7),
        4,
        6,
        "every number differs between the axes",
        in_channels=3,
        out_channels=5,
        kernel_size=(2, 3),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 2),
    ),
    "conv2d_pointwise": conv(
        nn.Conv2d,
        (2, 7, 3, 4),
        3,
        5,
        "kernel 1x1: PEFT merges it by a matrix product",
        in_channels=7,
        out_channels=11,
        kernel_size=1,
    ),
    "conv2d_reflect_same": conv(
        nn.Conv2d,
        (2, 3, 5, 6),
        2,
        7,
        "padding 'same' (uneven for an even kernel) with padding_mode reflect, no bias",
        in_channels=3,
        out_channels=4,
        kernel_size=(2, 3),
        padding="same",
        padding_mode="reflect",
        bias=False,
    ),
    "conv2d_depthwise": conv(
        nn.Conv2d,
        (2, 4, 5, 6),
        8,
        12,
        "groups = in: the base is depthwise, the update is not",
        in_channels=4,
        out_channels=8,
        kernel_size=3,
        groups=4,
        padding=1,
    ),
    "conv3d": conv(
        nn.Conv3d,
        (1, 2, 4, 3, 5),
        3,
        7,
        "three axes",
        in_channels=2,
        out_channels=4,
        kernel_size=(2, 1, 3),
        stride=(1, 1, 2),
        padding=(0, 1, 1),
    ),
    "experts": experts(False, 2, 3, "parameter (E, out, in): expert slowest in A, fastest in B"),
    "experts_transposed": experts(True, 2, 5, "parameter (E, in, out), is_transposed"),
    "experts_pair": expert_pair(
        ["gate_up_proj", "down_proj"],
        2,
        7,
        "two parameters of one module: the keys say base_layer, not which parameter",
    ),
    "experts_pair_reversed": expert_pair(
        ["down_proj", "gate_up_proj"],
        2,
        9,
        "the same, the targets listed the other way round",
    ),
    "attention_in_proj": Case(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        ((2, 5, 8),),
        {"r": 3, "lora_alpha": 5},
        "nn.MultiheadAttention: one pair for the fused q, k, v and one for out_proj",
        {"num_heads": 2, "batch_first": True},
        AttentionNet,
    ),
    "linear_dora": linear(3, 5, "m V / |V| by row, norm detached; base bias", use_dora=True),
    "linear_dora_square": linear(
        4, 10, "square: a norm by column does not fail by shape", 6, 6, use_dora=True
    ),
    "linear_dora_no_base_bias": linear(2, 7, "no base bias", bias=False, use_dora=True),
    "linear_dora_rslora": linear(
        5, 7, "V at s = alpha/sqrt(r)", 13, 8, use_dora=True, use_rslora=True
    ),
    "conv1d_transformers_dora": Case(
        lambda: Conv1D(11, 7),
        ((2, 3, 7),),
        {"r": 3, "lora_alpha": 5, "fan_in_fan_out": True, "use_dora": True},
        "fan_in_fan_out: the norm is still over the inputs, one for each output",
    ),
}
