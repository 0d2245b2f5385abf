"""LoRA on a linear layer, and its merged weight, by PyTorch: the ways that people write it.

Backwards by hand and by autograd; the scale where the formula has it, on B, on x Aᵀ, and on A or x
where it is a power of two; three terms in every order; fused products; float32 inside; tokens in
chunks; the merged weight stored. Each beside the contract that it keeps.
"""

from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional

from .cases import Case
from .implementation import (
    Implementation,
    Outputs,
    merged_too,
    power_of_two,
    registry,
    wide,
)
from .torch_tools import Leaves, autograd_adder, by_autograd, outputs, rows, tensors, token_chunks

LEAVES = "x A B b"
found, add = registry("lora_linear")
found_merged, add_merged = registry("lora_merged")


@add("eager, backward by hand")
def eager(case: Case) -> Outputs:
    """The formulas of the adapter's page, one operation after the other."""
    t, s = tensors(case), case.s
    x, dy = rows(t.x), rows(t.dy)
    u = x @ t.A.T
    y = x @ t.W.T + s * (u @ t.B.T) + t.b
    du = s * (dy @ t.B)
    dx = dy @ t.W + du @ t.A
    return _shaped(case, t, y, dx, du.T @ x, s * (dy.T @ u), dy.sum(0))


def _shaped(
    case: Case, t: Leaves, y: Tensor, dx: Tensor, dA: Tensor, dB: Tensor, db: Tensor
) -> Outputs:
    y, dx = y.reshape(t.dy.shape), dx.reshape(t.x.shape)
    return outputs(case, y=y, dx=dx, dA=dA, dB=dB, db=db)


@add("addmm and baddbmm, backward by hand")
def fused(case: Case) -> Outputs:
    """Bias and the sum of both branches inside the products."""
    t, s = tensors(case), case.s
    x, dy = rows(t.x), rows(t.dy)
    u = x @ t.A.T
    y = torch.addmm(torch.addmm(t.b, x, t.W.T), u, t.B.T, alpha=s)
    du = dy @ t.B
    dx = torch.baddbmm((dy @ t.W)[None], du[None], t.A[None], alpha=s)[0]
    dA = torch.addmm(torch.zeros_like(t.A), du.T, x, alpha=s)
    return _shaped(case, t, y, dx, dA, s * (dy.T @ u), dy.sum(0))


@add("tokens in chunks, sums kept in float32", every=2)
def chunked(case: Case) -> Outputs:
    """Seven tokens at a time; gradients of the factors add up in float32."""
    t, s = tensors(case), case.s
    dA, dB = torch.zeros_like(t.A).float(), torch.zeros_like(t.B).float()
    ys, dxs = [], []
    for x, dy in zip(token_chunks(t.x, 7), token_chunks(t.dy, 7), strict=True):
        u, du = x @ t.A.T, s * (dy @ t.B)
        ys.append(functional.linear(x, t.W, t.b) + s * (u @ t.B.T))
        dxs.append(dy @ t.W + du @ t.A)
        dA += du.float().T @ x.float()
        dB += dy.float().T @ u.float()
    db = rows(t.dy).float().sum(0)
    return _shaped(case, t, torch.cat(ys), torch.cat(dxs), dA, s * dB, db)


@add("float32 inside, one rounding at the end", contract=wide)
def inside(case: Case) -> Outputs:
    """Everything in float32, from the exact inputs."""
    t, s = tensors(case, "float32"), case.s
    x, dy = rows(t.x), rows(t.dy)
    u, du = x @ t.A.T, s * (dy @ t.B)
    y = x @ t.W.T + t.b + s * (u @ t.B.T)
    return _shaped(case, t, y, dy @ t.W + du @ t.A, du.T @ x, s * (dy.T @ u), dy.sum(0))


@add("W' stored, backward through it", contract=merged_too)
def through_merged(case: Case) -> Outputs:
    """y = x W'ᵀ with W' in the dtype, and dA, dB from a stored dW'."""
    t, s = tensors(case), case.s
    x, dy = rows(t.x), rows(t.dy)
    merged = t.W + s * (t.B @ t.A)
    dW = dy.T @ x
    return _shaped(
        case, t, x @ merged.T + t.b, dy @ merged, s * (t.B.T @ dW), s * (dW @ t.A.T), dy.sum(0)
    )


