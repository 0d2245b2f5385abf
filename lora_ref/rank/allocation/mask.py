"""Which triplets stay: one ranking over all layers of a model.

Math:
    top        the b triplets of the largest S; of equal ones those that come first
    peft_mask  S > the (N − b)-th smallest of all N scores
Shapes:
    scores and masks (r,) for each layer, by name; b counts the triplets of all layers
Errors:
    ValueError for a budget that is no integer of at least 0, scores with NaN or infinity or of no
    layer, a mask of other layers than the adapters; if `peft_mask` is asked to mask less than one:
    PEFT then raises inside torch.kthvalue (peft#2337). ShapeError if scores are not (r,), or a
    mask has another r than λ; TypeError if it does not hold bool.
Limits:
    `peft_mask` masks everything that ties with its threshold, so fewer than b may stay, none if all
    are equal. Triplets that never had a gradient all have S = 0.
Source:
    Zhang et al. 2023, arXiv:2303.10512, section 3.2, equation (6), which says nothing of ties;
    PEFT 0.21.2, tuners/adalora/layer.py, RankAllocator.mask_to_budget, mask_using_rank_pattern.
"""

from collections.abc import Mapping

from ...adapters.adalora import AdaLoRA
from ...arrays import Array, namespace
from ...shapes import bind, parse
from ...trees import with_leaves
from ...values import checked_count, checked_finite

Scores = Mapping[str, Array]
Mask = Mapping[str, Array]


def top(scores: Scores, budget: int) -> dict[str, Array]:
    """True for the `budget` triplets of the largest scores; all if there are no more than that."""
    checked_count("top", "budget", budget, 0)
    ranked = _joined("top", scores)
    xp = namespace(ranked)
    order = xp.argsort(-ranked, stable=True)
    place = xp.argsort(order)
    return _split(place < budget, scores)


def peft_mask(scores: Scores, budget: int) -> dict[str, Array]:
    """True for scores above the threshold that PEFT finds for `budget`."""
    checked_count("peft_mask", "budget", budget, 0)
    ranked = _joined("peft_mask", scores)
    count = ranked.shape[0]
    if budget >= count:
        raise ValueError(
            f"peft_mask: budget must be from 0 to below the {count} triplets of scores, since PEFT "
            f"has no threshold that masks none, got {budget}"
        )
    threshold = namespace(ranked).sort(ranked)[count - budget - 1]
    return _split(ranked > threshold, scores)


def masked(adapters: Mapping[str, AdaLoRA], mask: Mask) -> dict[str, AdaLoRA]:
    """The adapters with λ = 0 where the mask is False; P and Q stay."""
    if mask.keys() != adapters.keys():
        raise ValueError(f"masked: mask must be of {sorted(adapters)}, got {sorted(mask)}")
    for name, a in adapters.items():
        _check_flags("masked", f"mask[{name!r}]", mask[name], a)
    return {
        name: with_leaves(
            a, lam=namespace(a.lam).where(mask[name], a.lam, namespace(a.lam).zeros_like(a.lam))
        )
        for name, a in adapters.items()
    }


def kept(adapter: AdaLoRA, mask: Array) -> AdaLoRA:
    """The adapter without the triplets where the mask is False, at the same scale."""
    _check_flags("kept", "mask", mask, adapter)
    xp = namespace(adapter.lam, mask)
    stay = xp.nonzero(mask)[0]
    P, lam, Q = adapter.P, adapter.lam, adapter.Q
    return AdaLoRA(
        xp.take(P, stay, axis=1), xp.take(lam, stay), xp.take(Q, stay, axis=0), adapter.scale
    )


def ranks(mask: Mask) -> dict[str, int]:
    """How many triplets each layer keeps.

    >>> import numpy as np
    >>> ranks({"q": np.array([True, False, True])})
    {'q': 2}
    """
    for name, stay in mask.items():
        key = f"mask[{name!r}]"
        bind("ranks", {key: stay}, {key: parse("bool r")})
    return {name: int(namespace(stay).count_nonzero(stay)) for name, stay in mask.items()}


def _check_flags(owner, name, flags, adapter):
    given = {"adapter.lam": adapter.lam, name: flags}
    bind(owner, given, {"adapter.lam": parse("r"), name: parse("bool r")})


def _joined(owner, scores):
    if not scores:
        raise ValueError(f"{owner}: scores must have a layer, got none")
    named = {f"scores[{name!r}]": s for name, s in scores.items()}
    for name, s in named.items():
        bind(owner, {name: s}, {name: parse("r")})
        checked_finite(owner, name, s)
    return namespace(*scores.values()).concat(list(scores.values()))


def _split(stay, scores):
    parts, first = {}, 0
    for name, s in scores.items():
        parts[name] = stay[first : first + s.shape[0]]
        first += s.shape[0]
    return parts
