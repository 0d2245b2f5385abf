"""Start small, scale up: a LoRA that gets a larger rank when it has used up what it has.

    state = ScaleUpState(Plateau(patience=3))
    for each evaluation:
        state, adapters = scale_up(state, adapters, loss, rng, ScaleUp(limit=32))
        for name in state.grown:                          the optimiser's moments follow
            moments[name] = widened_moments(moments[name], rank of adapters[name])

Math:
    A' = [A; A_new]        B' = (s/s') [B, 0]        so s' B' A' = s B A

    A layer grows by `factor` when the loss is on a plateau and effective rank / r ≥ `used`.
Shapes:
    A (r, n), B (m, r) before; A' (r', n), B' (m, r') after, r' ≤ min(limit, m, n)
Units:
    The scale s stays unless another is given. Where s comes from α/r, keeping it means
    α' = α r'/r; with α/√r, α' = α √(r'/r).
Init:
    A_new ~ U(−1/√n, 1/√n), as `LoRA.init` draws it; its columns of B are zero, so they have a
    gradient at once.
Errors:
    ValueError for a rank that is no integer or smaller than the adapter's, a scale that is zero or
    not finite, a factor that is no integer of at least 2, a limit that is none of at least 1, a
    `used` outside [0, 1]; what `spectrum` refuses of adapters that are asked to grow.
Limits:
    A layer with ΔW = 0 uses nothing and does not grow, but for `used` = 0. The rule looks at the
    loss it is given: give it the one of held-out data.
    The moments of the old entries stay right if s does: `widened_moments` adds zeros.
    A compiled training loop sees new shapes and compiles again.
Source:
    One of this project's source texts advises to start with a small rank and to scale up; it has
    no formula. The plateau is that of `allocation.growth`, the effective rank Roy & Vetterli's;
    zero columns that keep the function: Chen, Goodfellow & Shlens 2016, Net2Net, arXiv:1511.05641.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..adapters.lora import LoRA
from ..arrays import Array, as_array, namespace, on_device_of
from ..values import checked_count, checked_number
from .allocation.growth import Plateau
from .measures import effective_rank
from .spectrum import spectrum


@dataclass(frozen=True)
class ScaleUp:
    """How far and how fast ranks grow, and how much of a rank must be in use before."""

    limit: int
    factor: int = 2
    used: float = 0.5

    def __post_init__(self) -> None:
        """A limit of at least 1, a factor of at least 2, a share in [0, 1]."""
        checked_count("ScaleUp", "limit", self.limit, 1)
        checked_count("ScaleUp", "factor", self.factor, 2)
        if not 0 <= self.used <= 1:
            raise ValueError(f"ScaleUp: used must be in [0, 1], got {self.used}")


@dataclass(frozen=True)
class ScaleUpState:
    """The plateau so far, and the layers that grew in the last call."""

    plateau: Plateau
    grown: tuple[str, ...] = ()


def scale_up(
    state: ScaleUpState,
    adapters: Mapping[str, LoRA],
    loss: float,
    rng: np.random.Generator,
    rule: ScaleUp,
) -> tuple[ScaleUpState, dict[str, LoRA]]:
    """The state and the adapters after one more loss."""
    plateau = state.plateau.observe(loss)
    ranks = {name: _wanted(a, rule) if plateau.is_reached else 0 for name, a in adapters.items()}
    grown = tuple(name for name, a in adapters.items() if ranks[name] > a.A.shape[0])
    moved = {n: widened(a, ranks[n], rng) if n in grown else a for n, a in adapters.items()}
    return ScaleUpState(plateau, grown), moved


def use(adapter: LoRA) -> float:
    """Effective rank over rank: 1 if all directions are of one size, 0 for no update."""
    return effective_rank(spectrum(adapter)) / adapter.A.shape[0]


def widened(adapter: LoRA, rank: int, rng: np.random.Generator, scale: float | None = None) -> LoRA:
    """The same update at a larger rank."""
    A, B, s = adapter.A, adapter.B, adapter.scale
    more, n = _more("widened", A, rank), A.shape[1]
    if scale is not None and (scale := checked_number("widened", "scale", scale)) == 0:
        raise ValueError("widened: scale must not be zero, since B is divided by it")
    drawn = as_array(rng.uniform(-(n**-0.5), n**-0.5, size=(more, n)), A)
    wide = namespace(A).concat([A, drawn], axis=0)
    if scale is not None:
        B = (s / scale) * B
    return replace(adapter, A=wide, B=_padded(B, more), scale=s if scale is None else scale)


def widened_moments(moments: LoRA, rank: int) -> LoRA:
    """Moments of A and B, in a LoRA's place, with zeros for the entries that are new."""
    more = _more("widened_moments", moments.A, rank)
    return replace(moments, A=_padded(moments.A.T, more).T, B=_padded(moments.B, more))


def _wanted(adapter: LoRA, rule: ScaleUp) -> int:
    """The rank that a layer goes to on a plateau."""
    rank = adapter.A.shape[0]
    if use(adapter) < rule.used:
        return rank
    return min(rule.factor * rank, rule.limit, adapter.A.shape[1], adapter.B.shape[0])


def _more(owner: str, A: Array, rank: int) -> int:
    present = int(A.shape[0])
    return checked_count(owner, "rank", rank, present, ", that of A") - present


def _padded(t: Array, columns: int) -> Array:
    xp = namespace(t)
    zeros = xp.zeros((t.shape[0], columns), dtype=t.dtype, **on_device_of(t))
    return xp.concat([t, zeros], axis=1)