_adder = autograd_adder(add, LEAVES)


@_adder("F.linear, autograd")
def _as_written(case: Case, t: Leaves) -> Tensor:
    return (
        functional.linear(t.x, t.W, t.b)
        + functional.linear(functional.linear(t.x, t.A), t.B) * case.s
    )


@_adder("scale on B, autograd")
def _scale_on_b(case: Case, t: Leaves) -> Tensor:
    return functional.linear(t.x, t.W, t.b) + functional.linear(
        functional.linear(t.x, t.A), case.s * t.B
    )


@_adder("scale on x Aᵀ, autograd")
def _scale_between(case: Case, t: Leaves) -> Tensor:
    return functional.linear(t.x, t.W, t.b) + functional.linear(
        case.s * functional.linear(t.x, t.A), t.B
    )


@_adder("scale on A, autograd", applies=lambda case: power_of_two(case.s))
def _scale_on_a(case: Case, t: Leaves) -> Tensor:
    return functional.linear(t.x, t.W, t.b) + functional.linear(
        functional.linear(t.x, case.s * t.A), t.B
    )


@_adder("scale on x, autograd", applies=lambda case: power_of_two(case.s))
def _scale_on_x(case: Case, t: Leaves) -> Tensor:
    return functional.linear(t.x, t.W, t.b) + functional.linear(
        functional.linear(case.s * t.x, t.A), t.B
    )


@_adder("addmm, autograd", every=2)
def _addmm(case: Case, t: Leaves) -> Tensor:
    x = rows(t.x)
    y = torch.addmm(functional.linear(x, t.W, t.b), functional.linear(x, t.A), t.B.T, alpha=case.s)
    return y.reshape(t.dy.shape)


def _reordered(order: tuple[int, ...]):
    def forward(case: Case, t: Leaves) -> Tensor:
        terms = (t.x @ t.W.T, case.s * ((t.x @ t.A.T) @ t.B.T), t.b)
        first, second, third = (terms[i] for i in order)
        return first + (second + third)

    return forward


for _order in permutations(range(3)):
    if _order[1] < _order[2]:  # the sum of the last two is the same either way
        _text = " + ".join(("base", "update", "bias")[i] for i in _order)
        add(f"{_text}, right to left", every=2)(by_autograd(_reordered(_order), LEAVES))


@add_merged("eager, backward by hand")
def merge(case: Case) -> Outputs:
    """W' = W + s (B A)."""
    t, s = tensors(case), case.s
    y = t.W + s * (t.B @ t.A)
    return outputs(case, y=y, dA=s * (t.B.T @ t.dy), dB=s * (t.dy @ t.A.T))


@add_merged("one addmm")
def merge_fused(case: Case) -> Outputs:
    """The scale inside the products."""
    t, s = tensors(case), case.s
    dA = torch.addmm(torch.zeros_like(t.A), t.B.T, t.dy, alpha=s)
    return outputs(case, y=torch.addmm(t.W, t.B, t.A, alpha=s), dA=dA, dB=s * (t.dy @ t.A.T))


@add_merged("update in float32, one rounding", contract=wide)
def merge_inside(case: Case) -> Outputs:
    """As PEFT merges on a CPU, without the rounding of the update."""
    t, s = tensors(case, "float32"), case.s
    y = t.W + s * (t.B @ t.A)
    return outputs(case, y=y, dA=s * (t.B.T @ t.dy), dB=s * (t.dy @ t.A.T))


def _merge_scaled_b(case: Case, t: Leaves) -> Tensor:
    return t.W + (case.s * t.B) @ t.A


def _merge_scaled_a(case: Case, t: Leaves) -> Tensor:
    return t.W + t.B @ (case.s * t.A)


add_merged("scale on B, autograd")(by_autograd(_merge_scaled_b, "A B"))
add_merged("scale on A, autograd")(by_autograd(_merge_scaled_a, "A B"))

IMPLEMENTATIONS: tuple[Implementation, ...] = (*found, *found_merged)
