"""VeRA: random factors that all layers share and nobody trains, and two trained vectors a layer.

Math:
    W' = W + (diag(λ_b) B) (diag(λ_d) A)
    y  = x Wᵀ + λ_b ∘ ((λ_d ∘ (x Aᵀ)) Bᵀ)

    dλ_b = Σⱼ dW' ∘ (B diag(λ_d) A)        dλ_d = Σⱼ ((diag(λ_b) B)ᵀ dW') ∘ A        by row
    A and B have no gradient: their fields are FROZEN.
Shapes:
    x (..., n)   W (m, n)   λ_b (m,)   λ_d (r,)   y (..., m)   A (r, n)   B (m, r)
    Shared are bases (r, N) and (M, r) as large as the largest layer; a layer has their first n
    columns and their first m rows, as views where the array library has views.
Units:
    There is no scale and no α.
Init:
    λ_b = 0, so W' = W, and λ_d = 0.1. `shared_bases` draws A and B uniform with variance 2 / (their
    number of columns), which is Kaiming's.
Errors:
    ShapeError if λ_b, λ_d, A, B, W or x do not fit, or shared bases are smaller than a layer.
Limits:
    The seed that PEFT saves makes A and B by PyTorch's generator and no other: a file without them
    (save_projection=False) cannot be read here, and PEFT itself warns.
Source:
    Kopiczko et al. 2024, arXiv:2310.11454, section 3.1, equation (2), where the vectors are b and d
    and the diagonal matrices Λ_b and Λ_d. PEFT 0.21.2, tuners/vera/layer.py, Linear: vera_lambda_b,
    vera_lambda_d; tuners/vera/model.py, _kaiming_init, which draws A and B as large as the largest
    layer and saves them once for the whole model, as base_model.vera_A and base_model.vera_B.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, namespace, on_device_of, row_sum
from ..shapes import ShapeError, shapes
from ..trees import FROZEN, with_leaves
from .base import Adapter


@shapes(lambda_b="m", lambda_d="r", A="r n", B="m r")
@dataclass(frozen=True, eq=False)
class VeRA(Adapter):
    """W' = W + diag(λ_b) B diag(λ_d) A; A and B are a part of what all layers share."""

    lambda_b: Array
    lambda_d: Array
    A: Array = field(metadata=FROZEN)
    B: Array = field(metadata=FROZEN)

    @classmethod
    @shapes(W="m n", A="r N", B="M r")
    def init(cls, W: Array, A: Array, B: Array, initial: float = 0.1) -> Self:
        """λ_b = 0 and λ_d = `initial`, over the shared bases A and B."""
        (m, n), xp, place = W.shape, namespace(W), {"dtype": W.dtype, **on_device_of(W)}
        if A.shape[1] < n or B.shape[0] < m:
            raise ShapeError(
                f"VeRA.init: A must be (r, N) and B (M, r) with N at least {n} and M at least {m} "
                f"from W, got {tuple(A.shape)} and {tuple(B.shape)}"
            )
        lambda_d = xp.full((A.shape[0],), initial, **place)
        return cls(xp.zeros((m,), **place), lambda_d, A[:, :n], B[:m, :])

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' = W + (λ_b ∘ B) (λ_d ∘ A), by row."""
        xp, A, B = namespace(W), self.A, self.B
        scaled_A, scaled_B = self.lambda_d[:, None] * A, self.lambda_b[:, None] * B

        def backward(dW):
            dlambda_b = xp.sum(dW * (B @ scaled_A), axis=1)
            dlambda_d = xp.sum((scaled_B.T @ dW) * A, axis=1)
            return with_leaves(self, lambda_b=dlambda_b, lambda_d=dlambda_d)

        return W + scaled_B @ scaled_A, backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ + λ_b ∘ ((λ_d ∘ (x Aᵀ)) Bᵀ)."""
        A, B = self.A, self.B
        u = x @ A.T  # (..., r)
        t = (self.lambda_d * u) @ B.T  # (..., m)
        y = x @ W.T + self.lambda_b * t

        def backward(dy):
            dv = (self.lambda_b * dy) @ B  # (..., r)
            dx = dy @ W + (self.lambda_d * dv) @ A
            return dx, with_leaves(self, lambda_b=row_sum(dy * t), lambda_d=row_sum(dv * u))

        return y, backward


def shared_bases(
    rank: int, outputs: int, inputs: int, rng: np.random.Generator, like: Array
) -> tuple[Array, Array]:
    """A (r, inputs) and B (outputs, r) for layers no larger; in the library and dtype of `like`."""
    A, B = (
        as_array(rng.uniform(-((6 / columns) ** 0.5), (6 / columns) ** 0.5, (rows, columns)), like)
        for rows, columns in ((rank, inputs), (outputs, rank))
    )
    return A, B
