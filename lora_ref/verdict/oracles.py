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
    finite.
Limits:
    Gradients are judged only where their cotangent (dy, dW, do) is given; W has none.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..adapters.base import apply_merged
from ..adapters.dora import DoRA
from ..adapters.lora import LoRA
from ..layers.rotary import rotary_angles, rotary_half
from ..layers.softmax import check_mask
from ..shapes import ShapeError, bind, parse
from ..trees import Tree, children, is_array, with_leaves
from .incoming import received, received_any
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

LINEAR = {"x": "*batch n", "W": "m n", "A": "r n", "B": "m r", "m": "m", "b": "m", "dy": "*batch m"}
MERGE = {"W": "m n", "A": "r n", "B": "m r", "dW": "m n"}
HEADS = {"q": "*batch H T d", "k": "*batch K S d", "v": "*batch K S e", "do": "*batch H T e"}
NO_HEADS = {"q": "T d", "k": "S d", "v": "S e", "do": "T e"}


@dataclass(frozen=True, eq=False)
class Rotation:
    """Where the rows of q and k stand: positions (T,), or the kernel's own cos and sin.

    `turn` is `rotary_half` or `rotary_interleaved`; `width` the features that are turned, all
    unless given. Cos and sin broadcast to q and k as `lora_ref.layers.rotary` says.
    """

    positions: Any = None
    cos: Any = None
    sin: Any = None
    base: float = 10000.0
    width: int | None = None
    turn: Callable[..., Any] = rotary_half

    def static(self, q: np.ndarray, k: np.ndarray) -> dict[str, Any]:
        """The static arguments of `rotated_attention`."""
        if q.shape[-2] != k.shape[-2]:
            raise ShapeError(
                f"attention: with a rotation k must be (..., T, d) with T = {q.shape[-2]} from q, "
                f"got {k.shape}"
            )
        if (self.cos is None) != (self.sin is None) or (self.cos is None) == (
            self.positions is None
        ):
            raise ValueError("attention: rotation must have positions, or both cos and sin")
        at = None if self.positions is None else received_any(self.positions, "rotation.positions")
        if at is not None:
            cos, sin = rotary_angles(at, self.width or q.shape[-1], base=self.base)
        else:
            cos, sin = (received(getattr(self, n), f"rotation.{n}").values for n in ("cos", "sin"))
        angles = {"cos": cos, "sin": sin, "key_cos": cos, "key_sin": sin}
        return {"rotary": self.turn, **angles, "positions": at, "base": self.base}


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
    adapter = LoRA(t["A"], t["B"], _number("lora_linear", "scale", scale))
    return _of_layer(t, adapter, of_linear(_exact(others)))


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
    s = _number("dora_linear", "scale", scale)
    adapter = DoRA(t["A"], t["B"], t["m"], s, detach_norm)
    return _of_layer(t, adapter, of_dora(_exact(others)))


def lora_merged(
    W: Any, A: Any, B: Any, *, scale: float, dW: Any = None, others: tuple[LoRA, ...] = ()
) -> Oracle:
    """The merge of LoRA: y is W', and dA, dB from its gradient dW."""
    t = _received("lora_merged", MERGE, W=W, A=A, B=B, dW=dW)
    adapter = LoRA(t["A"], t["B"], _number("lora_merged", "scale", scale))
    mistakes = of_merge(_exact(others))
    inputs, static = {"adapter": adapter}, {"W": t["W"]}
    return Oracle(merge, inputs, static, t.get("dW"), merge_in_halves, mistakes)


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

    `causal` lets query i see the keys 0 … i + `offset`; a mask (True: seen; or additive) besides.
    With a `rotation` q and k are turned first.
    """
    name = "attention"
    t = _received(name, NO_HEADS if np.ndim(q) == 2 else HEADS, q=q, k=k, v=v, do=do)
    H, K = ((a.shape[-3] if a.ndim > 2 else 1) for a in (t["q"], t["k"]))
    if K < 1 or H % K:
        raise ShapeError(f"{name}: the heads of k must divide those of q, H = {H}, got K = {K}")
    seen = None if mask is None else received_any(mask, "mask")
    if seen is not None:
        check_mask(name, seen, t["q"], (*t["q"].shape[:-1], t["k"].shape[-2]))
    c = max(t["q"].shape[-1], 1) ** -0.5 if scale is None else _number(name, "scale", scale)
    static = {"mask": seen, "offset": offset if causal else None, "scale": c}
    inputs = {n: t[n] for n in "qkv"}
    if rotation is None:
        return Oracle(masked_attention, inputs, static, t.get("do"), mistakes=of_attention())
    static |= rotation.static(t["q"], t["k"])
    return Oracle(rotated_attention, inputs, static, t.get("do"), mistakes=of_rotary())


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


def _of_layer(t: Mapping[str, np.ndarray], adapter: Any, mistakes: tuple[Mistake, ...]) -> Oracle:
    inputs = {"x": t["x"], "adapter": adapter} | ({"b": t["b"]} if "b" in t else {})
    ways = (partial(adapted_layer, way) for way in (apply, apply_merged))
    kernel, merged = ways
    return Oracle(kernel, inputs, {"W": t["W"]}, t.get("dy"), merged, mistakes)


def _received(owner: str, specs: Mapping[str, str], **arrays: Any) -> dict[str, np.ndarray]:
    """The arrays that are there, in float64, of shapes that fit."""
    found = {n: received(a, n).values for n, a in arrays.items() if a is not None}
    bind(owner, found, {n: parse(specs[n]) for n in found})
    return found


def _taken(tree: Tree, path: str) -> Tree:
    """A tree with every array in NumPy, named in messages by where it is."""
    if is_array(tree):
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


def _number(owner: str, name: str, value: Any) -> float:
    """A finite number, also one that an array of one element holds."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise TypeError(f"{owner}: {name} must be a number, got {kind}") from None
    if not math.isfinite(found):
        raise ValueError(f"{owner}: {name} must be finite, got {found}")
    return found
