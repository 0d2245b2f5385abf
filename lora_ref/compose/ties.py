"""TIES: of updates that disagree in sign, those that agree with the majority count.

Three definitions are in use. On tensors that are trimmed already:

Math:
    disjoint_mean        γ = sgn Σ τ_i; the mean of the τ_i with sgn τ_i = γ         (the paper)
    agreeing_mean        γ = +1 where Σ τ_i >= 0, else −1;                             (PEFT)
                         Σ w_i τ_i over those with sgn τ_i = γ, divided by their number
    consensus_sum        v_i = w_i τ_i, γ as PEFT's of the v_i;                        (mergekit)
                         Σ v_i over those with sgn v_i = γ
    consensus_mean       the same divided by Σ w_i over those

    ties                 λ disjoint_mean(trim(t_i))
Shapes:
    t_i (...), all of one shape
Errors:
    as `task_arithmetic` and `trim`.
Limits:
    At weights 1 the three means differ only where Σ τ_i is exactly 0: the paper has 0 there, the
    others the mean of the positive ones.
    With weights they differ everywhere: PEFT's election does not see them, so that a negative
    weight subtracts what was elected; PEFT divides by a number, mergekit by a sum of weights,
    which is no mean where the weights differ in sign. A sum of 0 counts as 1.
    A mean and no sum: even at density 1 and without conflict this is not Σ τ_i.
Source:
    Yadav et al. 2023, arXiv:2306.01708, section 4 and algorithm 1. PEFT 0.21.2,
    utils/merge_utils.py: ties, dare_ties, calculate_majority_sign_mask ("total" is `by_total`,
    "frequency" is `by_count`), disjoint_merge. mergekit 0.1.4,
    merge_methods/generalized_task_arithmetic.py: GTATask, get_mask with "sum"; its `ties` has
    normalize: true, consensus_mean, and its `dare_ties` false, consensus_sum.
"""

from collections.abc import Callable, Sequence

from ..arrays import Array, namespace
from ..values import checked_number
from .prune import trim
from .task_arithmetic import check_alike, sum_of, weights_of

Election = Callable[[Sequence[Array]], Array]


def by_total(tensors: Sequence[Array]) -> Array:
    """Σ τ_i: the votes are as heavy as the entries are large."""
    return sum_of(tensors)


def by_count(tensors: Sequence[Array]) -> Array:
    """Σ sgn τ_i: every entry that is not zero has one vote."""
    return sum_of([namespace(t).sign(t) for t in tensors])


def ties(tensors: Sequence[Array], density: float, scale: float = 1.0) -> Array:
    """Trim, elect signs, and take the mean of what agrees: the paper's method, with its λ."""
    lam = checked_number("ties", "scale", scale)
    return lam * disjoint_mean([trim(t, density) for t in tensors])


def disjoint_mean(tensors: Sequence[Array]) -> Array:
    """The mean of the entries whose sign is that of their sum, 0 where there is none."""
    check_alike("disjoint_mean", tensors)
    xp = namespace(*tensors)
    elected = xp.sign(sum_of(tensors))
    agrees = [xp.astype(xp.sign(t) == elected, t.dtype) for t in tensors]
    kept = sum_of([a * t for a, t in zip(agrees, tensors, strict=True)])
    return kept / _one_for_none(sum_of(agrees))


def agreeing_mean(
    tensors: Sequence[Array], weights: Sequence[float], elect: Election = by_total
) -> Array:
    """Σ w_i τ_i over the entries that agree, divided by their number: PEFT's merge."""
    w = weights_of("agreeing_mean", tensors, weights)
    agrees = _agreeing(tensors, elect)
    terms = zip(agrees, w, tensors, strict=True)
    return sum_of([a * (wi * t) for a, wi, t in terms]) / _one_for_none(sum_of(agrees))


def consensus_sum(
    tensors: Sequence[Array], weights: Sequence[float], elect: Election = by_total
) -> Array:
    """Σ w_i τ_i over those that agree, signs elected with the weights: mergekit's dare_ties."""
    return _consensus("consensus_sum", tensors, weights, elect)[0]


def consensus_mean(
    tensors: Sequence[Array], weights: Sequence[float], elect: Election = by_total
) -> Array:
    """`consensus_sum` divided by the weights of those that agree: mergekit's ties."""
    total, share = _consensus("consensus_mean", tensors, weights, elect)
    return total / _one_for_none(share)


def _consensus(
    owner: str, tensors: Sequence[Array], weights: Sequence[float], elect: Election
) -> tuple[Array, Array]:
    """Σ w_i τ_i and Σ w_i over the entries that agree."""
    w = weights_of(owner, tensors, weights)
    weighted = [wi * t for wi, t in zip(w, tensors, strict=True)]
    agrees = _agreeing(weighted, elect)
    total = sum_of([a * v for a, v in zip(agrees, weighted, strict=True)])
    return total, sum_of([wi * a for wi, a in zip(w, agrees, strict=True)])


def _agreeing(tensors: Sequence[Array], elect: Election) -> list[Array]:
    """1 where an entry has the elected sign, which is + where the votes are even, else 0."""
    xp, votes = namespace(*tensors), elect(tensors)
    positive = votes >= 0
    agrees = [(positive & (t > 0)) | (~positive & (t < 0)) for t in tensors]
    return [xp.astype(a, t.dtype) for a, t in zip(agrees, tensors, strict=True)]


def _one_for_none(count: Array) -> Array:
    """The divisor: a count or a share, and 1 where it is 0."""
    xp = namespace(count)
    return xp.where(count == 0, xp.ones_like(count), count)
