"""Layers: functions (inputs) -> (value, backward), with no parameters of their own.

Positional floating arguments are differentiable, and backward returns their gradients in order.
Keyword-only arguments (a mask, ε, a scale, frozen weights) are static. LAYERS lists, in reading
order, the layers whose arguments are all stated by their shape specs; what is composed of them
(`multi_head_attention`, `mlp`, `block`, the combinators) takes trees of weights and adapters.
"""

from .activations import gelu, gelu_tanh, relu, silu
from .attention import (
    attention,
    causal_mask,
    grouped_query_attention,
    join_heads,
    split_heads,
)
from .block import BlockParameters, BlockWeights, block, pre_norm
from .bottleneck import bottleneck
from .combinators import chain, fixed, recompute, residual
from .embedding import embedding
from .linear import adapted_linear, affine, linear
from .loss import cross_entropy
from .mlp import GateUpDown, UpDown, gated_mlp, mlp
from .multi_head import QKVO, multi_head_attention, self_attention
from .normalization import layer_norm, rms_norm
from .rotary import rotary_angles, rotary_half, rotary_interleaved
from .softmax import log_softmax, softmax

LAYERS = (
    linear,
    affine,
    embedding,
    softmax,
    log_softmax,
    attention,
    grouped_query_attention,
    rotary_half,
    rotary_interleaved,
    layer_norm,
    rms_norm,
    relu,
    gelu,
    gelu_tanh,
    silu,
    bottleneck,
    cross_entropy,
)

__all__ = [
    "LAYERS",
    "QKVO",
    "BlockParameters",
    "BlockWeights",
    "GateUpDown",
    "UpDown",
    "adapted_linear",
    "affine",
    "attention",
    "block",
    "bottleneck",
    "causal_mask",
    "chain",
    "cross_entropy",
    "embedding",
    "fixed",
    "gated_mlp",
    "gelu",
    "gelu_tanh",
    "grouped_query_attention",
    "join_heads",
    "layer_norm",
    "linear",
    "log_softmax",
    "mlp",
    "multi_head_attention",
    "pre_norm",
    "recompute",
    "relu",
    "residual",
    "rms_norm",
    "rotary_angles",
    "rotary_half",
    "rotary_interleaved",
    "self_attention",
    "silu",
    "softmax",
    "split_heads",
]
