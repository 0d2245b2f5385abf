"""EVA's ranks: one budget for all layers, spent where a component explains most.

Math:
    of layer l the ratios q_l1 ≥ q_l2 ≥ …, at most round(ρ r_l) of them, r_l the rank it was given
    rank of l = the number of its ratios among the Σ r_l largest of all
    α_l grows with the rank, α r_new / r, so that α/r stays
Shapes:
    ratios: for each layer one-dimensional
Errors:
    ValueError if ratios and ranks name different layers, ρ or a ratio is not finite, ρ is below 1,
    or a rank is no integer or negative; in `adjusted_alpha`, r below 1.
Limits:
    Of equal ratios the earlier layer's, then the earlier component's comes first, so of layers with
    the same inputs the first has the highest rank. PEFT sorts in no stated order and gives the
    first of them the highest rank afterwards, which is the same result.
    A layer whose rank is 0 has no adapter.
Source:
    Paischer et al. 2024, arXiv:2410.07170, section 3; PEFT 0.21.2, tuners/lora/eva.py,
    _get_rank_distribution (in _get_eva_state_dict) and _load_eva_state_dict, EvaConfig.rho and
    adjust_scaling_factors.
"""

from collections.abc import Mapping

from ..arrays import Array
from ..values import checked_count, checked_number


def components_of(rank: int, rho: float) -> int:
    """round(ρ r), how many components a layer of rank r enters with."""
    if checked_number("components_of", "rho", rho) < 1:
        raise ValueError(f"components_of: rho must be at least 1, got {rho}")
    return round(checked_count("components_of", "rank", rank, 0) * rho)


def redistributed(
    ratios: Mapping[str, Array], ranks: Mapping[str, int], rho: float = 2.0
) -> dict[str, int]:
    """The rank of each layer, all together as many as `ranks` has.

    >>> redistributed({"q": [0.5, 0.25, 0.125], "k": [0.375, 0.0625, 0.03125]}, {"q": 2, "k": 1})
    {'q': 2, 'k': 1}
    >>> redistributed({"q": [0.5, 0.25, 0.125], "k": [0.0625, 0.03125]}, {"q": 2, "k": 1})
    {'q': 3, 'k': 0}
    """
    if ratios.keys() != ranks.keys():
        raise ValueError(
            f"redistributed: ratios and ranks must name the same layers, got {[*ratios]} "
            f"and {[*ranks]}"
        )
    for name, rank in ranks.items():
        checked_count("redistributed", f"the rank of {name!r}", rank, 0)
    entered = [
        (-checked_number("redistributed", f"each ratio of {name!r}", float(ratio)), name)
        for name in ratios
        for ratio in list(ratios[name])[: components_of(ranks[name], rho)]
    ]
    entered.sort(key=lambda entry: entry[0])  # stable: ties stay in the order of the layers
    chosen = [name for _, name in entered[: sum(ranks.values())]]
    return {name: chosen.count(name) for name in ranks}


def adjusted_alpha(alpha: float, rank: int, new_rank: int) -> float:
    """α r_new / r, which leaves s = α/r as it was."""
    alpha = checked_number("adjusted_alpha", "alpha", alpha)
    new_rank = checked_count("adjusted_alpha", "new_rank", new_rank, 0)
    return alpha * new_rank / checked_count("adjusted_alpha", "rank", rank, 1)
