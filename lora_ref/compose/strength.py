"""An adapter at a strength k between none and all of it: three maps that agree at k = 1.

For LoRA all three are W + k s B A. For DoRA, and for every adapter that is no sum, they part.

Math:
    interpolated    W_k = W + k (W' − W)                       from W to W', on a straight line
    rescaled        W_k = m V_k / ‖V_k‖,   V_k = W + k s B A    W' of the adapter at scale k s
    gain_scaled     W_k = (1 + k (g − 1)) ∘ V                   from V to W' = g ∘ V
    Their backwards give dθ of the adapter as it is, at scale s and strength k.
Shapes:
    W, V (m, n); for `interpolated` whatever the adapter takes
Limits:
    At k = 0 the first is W. The second is m W / ‖W‖, whose rows have the trained lengths: W only
    for a magnitude that was not trained. The third is V, all of the direction and no magnitude, so
    strength 0 does not turn the adapter off.
    k < 0 and k > 1 are extrapolations; ‖V_k‖ may vanish on the way.
Source:
    interpolated: ComfyUI, comfy/weight_adapter/base.py, weight_decompose; stable-diffusion-webui
    since PR 16151. Before, it was `interpolated` at strength k α/r of the adapter at scale 1.
    gain_scaled: LyCORIS 3.3, modules/locon.py, apply_weight_decompose with a multiplier.
    rescaled: what scaling the factors, or α, of a finished DoRA does (PEFT's set_scale).
"""

from dataclasses import replace

from ..adapters.base import Adapter
from ..adapters.dora import DoRA
from ..adapters.dora_columns import ColumnDoRA
from ..adapters.lora import LoRA
from ..arrays import Array, Backward
from ..shapes import shapes
from ..trees import tree_map, with_leaves, zeros_like


def interpolated(adapter: Adapter, W: Array, strength: float) -> tuple[Array, Backward]:
    """W + k (W' − W), and backward: dW_k -> dθ."""
    k = float(strength)
    W_merged, weight_backward = adapter.weight(W)
    return W + k * (W_merged - W), lambda dW: weight_backward(k * dW)


@shapes(W="m n")
def rescaled(dora: DoRA | ColumnDoRA, W: Array, strength: float) -> tuple[Array, Backward]:
    """m V_k / ‖V_k‖ with k s for s, and backward: dW_k -> dθ."""
    W_k, weight_backward = replace(dora, scale=float(strength) * dora.scale).weight(W)
    return W_k, lambda dW: with_leaves(weight_backward(dW), scale=dora.scale)


@shapes(W="m n")
def gain_scaled(dora: DoRA | ColumnDoRA, W: Array, strength: float) -> tuple[Array, Backward]:
    """(1 + k (g − 1)) ∘ V = V + k (W' − V), and backward: dW_k -> dθ."""
    k = float(strength)
    W_merged, weight_backward = dora.weight(W)
    V, V_backward = LoRA(dora.A, dora.B, dora.scale).weight(W)

    def backward(dW):
        dlora = V_backward((1 - k) * dW)
        rest = with_leaves(dora, A=dlora.A, B=dlora.B, m=zeros_like(dora.m))
        return tree_map(lambda a, b: a + b, weight_backward(k * dW), rest)

    return V + k * (W_merged - V), backward
