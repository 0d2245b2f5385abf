"""A pre-norm transformer block: the composition, read as one page.

Math:
    a = x + attention(norm₁(x))
    y = a + mlp(norm₂(a))
Shapes:
    x (*batch, T, n)   y (*batch, T, n)
Source:
    Pre-norm: Xiong et al. 2020, arXiv:2002.04745, figure 1(b). `block` is Llama's (Touvron et al.
    2023, arXiv:2302.13971, section 2.2) without its rotary positions: RMSNorm, SwiGLU, no biases.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..arrays import Array, Backward
from .combinators import Stage, chain, residual
from .mlp import GateUpDown, gated_mlp
from .multi_head import QKVO, self_attention
from .normalization import rms_norm


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """The frozen matrices of a block."""

    attention: QKVO
    mlp: GateUpDown


@dataclass(frozen=True, eq=False)
class BlockParameters:
    """What is trained in a block, and its gradient: the gains of both norms, and the adapters."""

    norm1: Array
    attention: QKVO
    norm2: Array
    mlp: GateUpDown


def pre_norm(norm1: Stage, attention: Stage, norm2: Stage, mlp: Stage) -> Stage:
    """Any block of this form; its θ is ((θ_norm1, θ_attention), (θ_norm2, θ_mlp))."""
    return chain(residual(chain(norm1, attention)), residual(chain(norm2, mlp)))


def block(
    x: Array,
    parameters: BlockParameters,
    *,
    weights: BlockWeights,
    heads: int,
    kv_heads: int | None = None,
    mask: Array | None = None,
    eps: float = 1e-6,
) -> tuple[Array, Backward]:
    """RMSNorm, attention, RMSNorm, SwiGLU; backward: dy -> (dx, dparameters)."""
    norm = partial(rms_norm, eps=eps)
    how: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "mask": mask}
    attention = partial(self_attention, weights=weights.attention, **how)
    stage = pre_norm(norm, attention, norm, partial(gated_mlp, weights=weights.mlp))
    p = parameters
    y, stage_backward = stage(x, ((p.norm1, p.attention), (p.norm2, p.mlp)))

    def backward(dy):
        dx, ((dnorm1, dattention), (dnorm2, dmlp)) = stage_backward(dy)
        return dx, BlockParameters(dnorm1, dattention, dnorm2, dmlp)

    return y, backward
