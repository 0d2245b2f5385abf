"""DoRA on a linear layer, by PyTorch: the formula, PEFT's arrangement of it, and W' itself."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .cases import Case
from .implementation import Implementation, Outputs, merged_too, registry, wide
from .torch_tools import Leaves, autograd_adder, outputs, rows, tensors

LEAVES = "x A B m"
found, add = registry("dora_linear")

# The norm that the formula has, and others for mutants, which name them in `static`.
NORMS: dict[str, Callable[[Case, Leaves, Tensor], Tensor]] = {
    "rows of V": lambda case, t, V: torch.linalg.norm(V, dim=1),
    "rows of W": lambda case, t, V: torch.linalg.norm(t.W, dim=1),
    "rows of W + BA": lambda case, t, V: torch.linalg.norm(t.W + t.B @ t.A, dim=1),
    "columns of V": lambda case, t, V: torch.linalg.norm(V, dim=0),
    "m itself": lambda case, t, V: t.m.detach(),
    "one": lambda case, t, V: torch.ones_like(t.m),
}


def direction(case: Case, t: Leaves) -> tuple[Tensor, Tensor]:
    """V = W + s B A, and its norms by row, detached where the case says so."""
    V = t.W + case.s * (t.B @ t.A)
    c = NORMS[case.static.get("norm", "rows of V")](case, t, V)
    return V, c.detach() if case.static["detached"] else c


def detached(case: Case) -> bool:
    """A backward by hand holds the norm constant."""
    return bool(case.static["detached"])


@add("eager, backward by hand", applies=detached)
def eager(case: Case) -> Outputs:
    """The formulas of the adapter's page."""
    t, s = tensors(case), case.s
    return _by_hand(case, t, s)


@add("float32 inside, one rounding at the end", applies=detached, contract=wide)
def inside(case: Case) -> Outputs:
    """The same from the exact inputs in float32."""
    return _by_hand(case, tensors(case, "float32"), case.s)


def _by_hand(case: Case, t: Leaves, s: float) -> Outputs:
    _, c = direction(case, t)
    g = t.m / c
    x, dy = rows(t.x), rows(t.dy)
    u = x @ t.A.T
    h = x @ t.W.T + s * (u @ t.B.T)
    dh = g * dy
    du = s * (dh @ t.B)
    return outputs(
        case,
        y=(g * h).reshape(t.dy.shape),
        dx=(dh @ t.W + du @ t.A).reshape(t.x.shape),
        dA=du.T @ x,
        dB=s * (dh.T @ u),
        dm=(dy * h).sum(0) / c,
    )


_adder = autograd_adder(add, LEAVES)


@_adder("m / ‖V‖ on the sum, autograd")
def _on_the_sum(case: Case, t: Leaves) -> Tensor:
    _, c = direction(case, t)
    return (t.m / c) * (
        functional.linear(t.x, t.W) + functional.linear(functional.linear(t.x, t.A), t.B) * case.s
    )


@_adder("PEFT's form, autograd")
def _peft_form(case: Case, t: Leaves) -> Tensor:
    _, c = direction(case, t)
    g = t.m / c
    base = functional.linear(t.x, t.W)
    update = functional.linear(functional.linear(t.x, t.A), t.B)
    return base + ((g - 1) * base + g * update * case.s)


@_adder("W' stored as g V, autograd", contract=merged_too)
def _materialised(case: Case, t: Leaves) -> Tensor:
    V, c = direction(case, t)
    return functional.linear(t.x, (t.m / c)[:, None] * V)


@_adder("W' stored as m (V / c), autograd", contract=merged_too)
def _normalised(case: Case, t: Leaves) -> Tensor:
    V, c = direction(case, t)
    return functional.linear(t.x, t.m[:, None] * (V / c[:, None]))


IMPLEMENTATIONS: tuple[Implementation, ...] = tuple(found)
