"""Oracles of the kernels that people write, from the very arrays that they gave to theirs.

    oracle = lora_linear(x, W, A, B, scale=16.0, dy=dy)

The arrays may be of any library and dtype; their numbers are taken exactly. Each oracle brings the
known mistakes that such a kernel can have; `oracle_of` takes any kernel of this library.

Math:
    lora_linear    y = x Wᵀ + s (x Aᵀ) Bᵀ + b                   gradients dx, dA, dB, db
    lora_merged    y = W' = W + s B A                           gradients dA, dB, from dW'
    dora_linear    y = m / ‖W + s B A‖ ∘ (x Wᵀ + s (x Aᵀ) Bᵀ) + b         dx, dA, dB, dm, db
    attention      y = softmax(c q kᵀ + mask) v                 gradients dq, dk, dv
Shapes:
    as in `lora_ref.adapters.LoRA`, `DoRA` and `lora_ref.layers.attention`: x (*batch, n), W (m, n),
    A (r, n), B (m, r), m and b (m,); q (*batch, H, T, d), k (*batch, K, S, d), v (*batch, K, S, e).
Errors:
    ShapeError and TypeError name the function and argument here; ValueError if a scale is not
    finite or a mask holds NaN or +inf, which no key or query could mean.
Limits:
    Gradients are judged only where their cotangent (dy, dW, do) is given; W has none.
    Batch axes and T may be empty, and so are the outputs then; every other axis is at least 1.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..adapters.base import apply_merged
from ..adapters.dora import DoRA
from ..adapters.lora import LoRA
from ..layers.softmax import check_mask
from ..shapes import ShapeError, bind, parse
from ..trees import Tree, children, is_array, with_leaves
from .contract_fields import check_type
from .incoming import received, received_any, received_number
from .kernels import (
    adapted_layer,
    apply,
    masked_attention,
    merge,
    merge_in_halves,
    rotated_attention,
)
from .mistakes import of_attention, of_dora, of_linear, of_merge, of_rotary
from .oracle import Kernel, Mistake, Oracle
from .rotation import Rotation

LINEAR = {"x": "*batch n", "W": "m n", "A": "r n", "B": "m r", "m": "m", "b": "m", "dy": "*batch m"}
MERGE = {"W": "m n", "A": "r n", "B": "m r", "dW": "m n"}
HEADS = {"q": "*batch H T d", "k": "*batch K S d", "v": "*batch K S e", "do": "*batch H T e"}
NO_HEADS = {"q": "T d", "k": "S d", "v": "S e", "do": "T e"}
_OPTIONAL = {"b", "dy", "dW", "do"}
_MAY_BE_EMPTY = {"*batch", "T"}


def lora_linear(
    x: Any,
    W: Any,
    A: Any,
    B: Any,
    *,
    scale: float,
    b: Any = None,
    dy: Any = None,
    others: tuple[LoRA, ...] = (),
) -> Oracle:
    """A linear layer with LoRA: y, dx, dA, dB, and db where there is a bias.

    `others` are adapters that the kernel could have taken by mistake.
    """
    t = _received("lora_linear", LINEAR, x=x, W=W, A=A, B=B, b=b, dy=dy)
    adapter = LoRA(t["A"], t["B"], received_number("lora_linear", "scale", scale))
    return _of_layer("lora_linear", t, adapter, of_linear(_exact(others)))


def dora_linear(
    x: Any,
    W: Any,
    A: Any,
    B: Any,
    m: Any,
    *,
    scale: float,
    b: Any = None,
    dy: Any = None,
    detach_norm: bool = True,
    others: tuple[LoRA, ...] = (),
) -> Oracle:
    """A linear layer with DoRA: y, dx, dA, dB, dm, and db where there is a bias.

    `detach_norm` is the gradient of dA and dB: with the norm held constant, as PEFT trains, or not.
    """
    t = _received("dora_linear", LINEAR, x=x, W=W, A=A, B=B, m=m, b=b, dy=dy)
    s = received_number("dora_linear", "scale", scale)
    adapter = DoRA(t["A"], t["B"], t["m"], s, detach_norm)
    return _of_layer("dora_linear", t, adapter, of_dora(_exact(others)))


def lora_merged(
    W: Any, A: Any, B: Any, *, scale: float, dW: Any = None, others: tuple[LoRA, ...] = ()
) -> Oracle:
    """The merge of LoRA: y is W', and dA, dB from its gradient dW."""
    t = _received("lora_merged", MERGE, W=W, A=A, B=B, dW=dW)
    adapter = LoRA(t["A"], t["B"], received_number("lora_merged", "scale", scale))
    mistakes = of_merge(_exact(others))
    inputs, static = {"adapter": adapter}, {"W": t["W"]}
    return Oracle(merge, inputs, static, t.get("dW"), merge_in_halves, mistakes, "lora_merged")


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    causal: bool = False,
    offset: int = 0,
    scale: float | None = None,
    rotation: Rotation | None = None,
    do: Any = None,
) -> Oracle:
    """Attention, with grouped queries where q has more heads than k: y, dq, dk, dv.

    The layout is PyTorch's: q (*batch, H, T, d), k (*batch, K, S, d), v (*batch, K, S, e).
    FlashAttention's is (batch, T, H, d): give q.transpose(1, 2), as it is refused only if its sizes
    do not fit. The output is "y", its cotangent `do`, the scale 1/√d unless given. `causal` lets
    query i see the keys 0 … i + `offset`, at the top left; `offset=S − T` is the bottom right. A
    mask (True: seen; or additive) besides; a query that sees no key has the output 0. With a
    `rotation` q and k are turned first.
    """
    name = "attention"
    t = _heads(name, q=q, k=k, v=v, do=do)
    seen = None if mask is None else _mask(name, mask, t["q"], t["k"])
    c = t["q"].shape[-1] ** -0.5 if scale is None else received_number(name, "scale", scale)
    static = {"mask": seen, "offset": offset if causal else None, "scale": c}
    inputs = {n: t[n] for n in "qkv"}
    kernel: Kernel = masked_attention
    mistakes = of_attention()
    if rotation is not None:
        check_type(name, "rotation", rotation, (Rotation,), "Rotation(positions)")
        static |= rotation.static(t["q"], t["k"])
        kernel, mistakes = rotated_attention, of_rotary()
    return Oracle(kernel, inputs, static, t.get("do"), mistakes=mistakes, name=name)


