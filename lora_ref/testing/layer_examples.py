"""Example calls of every layer: LAYER_EXAMPLES, a name and a `Make` for each.

A layer of LAYERS gets its arguments from its shape specs, once with sizes pairwise different and
once with all of them equal. What the specs do not say (masks, numbers of heads, trees of frozen
weights and adapters, a kink to stay away from) stands here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..adapters.lora import LoRA
from ..layers import (
    LAYERS,
    QKVO,
    BlockParameters,
    BlockWeights,
    GateUpDown,
    UpDown,
    attention,
    block,
    causal_mask,
    chain,
    cross_entropy,
    gated_mlp,
    gelu,
    grouped_query_attention,
    mlp,
    multi_head_attention,
    recompute,
    relu,
    rms_norm,
    rotary_angles,
    rotary_half,
    rotary_interleaved,
    self_attention,
    softmax,
)
from ..layers.factored_attention import factored_attention
from ..layers.linear_of_data import linear_of_data
from .examples import SCALE, Case, Make, function_case

Rng = np.random.Generator
_EQUAL = 4


@dataclass(frozen=True, eq=False)
class Call:
    """A function with its static arguments: a tree, so that another library's arrays fit in."""

    function: Callable[..., Any]
    static: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args, **self.static)


def _softmax_with(mask: Callable[[Rng], np.ndarray], rng: Rng) -> Case:
    return Case(Call(softmax, {"mask": mask(rng)}), (rng.standard_normal((2, 5, 7)),))


def _boolean(rng: Rng) -> np.ndarray:
    """Row 0 may attend to everything, row 1 to nothing."""
    mask = rng.random((5, 7)) < 0.6
    mask[0], mask[1] = True, False
    return mask


def _additive(rng: Rng) -> np.ndarray:
    return np.where(_boolean(rng), rng.standard_normal((5, 7)), -np.inf)


def _attention_with(mask: Callable[[Rng], np.ndarray], rng: Rng) -> Case:
    q, k, v = (rng.standard_normal((2, 3, *shape)) for shape in ((5, 4), (7, 4), (7, 6)))
    return Case(Call(attention, {"mask": mask(rng), "scale": 0.7}), (q, k, v))


def _causal(rng: Rng) -> np.ndarray:
    return causal_mask(5, 7, np.ones(1), offset=2)


def _grouped(heads: int, kv_heads: int, mask: tuple[int, ...], rng: Rng) -> Case:
    shapes = (2, heads, 5, 4), (2, kv_heads, 7, 4), (2, kv_heads, 7, 3)
    static = {"mask": rng.random(mask) < 0.7} if mask else {}
    qkv = tuple(rng.standard_normal(shape) for shape in shapes)
    return Case(Call(grouped_query_attention, static), qkv)


def _rotary(function: Callable[..., Any], width: int, positions: tuple[int, ...], rng: Rng) -> Case:
    """Queries (2, 3, 5, 8), of whose features the first `width` turn."""
    p = rng.integers(-40, 40, size=positions)
    cos, sin = rotary_angles(p, width, base=50.0)
    return Case(Call(function, {"cos": cos, "sin": sin}), (rng.standard_normal((2, 3, 5, 8)),))


def _factored(rng: Rng) -> Case:
    """Its cotangents are products; the checks take them multiplied out."""

    def dense(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Any:
        o, backward = factored_attention(q, k, v)
        return o, lambda do: tuple(product.dense() for product in backward(do))

    return Case(dense, tuple(rng.standard_normal((7, width)) for width in (4, 4, 3)))


def _of_data(rng: Rng) -> Case:
    """x is static: it has no gradient."""
    x, W = rng.standard_normal((5, 11)), rng.standard_normal((7, 11))
    return Case(Call(lambda W, x: linear_of_data(x, W), {"x": x}), (W,))


def _away_from_0(rng: Rng) -> Case:
    x = rng.standard_normal((2, 3, 11))
    return Case(relu, (x + np.sign(x) / 10,))


def _partly_counted(rng: Rng) -> Case:
    z, targets = rng.standard_normal((3, 5, 11)), rng.integers(0, 11, size=(3, 5))
    where = np.arange(15).reshape(3, 5) % 4 != 0
    return Case(Call(cross_entropy, {"where": where}), (z, np.where(where, targets, -100)))


def lora(W: np.ndarray, rank: int, rng: Rng) -> LoRA:
    """A LoRA of W at a generic point."""
    m, n = W.shape
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), SCALE)


def _weights(rng: Rng, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(s) / s[-1] ** 0.5 for name, s in shapes.items()}


def _qkvo(rng: Rng, width: int, memory: int) -> QKVO:
    """Four heads of q, two of k and v; d = 3 and e = 5."""
    return QKVO(**_weights(rng, q=(12, width), k=(6, memory), v=(10, memory), o=(width, 20)))


_HEADS = {"heads": 4, "kv_heads": 2}


