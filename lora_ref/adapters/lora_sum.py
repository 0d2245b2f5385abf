"""The sum of several LoRA on one weight.

Math:
    W' = W + Σ_i s_i B_i A_i
    y  = x Wᵀ + Σ_i s_i (x A_iᵀ) B_iᵀ

    dA_i = s_i B_iᵀ dW'        dB_i = s_i dW' A_iᵀ
    cat: the same ΔW as one LoRA of rank Σ r_i, A = [s_i A_i] stacked, B = [B_i] side by side, s = 1
Shapes:
    x (..., n)   W (m, n)   A_i (r_i, n)   B_i (m, r_i)
Errors:
    ValueError if there is no part; ShapeError if parts do not fit each other or W.
Limits:
    Adding the factors is another thing: (Σ B_i)(Σ A_i) has the cross terms B_i A_j as well
    (sd-scripts#586). PEFT's add_weighted_adapter does that with combination_type="linear".
Source:
    The sum is what PEFT 0.21.2 computes with several active adapters (tuners/lora/layer.py,
    Linear.forward); `cat` is add_weighted_adapter with combination_type="cat" and weights 1
    (tuners/lora/model.py), which like this folds the scale into A.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..arrays import Array, Backward, namespace
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import LoRA


@dataclass(frozen=True, eq=False)
class LoRASum(Adapter):
    """W' = W + Σ s_i B_i A_i."""

    parts: tuple[LoRA, ...]

    def __post_init__(self) -> None:
        """There must be something to add, of one shape."""
        super().__post_init__()
        _check_parts("LoRASum", self.parts)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + Σ s_i B_i A_i."""
        W_merged, backwards = W, []
        for part in self.parts:
            W_merged, part_backward = part.weight(W_merged)
            backwards.append(part_backward)

        def backward(dW):
            return with_leaves(self, parts=tuple(b(dW) for b in backwards))

        return W_merged, backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + Σ s_i (x A_iᵀ) B_iᵀ, all x A_iᵀ in one product."""
        joined = cat(self.parts)
        y, joined_backward = joined.apply(x, W)

        def backward(dy):
            dx, d = joined_backward(dy)
            gradients, first = [], 0
            for part in self.parts:
                own = slice(first, first + part.A.shape[0])
                dA = part.scale * d.A[own, :]
                gradients.append(with_leaves(part, A=dA, B=d.B[:, own]))
                first = own.stop
            return dx, with_leaves(self, parts=tuple(gradients))

        return y, backward


def cat(parts: Sequence[LoRA]) -> LoRA:
    """One LoRA with the sum of the parts' updates, exactly: factors stacked, scales folded in A."""
    _check_parts("cat", parts)
    xp = namespace(*(part.A for part in parts))
    A = xp.concat([part.scale * part.A for part in parts], axis=0)
    return LoRA(A, xp.concat([part.B for part in parts], axis=1), 1.0)


def _check_parts(owner: str, parts: Sequence[LoRA]) -> None:
    if not parts:
        raise ValueError(f"{owner}: parts must hold at least one LoRA, got none")
    m, n = parts[0].B.shape[0], parts[0].A.shape[1]
    for i, part in enumerate(parts):
        found = (part.B.shape[0], part.A.shape[1])
        if found != (m, n):
            raise ShapeError(
                f"{owner}: parts[{i}] must fit W (m, n) = {(m, n)} from parts[0], got {found}"
            )
