"""The adapter of one module of a LoRA's file; `peft_convert` has the way back and the layouts.

Errors:  ValueError where a convolution comes without its geometry, or with another's
Source:  PEFT 0.21.2, tuners/lora/layer.py
"""

from ..adapters.base import Adapter
from ..adapters.conv import ConvLoRA, peft_grouped
from ..adapters.embedding import EmbeddingLoRA
from ..adapters.experts import from_peft
from ..adapters.lora import LoRA
from ..adapters.lora_bias import BiasedLoRA
from ..layers.convolution import Geometry
from .inputs_first import turned
from .peft_modules import Kind, LoraModule


def to_lora(module: LoraModule, geometry: Geometry | None = None) -> Adapter:
    """Return the adapter that `module` holds, in the type of its values, in FanInFanOut or not.

    A convolution needs the `geometry` of its base layer. A parameter of one expert is taken for a
    matrix; a stack of one needs `from_peft(module.A, module.B, 1, module.scale)`.
    A grouped convolution's adapter is that of the ungrouped kernel (see `ConvLoRA`), and does not
    go back into the grouped layout.
    """
    A, B, s = module.A, module.B, module.scale
    if module.kind is Kind.EMBEDDING:
        return EmbeddingLoRA(A, B, s)
    if module.kind is Kind.PARAMETER and A.shape[0] > module.rank:
        return from_peft(A, B, A.shape[0] // module.rank, s)
    lora: LoRA | ConvLoRA = LoRA(A, B, s) if A.ndim == 2 else _convolution(module, A, B, geometry)
    adapter = lora if module.beta is None else BiasedLoRA(lora, module.beta)
    return turned(adapter, module.fan_in_fan_out)


def _convolution(module, A, B, geometry):
    if geometry is None:
        raise ValueError(
            f"to_lora: geometry must be given, since {module.path} is a convolution "
            f"(A is {tuple(A.shape)}), got None"
        )
    if B.shape[1] * geometry.groups != module.rank:
        raise ValueError(
            f"to_lora: geometry.groups must be {module.rank // B.shape[1]}, since lora_B of "
            f"{module.path} is {tuple(B.shape)} at rank {module.rank}, got {geometry.groups}"
        )
    if geometry.groups > 1:
        return peft_grouped(A, B, module.scale, geometry)
    return ConvLoRA(A, B, module.scale, geometry)
