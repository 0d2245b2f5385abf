"""Combinators: from stages to deeper stages.

A stage is a function (x, θ) -> (y, backward) with backward: dy -> (dx, dθ), where θ is a tree of
what is trained: an adapter, a QKVO of adapters, a gain, or None. `adapted_linear` with its W given,
`self_attention`, `mlp` and `rms_norm` are stages, and so is what the combinators return.

Math:
    chain(f, g)(x, (θ, η)) = g(f(x, θ), η)       dx = Jfᵀ Jgᵀ dy
    residual(f)(x, θ)      = x + f(x, θ)         dx = dy + Jfᵀ dy
    recompute(f)           = f, with nothing saved but its arguments: gradient checkpointing
    fixed(f)(x, None)      = f(x), for a function without parameters, such as an activation
Shapes:
    residual: f keeps the shape of x
Source:
    Combinators of layers: thinc 8, `chain` and `residual`. Checkpointing: Chen et al. 2016,
    arXiv:1604.06174, section 4; Griewank and Walther's "recompute all" at depth one.
"""

from collections.abc import Callable
from typing import Any

from ..arrays import Array, Backward

Stage = Callable[..., tuple[Array, Backward]]


def chain(*stages: Stage) -> Stage:
    """The stages one after another; θ is the tuple of theirs, in the same order.

    Errors:
        ValueError if θ does not hold one tree for each stage.
    """

    def chained(x: Array, parameters: Any) -> tuple[Array, Backward]:
        backwards = []
        for stage, theta in zip(stages, parameters, strict=True):
            x, stage_backward = stage(x, theta)
            backwards.append(stage_backward)

        def backward(dy):
            dparameters = []
            for stage_backward in reversed(backwards):
                dy, dtheta = stage_backward(dy)
                dparameters.append(dtheta)
            return dy, tuple(reversed(dparameters))

        return x, backward

    return chained


def residual(stage: Stage) -> Stage:
    """x + stage(x)."""

    def around(x: Array, parameters: Any) -> tuple[Array, Backward]:
        y, stage_backward = stage(x, parameters)

        def backward(dy):
            dx, dparameters = stage_backward(dy)
            return dy + dx, dparameters

        return x + y, backward

    return around


def recompute(f: Stage) -> Stage:
    """`f` with nothing saved but its arguments: backward runs the forward again.

    Any layer will do, not only a stage: the gradients are those of `f`.
    """

    def again(*args: Any, **static: Any) -> tuple[Array, Backward]:
        return f(*args, **static)[0], lambda dy: f(*args, **static)[1](dy)

    return again


def fixed(f: Callable[[Array], tuple[Array, Backward]]) -> Stage:
    """A function without parameters as a stage, whose θ and dθ are None."""

    def stage(x: Array, parameters: None) -> tuple[Array, Backward]:
        y, f_backward = f(x)
        return y, lambda dy: (f_backward(dy), None)

    return stage
