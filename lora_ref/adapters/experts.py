"""LoRA for a stack of experts: one weight with three axes, one pair of factors for each expert.

Math:
    W'_e = W_e + s B_e A_e
    y_e  = x_e W_eᵀ + s (x_e A_eᵀ) B_eᵀ         x_e are the tokens that expert e was given

    dA_e = s B_eᵀ dW'_e        dB_e = s dW'_e A_eᵀ
Shapes:
    x (..., E, T, n)   W (E, m, n)   A (E, r, n)   B (E, m, r)   y (..., E, T, m)
Units:
    Checkpoints hold the factors flattened to matrices, A (r·E, n) and B (m, r·E), and two orders
    of the r·E exist. Expert slowest: entry e·r + ρ. Expert fastest: entry ρ·E + e.
        from_peft, to_peft                      A slowest, B fastest
        from_expert_slowest, to_expert_slowest  A slowest, B slowest
    so that B_slowest[:, e·r + ρ] = B_peft[:, ρ·E + e]. Both have one shape: only the numbers tell.
Init:
    A_e ~ U(-1/√n, 1/√n), B = 0, at scale α/r.
Errors:
    ShapeError if A, B, W or x do not fit; ValueError if E does not divide a flattened axis.
Limits:
    Which tokens go to which expert is the router's business.
    A parameter stored (E, n, m) takes `FanInFanOut` around this adapter. So does every PEFT 0.18
    checkpoint, which read all parameters that way: there A belongs to the parameter's second axis.
Source:
    PEFT 0.21.2, LoraConfig.target_parameters (tuners/lora/layer.py, ParamWrapper.get_delta_weight:
    einsum "o r e, e r i -> e o i", or "-> e i o" where the module says is_transposed).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, as_array, namespace, on_device_of
from ..shapes import shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import scaling


@shapes(A="E r n", B="E m r")
@dataclass(frozen=True, eq=False)
class ExpertLoRA(Adapter):
    """W'_e = W_e + s B_e A_e."""

    A: Array
    B: Array
    scale: float

    @classmethod
    def init(cls, W: Array, rank: int, alpha: float, rng: np.random.Generator) -> Self:
        """Kaiming-uniform A and B = 0 for every expert, at scale α/r."""
        scale, (experts, m, n) = scaling(alpha, rank), W.shape
        A = as_array(rng.uniform(-(n**-0.5), n**-0.5, size=(experts, rank, n)), W)
        B = namespace(W).zeros((experts, m, rank), dtype=W.dtype, **on_device_of(W))
        return cls(A, B, scale)

    @shapes(W="E m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W'_e = W_e + s B_e A_e."""
        A, B, s = self.A, self.B, self.scale

        def backward(dW):
            return with_leaves(self, A=s * (B.mT @ dW), B=s * (dW @ A.mT))

        return W + s * (B @ A), backward

    @shapes(x="... E T n", W="E m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y_e = x_e W_eᵀ + s (x_e A_eᵀ) B_eᵀ."""
        A, B, s = self.A, self.B, self.scale
        u = x @ A.mT  # (..., E, T, r)
        y = x @ W.mT + s * (u @ B.mT)

        def backward(dy):
            du = s * (dy @ B)  # (..., E, T, r)
            dA, dB = _outer_sums(du, x), s * _outer_sums(dy, u)
            return dy @ W + du @ A, with_leaves(self, A=dA, B=dB)

        return y, backward

    def layer(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y_e = x_e W_eᵀ."""

        def backward(dy):
            return dy @ W, _outer_sums(dy, x)

        return x @ W.mT, backward


@shapes(A="rE n", B="m rE")
def from_peft(A: Array, B: Array, experts: int, scale: float) -> ExpertLoRA:
    """A (r·E, n), entry e·r + ρ; B (m, r·E), entry ρ·E + e."""
    rank = _rank("from_peft", A, experts)
    xp = namespace(A, B)
    by_rank = xp.reshape(B, (B.shape[0], rank, experts))
    return ExpertLoRA(_slowest(A, experts), xp.permute_dims(by_rank, (2, 0, 1)), scale)


def to_peft(adapter: ExpertLoRA) -> tuple[Array, Array]:
    """(A, B) as `from_peft` takes them."""
    xp = namespace(adapter.A, adapter.B)
    experts, m, rank = adapter.B.shape
    B = xp.reshape(xp.permute_dims(adapter.B, (1, 2, 0)), (m, rank * experts))
    return xp.reshape(adapter.A, (experts * rank, adapter.A.shape[2])), B


@shapes(A="rE n", B="m rE")
def from_expert_slowest(A: Array, B: Array, experts: int, scale: float) -> ExpertLoRA:
    """A (r·E, n) and B (m, r·E), both with entry e·r + ρ: the experts' own factors in a row."""
    _rank("from_expert_slowest", A, experts)
    return ExpertLoRA(_slowest(A, experts), _slowest(B.T, experts).mT, scale)


def to_expert_slowest(adapter: ExpertLoRA) -> tuple[Array, Array]:
    """(A, B) as `from_expert_slowest` takes them."""
    xp = namespace(adapter.A, adapter.B)
    experts, m, rank = adapter.B.shape
    A = xp.reshape(adapter.A, (experts * rank, adapter.A.shape[2]))
    return A, xp.reshape(adapter.B.mT, (experts * rank, m)).T


def _slowest(t: Array, experts: int) -> Array:
    """(E·r, n) as (E, r, n)."""
    return namespace(t).reshape(t, (experts, t.shape[0] // experts, t.shape[1]))


def _rank(owner: str, A: Array, experts: int) -> int:
    if experts < 1 or A.shape[0] % experts:
        raise ValueError(f"{owner}: experts must divide r·E = {A.shape[0]} from A, got {experts}")
    return A.shape[0] // experts


def _outer_sums(a: Array, b: Array) -> Array:
    """Σ aᵢ bᵢᵀ for each expert: a (..., E, T, m), b (..., E, T, n) give (E, m, n)."""
    products = a.mT @ b
    leading = tuple(range(products.ndim - 3))
    return namespace(a, b).sum(products, axis=leading) if leading else products
