"""HyperLoRA for dialects: a network for A, another for B, and the layer's number as a feature.

Math:
    z = [c; l]        l the number of the layer itself
    A = (V₂ relu(V₁ z + v₁) + v₂ as (n, r))ᵀ
    B = (U₂ relu(U₁ z + u₁) + u₂ as (r, m))ᵀ / √r

    dz adds up over both networks and its last entry, that of l, is dropped
Shapes:
    c (..., k)   V₁, U₁ (h, k + 1)   V₂ (n r, h)   U₂ (r m, h)   A (..., r, n)   B (..., m, r)
Units:
    s = 1: no α, no division by the rank beside the √r in B.
Init:
    `init`: all matrices N(0, 10⁻¹⁴), that is with a standard deviation of 1e-7, all biases 0.
Errors:
    ShapeError if the networks do not end in multiples of r, or c does not fill their input.
Limits:
    The number l is not scaled: 23 for the last value projection of RoBERTa-base, beside features of
    a dialect near 1. At the start A and B are of the order 1e-13 and ΔW of 1e-25; the largest
    gradients, of the last biases, are 1e-13 of those of W', far below the ε that Adam adds.
Source:
    Xiao et al. 2023, "Task-Agnostic Low-Rank Adapters for Unseen English Dialects",
    arXiv:2311.00915; zedian/hyperlora at 8292479, src/model_utils.py (HyperNet, RobertaLoraWrapper,
    which numbers query projections 2 i and value projections 2 i + 1), src/hypernet_utils.py
    (HyperParamNet), src/hyperlora.py (HyperLora.forward). A second HyperNet, in src/hyperlora.py,
    has no hidden layer and no √r; the scripts do not use it.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ...arrays import Array, Backward, as_array, namespace, on_device_of
from ...layers.activations import relu
from ...shapes import ShapeError, shapes
from ...trees import with_leaves
from .base import Generator, check_width
from .pieces import Affine, Network, joined

_START = 1e-7


@dataclass(frozen=True, eq=False)
class DialectGenerator(Generator):
    """Two networks on [c; l], whose outputs are read as (n, r) and (r, m)."""

    down: Network
    up: Network
    rank: int

    def __post_init__(self) -> None:
        """Both outputs must be matrices with a side of r."""
        super().__post_init__()
        for name, network in (("down", self.down), ("up", self.up)):
            size = network.second.V.shape[0]
            if self.rank < 1 or size % self.rank:
                raise ShapeError(
                    f"DialectGenerator: rank must divide the {size} outputs of {name}, "
                    f"got {self.rank}"
                )

    @classmethod
    def init(
        cls, W: Array, rank: int, rng: np.random.Generator, *, condition: int, width: int = 8
    ) -> Self:
        """Normal matrices of standard deviation 1e-7 and biases of zero."""
        xp, made = namespace(W), {"dtype": W.dtype, **on_device_of(W)}

        def drawn(size: int, inputs: int) -> Affine:
            V = as_array(rng.normal(0, _START, size=(size, inputs)), W)
            return Affine(V, xp.zeros((size,), **made))

        A, B = (
            Network(drawn(width, condition + 1), drawn(side * rank, width))
            for side in (W.shape[1], W.shape[0])
        )
        return cls(A, B, rank)

    @shapes(c="... k")
    def generate(self, c: Array, layer: int) -> tuple[tuple[Array, Array], Backward]:
        """(A, B), and backward: (dA, dB) -> (dθ, dc)."""
        xp, rank = namespace(c), self.rank
        number = xp.ones((1,), dtype=c.dtype, **on_device_of(c)) * float(layer)
        check_width("DialectGenerator", c, self.down.first.V.shape[1], 1)
        z, joined_backward = joined(c, number)
        flat_A, A_backward = self.down(z, relu)
        flat_B, B_backward = self.up(z, relu)
        lead = c.shape[:-1]
        A = xp.reshape(flat_A, (*lead, flat_A.shape[-1] // rank, rank)).mT
        B = xp.reshape(flat_B, (*lead, rank, flat_B.shape[-1] // rank)).mT / rank**0.5

        def backward(dA, dB):
            dz_A, ddown = A_backward(xp.reshape(dA.mT, flat_A.shape))
            dz_B, dup = B_backward(xp.reshape((dB / rank**0.5).mT, flat_B.shape))
            dc, _ = joined_backward(dz_A + dz_B)
            return with_leaves(self, down=ddown, up=dup), dc

        return (A, B), backward
