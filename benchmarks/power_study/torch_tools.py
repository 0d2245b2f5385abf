"""What the PyTorch implementations share: inputs as tensors, outputs as arrays, autograd."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from .cases import Case
from .dtypes import from_torch, to_torch
from .implementation import Outputs, Run

DEVICE = "cpu"
Tensor = torch.Tensor
Leaves = SimpleNamespace  # the tensors of a case by their letters


def tensors(case: Case, dtype: str | None = None) -> Leaves:
    """The arrays of a case in its dtype, or exactly the same numbers in a wider one."""
    return Leaves(**{n: to_torch(t, dtype or case.dtype, DEVICE) for n, t in case.arrays.items()})


def outputs(case: Case, **found: Tensor) -> Outputs:
    """Tensors as arrays of the case's dtype, rounded to it if they are wider."""
    dtype = getattr(torch, case.dtype)
    return {name: from_torch(t.to(dtype)) for name, t in found.items()}


def rows(t: Tensor) -> Tensor:
    """(*, n) as (N, n)."""
    return t.reshape(-1, t.shape[-1])


def by_autograd(
    forward: Callable[[Case, Leaves], Tensor], wanted: str, dtype: str | None = None
) -> Run:
    """A forward and PyTorch's own backward through it; `wanted` are the leaves with gradients."""

    def run(case: Case) -> Outputs:
        t = tensors(case, dtype)
        names = [n for n in wanted.split() if hasattr(t, n)]
        for n in names:
            getattr(t, n).requires_grad_()
        y = forward(case, t)
        found = torch.autograd.grad(y, [getattr(t, n) for n in names], t.dy, allow_unused=True)
        grads = {f"d{n}": _or_zero(g, getattr(t, n)) for n, g in zip(names, found, strict=True)}
        return outputs(case, y=y, **grads)

    return run


def autograd_adder(add: Callable[..., Any], wanted: str) -> Callable[..., Any]:
    """`add`, a registry's decorator, for a forward whose backward is autograd's."""

    def adder(name: str, **fields: object):
        def decorate(forward):
            add(name, **fields)(by_autograd(forward, wanted))
            return forward

        return decorate

    return adder


def _or_zero(gradient: Any, leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if gradient is None else gradient


def token_chunks(t: Tensor, size: int) -> list[Tensor]:
    """The rows of t (*, n) in chunks of `size`."""
    return list(rows(t).split(size))