def _self_attention(rng: Rng) -> Case:
    W = _qkvo(rng, 11, 11)
    adapters = QKVO(q=lora(W.q, 2, rng), v=lora(W.v, 3, rng))
    biases = QKVO(*(rng.standard_normal(w.shape[0]) for w in (W.q, W.k, W.v, W.o)))
    mask = causal_mask(7, 7, np.ones(1))
    static = {"weights": W, "biases": biases, "mask": mask, **_HEADS}
    return Case(Call(self_attention, static), (rng.standard_normal((2, 7, 11)), adapters))


def _cross_attention(rng: Rng) -> Case:
    W = _qkvo(rng, 11, 13)
    adapters = QKVO(k=lora(W.k, 2, rng), o=lora(W.o, 3, rng))
    x, memory = rng.standard_normal((2, 7, 11)), rng.standard_normal((2, 9, 13))
    return Case(Call(multi_head_attention, {"weights": W, **_HEADS}), (x, memory, adapters))


def _mlp(rng: Rng) -> Case:
    W = UpDown(**_weights(rng, up=(13, 11), down=(11, 13)))
    adapters = UpDown(up=lora(W.up, 3, rng), down=lora(W.down, 2, rng))
    biases = UpDown(rng.standard_normal(13), rng.standard_normal(11))
    static = {"weights": W, "activation": gelu, "biases": biases}
    return Case(Call(mlp, static), (rng.standard_normal((2, 7, 11)), adapters))


def _gate_up_down(rng: Rng) -> GateUpDown:
    return GateUpDown(**_weights(rng, gate=(13, 11), up=(13, 11), down=(11, 13)))


def _gated_mlp(rng: Rng) -> Case:
    W = _gate_up_down(rng)
    adapters = GateUpDown(*(lora(w, 3, rng) for w in (W.gate, W.up, W.down)))
    return Case(Call(gated_mlp, {"weights": W}), (rng.standard_normal((2, 7, 11)), adapters))


def _block(function: Callable[..., Any], rng: Rng) -> Case:
    W = BlockWeights(_qkvo(rng, 11, 11), _gate_up_down(rng))
    gains = rng.standard_normal((2, 11))
    parameters = BlockParameters(
        gains[0],
        QKVO(q=lora(W.attention.q, 2, rng)),
        gains[1],
        GateUpDown(up=lora(W.mlp.up, 3, rng)),
    )
    static = {"weights": W, "mask": causal_mask(7, 7, np.ones(1)), **_HEADS}
    return Case(Call(function, static), (rng.standard_normal((2, 7, 11)), parameters))


def _chain(rng: Rng) -> Case:
    gains = rng.standard_normal((2, 11))
    return Case(chain(rms_norm, rms_norm), (rng.standard_normal((2, 7, 11)), tuple(gains)))


_SPECIAL: dict[str, Make] = {
    "softmax, boolean mask": partial(_softmax_with, _boolean),
    "softmax, additive mask": partial(_softmax_with, _additive),
    "attention, boolean mask": partial(_attention_with, _boolean),
    "attention, additive mask": partial(_attention_with, _additive),
    "attention, causal": partial(_attention_with, _causal),
    "grouped_query_attention": partial(_grouped, 6, 2, ()),
    "grouped_query_attention, equal sizes": partial(
        function_case, grouped_query_attention, square=_EQUAL
    ),
    "grouped_query_attention, one group": partial(_grouped, 3, 3, (5, 7)),
    "grouped_query_attention, multi-query": partial(_grouped, 3, 1, (2, 1, 1, 7)),
    "grouped_query_attention, mask by head": partial(_grouped, 6, 2, (2, 6, 5, 7)),
    "grouped_query_attention, row mask by head": partial(_grouped, 6, 2, (6, 1, 7)),
    "rotary_half": partial(_rotary, rotary_half, 8, (5,)),
    "rotary_half, partial, by batch": partial(_rotary, rotary_half, 6, (2, 1, 5)),
    "rotary_interleaved": partial(_rotary, rotary_interleaved, 8, (5,)),
    "rotary_interleaved, partial, by batch": partial(_rotary, rotary_interleaved, 6, (2, 1, 5)),
    "factored_attention": _factored,
    "linear_of_data": _of_data,
    "relu": _away_from_0,
    "cross_entropy, where": _partly_counted,
    "self_attention": _self_attention,
    "multi_head_attention": _cross_attention,
    "mlp": _mlp,
    "gated_mlp": _gated_mlp,
    "chain": _chain,
    "block": partial(_block, block),
    "block, recomputed": partial(_block, recompute(block)),
}

_FROM_SPECS: dict[str, Make] = {
    f"{layer.__name__}{at}": partial(function_case, layer, square=square)
    for layer in LAYERS
    if layer.__name__ not in _SPECIAL
    for at, square in (("", None), (", equal sizes", _EQUAL))
}

LAYER_EXAMPLES: dict[str, Make] = {**_FROM_SPECS, **_SPECIAL}
