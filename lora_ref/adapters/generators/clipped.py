"""Another generator's factors, both scaled and clipped: a scale that enters ΔW squared.

Math:
    A' = clip(t A, −b, b)        B' = clip(t B, −b, b)
    ΔW = t² B A where nothing is clipped

    dA = t dA' where |t A| < b, else 0        dB in the same way
Shapes:
    those of the generator inside
Units:
    t is a scale of each factor and t² that of the update, with s = 1: to compare with s = α/r, take
    the root.
Init:
    In the published code both heads start N(0, 10⁻⁶), standard deviation 1e-3, with biases of 0.
Limits:
    At the bound itself, |t A| = b, the gradient here is 0; JAX's clip passes half of it.
    The published layers also clip their low-rank part B A x to ±1000, by feature. That is no map of
    the weight, so no merge has it; below the bound the two agree. NaN is set to 0 there and kept
    here.
Source:
    Svar7769/HyperLoRA at dc8d1aa, hypernetwork.py (Hypernetwork.__call__: layer_scaling, clip,
    nan_to_num) and lora_policy.py (LoRAPolicy, einsums by example). Its features come from a
    transformer over agents; here from any generator.
"""

import math
from dataclasses import dataclass
from typing import Any

from ...arrays import Array, Backward, namespace
from ...trees import with_leaves
from .base import Generator


@dataclass(frozen=True, eq=False)
class ClippedGenerator(Generator):
    """clip(t A), clip(t B) of an inner generator."""

    inner: Generator
    scale: float
    bound: float = 1000.0

    def __post_init__(self) -> None:
        """A bound is a positive number."""
        super().__post_init__()
        if not 0 < self.bound < math.inf:
            raise ValueError(
                f"ClippedGenerator: bound must be positive and finite, got {self.bound}"
            )

    def generate(self, c: Array, layer: Any) -> tuple[tuple[Array, Array], Backward]:
        """(A', B'), and backward: (dA', dB') -> (dθ, dc)."""
        (A, B), inner_backward = self.inner.generate(c, layer)
        clipped_A, A_backward = self._clipped(A)
        clipped_B, B_backward = self._clipped(B)

        def backward(dA, dB):
            dinner, dc = inner_backward(A_backward(dA), B_backward(dB))
            return with_leaves(self, inner=dinner), dc

        return (clipped_A, clipped_B), backward

    def _clipped(self, t: Array) -> tuple[Array, Backward]:
        xp, scaled = namespace(t), self.scale * t
        inside = xp.abs(scaled) < self.bound
        clipped = xp.clip(scaled, -self.bound, self.bound)
        return clipped, lambda d: self.scale * xp.where(inside, d, 0.0)
