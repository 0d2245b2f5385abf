"""FLOPs of forward and backward, for the three ways to run an adapter.

Math:
    F = 2 m n a token for each weight, 4 T a for attention; T tokens of a sequence, N in all.

                 forward            backward
    merged       F                  none: there is nothing left to train
    factored     F + u + w          F + 2 u + w': dx through W, no dW
    formed       F + v + w          2 F + 2 v + w': dW' in full, of what is adapted
    full         F                  2 F: dx and dW

    The backward of attention is twice its forward in each of them. u is the update's cost by its
    factors, a token; v that of B A as a matrix, 2 m n r once a step; w what else the method does
    once a step. So factored is cheaper than full while 6 N r (m + n) < 2 N m n.
Limits:
    The gradient of the lowest adapted layer's input is counted, as in a model whose embeddings
    ask for one (gradient checkpointing needs that); without, one layer's queries, keys and values
    do less. Recomputation of a checkpointed forward is left out. See `model` for what else is.
Source:
    Kaplan et al. 2020, arXiv:2001.08361, section 2.1: backward about twice the forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..values import checked_count
from .method import Method
from .model import Linear, Model


@dataclass(frozen=True)
class Flops:
    """FLOPs of one step."""

    merged_forward: int
    factored_forward: int
    factored_backward: int
    formed_forward: int
    formed_backward: int
    full_backward: int


def count_flops(
    model: Model, linears: Sequence[Linear], method: Method, sequences: int, tokens: int
) -> Flops:
    """FLOPs of a step over `sequences` of `tokens` each, `linears` adapted."""
    for name, value in (("sequences", sequences), ("tokens", tokens)):
        checked_count("count_flops", name, value, 1)
    rows = sequences * tokens
    attention = rows * 4 * tokens * model.attention
    forward = rows * model.forward_flops(tokens)
    weights = forward - attention
    dense = rows * sum(2 * x.count * x.m * x.n for x in linears)
    update = rows * sum(x.count * method.per_token(x) for x in linears)
    step = sum(x.count * method.per_step(x) for x in linears)
    step_backward = sum(x.count * method.per_step_backward(x) for x in linears)
    formed = sum(x.count * method.per_step_formed(x) for x in linears)
    product = sum(2 * method.inner * x.count * x.m * x.n for x in linears)
    return Flops(
        merged_forward=forward,
        factored_forward=forward + update + step,
        factored_backward=weights + 2 * attention + 2 * update + step_backward,
        formed_forward=forward + product + formed,
        formed_backward=weights + dense + 2 * attention + 2 * product + step_backward,
        full_backward=2 * forward,
    )