def oracle_of(
    kernel: Kernel,
    inputs: Mapping[str, Tree],
    static: Mapping[str, Any] | None = None,
    cotangent: Any = None,
    *,
    merged: Kernel | None = None,
    mistakes: tuple[Mistake, ...] = (),
) -> Oracle:
    """Any kernel of this library: its inputs by name in order, arrays or trees of them."""
    taken = (dict(inputs), dict(static or {}), {"cotangent": cotangent})
    inputs, static, last = (_taken(tree, "") for tree in taken)
    return Oracle(kernel, inputs, static, last["cotangent"], merged, mistakes)


def _heads(owner: str, **arrays: Any) -> dict[str, np.ndarray]:
    """q, k, v and do, with as many heads as fit."""
    specs = NO_HEADS if getattr(arrays["q"], "ndim", 0) == 2 else HEADS
    t = _received(owner, specs, **arrays)
    H, K = ((a.shape[-3] if a.ndim > 2 else 1) for a in (t["q"], t["k"]))
    if H % K:
        raise ShapeError(f"{owner}: the heads of k must divide those of q, H = {H}, got K = {K}")
    return t


def _of_layer(
    name: str, t: Mapping[str, np.ndarray], adapter: Any, mistakes: tuple[Mistake, ...]
) -> Oracle:
    inputs = {"x": t["x"], "adapter": adapter} | ({"b": t["b"]} if "b" in t else {})
    ways = (partial(adapted_layer, way) for way in (apply, apply_merged))
    kernel, merged = ways
    return Oracle(kernel, inputs, {"W": t["W"]}, t.get("dy"), merged, mistakes, name)


def _received(owner: str, specs: Mapping[str, str], **arrays: Any) -> dict[str, np.ndarray]:
    """The arrays that are there, in float64, of shapes that fit."""
    there = {n: a for n, a in arrays.items() if a is not None or n not in _OPTIONAL}
    found = {n: received(a, n).values for n, a in there.items()}
    sizes = bind(owner, found, {n: parse(specs[n]) for n in found})
    for axis, size in sizes.items():
        if size == 0 and axis not in _MAY_BE_EMPTY:
            name = next(n for n in found if axis in specs[n].split())
            raise ShapeError(
                f"{owner}: {axis} of {name} {parse(specs[name])} must be at least 1, "
                f"got {found[name].shape}"
            )
    return found


def _mask(owner: str, mask: Any, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """A mask that fits the scores, and leaves each of them a number or −inf."""
    seen = received_any(mask, "mask")
    check_mask(owner, seen, q, (*q.shape[:-1], k.shape[-2]))
    odd = np.isnan(seen) | (seen == np.inf) if seen.dtype.kind == "f" else np.zeros(0)
    if odd.any():
        first = tuple(int(i) for i in np.argwhere(odd)[0])
        raise ValueError(
            f"{owner}: mask must hold numbers, or -inf for what is not seen, got {seen[first]} "
            f"at {first}"
        )
    return seen


def _taken(tree: Tree, path: str) -> Tree:
    """A tree with every array in NumPy, named in messages by where it is."""
    if getattr(tree, "is_nested", False) or is_array(tree):  # a nested tensor has no shape
        return received_any(tree, path)
    named = {n: _taken(c, f"{path}.{n}" if path else n) for n, c in children(tree).items()}
    if not named:
        return tree
    if isinstance(tree, dict):
        return dict(zip(tree, named.values(), strict=True))
    if isinstance(tree, (tuple, list)):
        return type(tree)(named.values())
    return with_leaves(tree, **named)


def _exact(others: tuple[LoRA, ...]) -> tuple[LoRA, ...]:
    return tuple(_taken(other, f"others[{i}]") for i, other in enumerate(others))
