"""A LoRA layer in its parts, so that a mutated one costs only the parts that are mutated.

Some forty mutations of one layer share nearly all products. What depends on the layer's own
arrays alone is computed once; W is touched by the mutations of W and no others.

Math:
    y  = x Wᵀ + s (x Aᵀ) Bᵀ + b          dA = s (dy B)ᵀ x
    dx = dy W + s (dy B) A               dB = s dyᵀ (x Aᵀ)          db = Σ dy
Shapes:
    as in `lora_ref.adapters.LoRA`. With `rows`, y and dx have those tokens only, as matrices; all
    tokens are in dA, dB and db.
Limits:
    Not for `LoRA`'s subclasses, whose algorithm may be another.
Source:
    `lora_ref.adapters.LoRA.apply` and `lora_ref.verdict.kernels.adapted_layer`, which a test
    compares with this.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ...adapters.lora import LoRA
from ...trees import leaves, with_leaves
from ..kernels import adapted_layer
from ..oracle import Oracle

Backward = Callable[[np.ndarray], tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Factored:
    """A kernel as an `Oracle` wants it; `own` are the arrays whose products are kept, by id."""

    own: Mapping[int, np.ndarray]
    rows: np.ndarray | None = None
    kept: dict[tuple[Any, ...], np.ndarray] = field(default_factory=dict)

    def __call__(
        self, x: np.ndarray, adapter: LoRA, b: np.ndarray | None = None, *, W: np.ndarray
    ) -> tuple[np.ndarray, Backward]:
        A, B, s = adapter.A, adapter.B, adapter.scale
        u = self._once("u", lambda: x @ A.T, x, A)
        base = self._once("x Wᵀ", lambda: self.few(x) @ W.T, x, W)
        y = base + s * self._once("u Bᵀ", lambda: self.few(u) @ B.T, x, A, B)

        def backward(dy: np.ndarray) -> tuple[Any, ...]:
            v = self._once("v", lambda: dy @ B, dy, B)
            base = self._once("dy W", lambda: self.few(dy) @ W, dy, W)
            dx = base + s * self._once("v A", lambda: self.few(v) @ A, dy, B, A)
            dA = s * self._once("vᵀ x", lambda: tokens(v).T @ tokens(x), dy, B, x)
            dB = s * self._once("dyᵀ u", lambda: tokens(dy).T @ tokens(u), dy, x, A)
            found = dx, with_leaves(adapter, A=dA, B=dB)
            if b is None:
                return found
            return *found, self._once("Σ dy", lambda: tokens(dy).sum(axis=0), dy)

        return (y if b is None else y + b), backward

    def few(self, t: np.ndarray) -> np.ndarray:
        """The rows of those tokens; all of `t` where none were chosen."""
        return t if self.rows is None else tokens(t)[self.rows]

    def _once(
        self, name: str, product: Callable[[], np.ndarray], *operands: np.ndarray
    ) -> np.ndarray:
        key = (name, *map(id, operands))
        if key in self.kept:
            return self.kept[key]
        value = product()
        if all(map(self.own.__contains__, key[1:])):
            self.kept[key] = value
        return value


def is_lora_layer(oracle: Oracle) -> bool:
    """Whether the parts above are those of this oracle."""
    kernel = oracle.kernel
    known = isinstance(kernel, partial) and kernel.func is adapted_layer
    return known and type(oracle.inputs.get("adapter")) is LoRA


def factored(oracle: Oracle, rows: np.ndarray | None = None) -> Oracle:
    """A LoRA layer's oracle in its parts, for all tokens or for some."""
    given = dict(oracle.inputs), dict(oracle.static), oracle.cotangent
    own = {id(t): t for _, t in leaves(given)}
    return replace(oracle, kernel=Factored(own, rows), merged=None)


def tokens(t: np.ndarray) -> np.ndarray:
    """(..., n) as a matrix, one row a token."""
    return t.reshape(-1, t.shape[-1]) if t.size else t.reshape(0, t.shape[-1])
