"""LoRA-GA: the adapter starts along the gradient of the weight.

Math:
    G = U diag(S) Vᵀ, the gradient of the loss by W; I_A, I_B two sets of r of its first 2r
    components
    authors:  A = g V_{I_A}ᵀ              B = g U_{I_B}
    PEFT:     A = g_A V_{I_A}ᵀ            B = g_B U_{I_B} diag(S_{I_B})
    W_res = W − s B A
    A step of gradient descent moves s B A by −η s (B dA + dB A), dA = s Bᵀ G, dB = s G Aᵀ. With the
    authors' factors, and I_A and I_B disjoint, that is −η s² g² G_2r: G_2r is the best
    approximation of G with rank 2r, so it is the step of full fine-tuning, as near as rank 2r comes
    to it. With S in B the part on U's side is weighted with S² and this is lost.
    g:  `stable_gain` m^¼/√γ     1/s (the authors' "gd", PEFT's "gd_scale")     1 ("unit")
        `weight_gain` the mean of √(Sᵢ(W)/s) over i ≤ r (the authors' "weightS")
Shapes:
    W, G, W_res (m, n)   A (r, n)   B (m, r)
Errors:
    ShapeError if W or G does not fit; ValueError if the rank is no integer from 1 to min(m, n)/2,
    W, G, s or a gain not finite, or γ not positive, nor s where it is divided by.
Limits:
    The size of G does not matter, except to `lora_ga_peft`; its sign turns that of B, and W_res.
    Where U and V are turned together, A and B are turned each by itself: I_A and I_B differ, so the
    sign of each component of B A is free, and W_res + s B A = W all the same.
    PEFT and the authors approximate the SVD at random (4 iterations, 4r components); here it is
    exact. PEFT rounds A and B to W's type first; W_res is rounded here, A and B are not.
Source:
    Wang, Yu, Li 2024, arXiv:2407.05000, section 3 and algorithm 1, whose √γ is meant everywhere
    (LoRA-GA#12); the authors' Outsider565/LoRA-GA, LoraLayer.lora_ga_init, m the rows of G;
    PEFT 0.21.2, tuners/lora/layer.py, LoraLayer.lora_ga_init, init_lora_weights="lora_ga", where m
    is the weight's first size even if the weight is stored inputs first.
"""

from dataclasses import dataclass

import numpy as np

from ..adapters.lora import LoRA
from ..arrays import Array, namespace, working
from ..shapes import shapes
from ..values import checked_finite, checked_number
from .decomposition import checked_rank, checked_scale, residual, svd


@dataclass(frozen=True)
class Parts:
    """Which components of the gradient go to A, and which to B, counted from 0."""

    A: tuple[int, ...]
    B: tuple[int, ...]


def leading_to_A(rank: int) -> Parts:  # noqa: N802
    """The first r to A, the next r to B: the default of the authors and of PEFT, "ArB2r"."""
    return Parts(tuple(range(rank)), tuple(range(rank, 2 * rank)))


def leading_to_B(rank: int) -> Parts:  # noqa: N802
    """The first r to B, the next r to A: "A2rBr"."""
    return Parts(tuple(range(rank, 2 * rank)), tuple(range(rank)))


def alternating(rank: int) -> Parts:
    """0, 2, 4, … to B and 1, 3, 5, … to A: "ArBr"."""
    return Parts(tuple(range(1, 2 * rank, 2)), tuple(range(0, 2 * rank, 2)))


def drawn_parts(rank: int, rng: np.random.Generator) -> Parts:
    """A random half to each: the authors' "random". PEFT's gives both the same r."""
    order = [int(i) for i in rng.permutation(2 * rank)]
    return Parts(tuple(order[:rank]), tuple(order[rank:]))


def stable_gain(outputs: int, gamma: float = 16) -> float:
    """m^¼/√γ."""
    if checked_number("stable_gain", "gamma", gamma) <= 0:
        raise ValueError(f"stable_gain: gamma must be positive, got {gamma}")
    return float(outputs) ** 0.25 / float(gamma) ** 0.5


@shapes(W="m n")
def weight_gain(W: Array, rank: int, scale: float) -> float:
    """The mean of √(Sᵢ(W)/s) over the first r: the size of PiSSA's factors."""
    checked_rank("weight_gain", rank, W)
    scale = checked_scale("weight_gain", scale)
    S = svd("weight_gain", "W", working(W))[1][:rank] / scale
    xp = namespace(S)
    return float(xp.mean(xp.sqrt(S)))


@shapes(W="m n", G="m n")
def lora_ga(
    W: Array, G: Array, rank: int, scale: float, *, gain: float, parts: Parts | None = None
) -> tuple[LoRA, Array]:
    """Singular vectors of G for both factors, times one gain; and W without s B A."""
    gain = checked_number("lora_ga", "gain", gain)
    scale, (U, _, Vt) = _checked("lora_ga", W, G, rank, scale)
    chosen = parts or leading_to_A(rank)
    return _start(W, gain * _rows(Vt, chosen.A), gain * _rows(U.T, chosen.B).T, scale)


@shapes(W="m n", G="m n")
def lora_ga_peft(
    W: Array,
    G: Array,
    rank: int,
    scale: float,
    *,
    gain_A: float = 1.0,
    gain_B: float = 1.0,
    parts: Parts | None = None,
) -> tuple[LoRA, Array]:
    """What PEFT computes: S in B, and a gain for each factor; and W without s B A.

    "stable" is gain_B = `stable_gain(m)`, "gd_scale" is 1/s for both, "unit" is 1 for both, and
    "weight_svd" is gain_B = S₁(W) / S_b, b the first component of B.
    """
    gain_A = checked_number("lora_ga_peft", "gain_A", gain_A)
    gain_B = checked_number("lora_ga_peft", "gain_B", gain_B)
    scale, (U, S, Vt) = _checked("lora_ga_peft", W, G, rank, scale)
    chosen = parts or leading_to_A(rank)
    B = _rows((U * S).T, chosen.B).T
    return _start(W, gain_A * _rows(Vt, chosen.A), gain_B * B, scale)


def _checked(
    owner: str, W: Array, G: Array, rank: int, scale: float
) -> tuple[float, tuple[Array, Array, Array]]:
    """s and the SVD of G, of arguments that can be started from."""
    checked_rank(owner, rank, G, min(G.shape) // 2, "G")
    checked_finite(owner, "W", working(W))
    return checked_number(owner, "scale", scale), svd(owner, "G", working(G))


def _rows(t: Array, chosen: tuple[int, ...]) -> Array:
    return namespace(t).stack([t[i, :] for i in chosen])


def _start(W: Array, A: Array, B: Array, scale: float) -> tuple[LoRA, Array]:
    lora = LoRA(A, B, scale)
    return lora, residual(W, lora)
