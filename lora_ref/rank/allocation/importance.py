"""How much a triplet matters: sensitivity, its smoothed value, its uncertainty, and their product.

Math:
    I = |w dw|                            for every element w of P, λ and Q
    Ī ← β₁ Ī + (1 − β₁) I
    Ū ← β₂ Ū + (1 − β₂) |I − Ī|           with the new Ī
    s = Ī Ū
    Sᵢ = s(λᵢ) + 1/m Σⱼ s(Pⱼᵢ) + 1/n Σⱼ s(Qᵢⱼ)
Shapes:
    Ī, Ū and s are trees of the adapters' own structure; S (r,) for each layer
Units:
    dw is the gradient of whatever was trained; with PEFT it has the penalty's part in it.
    β₁ = β₂ = 0.85 in PEFT.
Errors:
    ValueError if β₁ or β₂ is not between 0 and 1; that of `tree_map` if trees differ.
Limits:
    Both averages start at zero and are not corrected for it. In the first step I − Ī = β₁ I.
    Which w belongs to dw is the caller's choice: the paper multiplies dw by the w that it was
    computed at, PEFT by the w after the optimiser's step (see `allocate`).
Source:
    Zhang et al. 2023, arXiv:2303.10512, section 3.2, equations (7) to (11), and |λ|, with which
    they compare. PEFT 0.21.2, tuners/adalora/layer.py, RankAllocator.update_ipt, mask_to_budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ...adapters.adalora import AdaLoRA
from ...arrays import Array, namespace
from ...trees import tree_map, zeros_like

Adapters = Mapping[str, AdaLoRA]  # of a model, by the names of their layers


@dataclass(frozen=True, eq=False)
class Importance:
    """Ī and Ū of every element of every adapter."""

    sensitivity: Adapters
    uncertainty: Adapters

    @classmethod
    def start(cls, adapters: Adapters) -> Self:
        """Zero, before the first step."""
        nothing = zeros_like(dict(adapters))
        return cls(nothing, nothing)

    def observe(
        self, adapters: Adapters, gradients: Adapters, *, beta1: float = 0.85, beta2: float = 0.85
    ) -> Self:
        """Ī and Ū after one more step."""
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 < beta < 1:
                raise ValueError(f"Importance.observe: {name} must be in (0, 1), got {beta}")
        seen = tree_map(sensitivity, dict(adapters), dict(gradients))
        smooth = tree_map(
            lambda mean, new: beta1 * mean + (1 - beta1) * new, self.sensitivity, seen
        )
        spread = tree_map(
            lambda mean, new, centre: beta2 * mean + (1 - beta2) * namespace(new).abs(new - centre),
            self.uncertainty,
            seen,
            smooth,
        )
        return type(self)(smooth, spread)

    def scores(self) -> dict[str, Array]:
        """S of every triplet."""
        return triplet_scores(tree_map(lambda a, b: a * b, self.sensitivity, self.uncertainty))


def sensitivity(w: Array, dw: Array) -> Array:
    """|w dw|: how much the loss would change, to first order, if w were zero."""
    return namespace(w, dw).abs(w * dw)


def triplet_scores(elements: Adapters) -> dict[str, Array]:
    """S (r,) of each layer from scores of the elements: λ's, and the means of P's and Q's."""
    scores = {}
    for name, s in elements.items():
        xp = namespace(s.lam)
        scores[name] = s.lam + (xp.mean(s.Q, axis=1) + xp.mean(s.P, axis=0))
    return scores


def magnitude_scores(adapters: Adapters) -> dict[str, Array]:
    """|λ|, the score that needs no gradient."""
    return {name: namespace(a.lam).abs(a.lam) for name, a in adapters.items()}
