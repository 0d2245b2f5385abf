"""LoRA, DoRA, the merge and attention by JAX, jitted, with JAX's own gradients.

XLA fuses what it likes and may keep intermediates in float32, but sums rows in the dtype. JAX
holds a Python number in the dtype of the array that it multiplies, so the contract says that of
the scale.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .cases import Case
from .dtypes import NUMPY
from .implementation import Implementation, Outputs, narrow_scale, narrow_sums, registry

EVERY = 16  # every new shape is compiled
lora, add_lora = registry("lora_linear", every=EVERY)
merged, add_merged = registry("lora_merged", every=EVERY)
dora, add_dora = registry("dora_linear", every=EVERY)
attended, add_attention = registry("attention", every=EVERY)


@partial(jax.jit, static_argnums=(0, 1, 4))
def _with_gradients(
    forward: Callable[..., Any], s: float, leaves: dict, rest: dict, extra: Any, dy: Any
) -> tuple[Any, Any]:
    y, backward = jax.vjp(lambda moved: forward({**rest, **moved}, s, extra), leaves)
    return y, backward(dy)[0]


def _run(forward: Callable[..., Any], wanted: str, extra: Callable[[Case], Any] = lambda c: None):
    """The forward and its gradients as an implementation."""

    def run(case: Case) -> Outputs:
        arrays = {n: jnp.asarray(t.astype(NUMPY[case.dtype])) for n, t in case.arrays.items()}
        leaves = {n: arrays.pop(n) for n in wanted.split()}
        dy = arrays.pop("dy")
        if case.kind == "attention" and case.visible is not None:
            arrays["seen"] = jnp.asarray(case.visible)
        s = _number(case)
        y, found = _with_gradients(forward, s, leaves, arrays, extra(case), dy)
        gradients = {f"d{n}": np.asarray(found[n]) for n in leaves}
        return {"y": np.asarray(y), **gradients}

    return run


def _number(case: Case) -> float:
    if case.kind != "attention":
        return case.s
    given = case.static["scale"]
    return case["q"].shape[-1] ** -0.5 if given is None else float(given)


def _lora(t: dict, s: float, extra: Any) -> Any:
    return t["x"] @ t["W"].T + s * ((t["x"] @ t["A"].T) @ t["B"].T) + t["b"]


def _lora_scaled_in_float32(t: dict, s: float, extra: Any) -> Any:
    update = (t["x"] @ t["A"].T) @ t["B"].T
    scaled = (update.astype(jnp.float32) * s).astype(update.dtype)
    base = (t["x"] @ t["W"].T + scaled).astype(jnp.float32)
    return (base + t["b"].astype(jnp.float32)).astype(update.dtype)  # and so the sum of db


def _merge(t: dict, s: float, extra: Any) -> Any:
    return t["W"] + s * (t["B"] @ t["A"])


def _dora(t: dict, s: float, detached: bool) -> Any:
    V = t["W"] + s * (t["B"] @ t["A"])
    c = jnp.linalg.norm(V.astype(jnp.float32), axis=1).astype(V.dtype)
    c = jax.lax.stop_gradient(c) if detached else c
    return (t["m"] / c) * (t["x"] @ t["W"].T + s * ((t["x"] @ t["A"].T) @ t["B"].T))


def _attention(t: dict, c: float, extra: Any) -> Any:
    group = t["q"].shape[0] // t["k"].shape[0]
    k, v = (jnp.repeat(t[n], group, axis=0) for n in "kv")
    z = c * (t["q"] @ k.mT)
    if "seen" in t:
        z = jnp.where(t["seen"], z, -jnp.inf)
    return jax.nn.softmax(z, axis=-1) @ v


def _library_attention(t: dict, c: float, extra: Any) -> Any:
    """jax.nn.dot_product_attention, whose axes are (T, H, d)."""
    q, k, v = (jnp.moveaxis(t[n], 0, 1) for n in "qkv")
    mask = t["seen"][None] if "seen" in t else None
    return jnp.moveaxis(jax.nn.dot_product_attention(q, k, v, mask=mask, scale=c), 1, 0)


def _unrotated(case: Case) -> bool:
    return case.static["rope"] is None


def _detached(case: Case) -> bool:
    return bool(case.static["detached"])


def _even_width(case: Case) -> bool:
    return _unrotated(case) and case["v"].shape[-1] == case["q"].shape[-1]


add_lora("JAX, jitted", contract=narrow_sums)(_run(_lora, "x A B b"))
add_lora("JAX, scaled in float32")(_run(_lora_scaled_in_float32, "x A B b"))
add_merged("JAX, jitted", contract=narrow_scale)(_run(_merge, "A B"))
add_dora("JAX, jitted", contract=narrow_sums)(_run(_dora, "x A B m", _detached))
add_attention("JAX, jitted", contract=narrow_sums, applies=_unrotated)(_run(_attention, "q k v"))
add_attention(
    "jax.nn.dot_product_attention",
    contract=narrow_scale,
    dtypes=("bfloat16", "float32"),  # XLA has no such product of float16 on a CPU
    applies=_even_width,
)(_run(_library_attention, "q k v"))

IMPLEMENTATIONS: tuple[Implementation, ...] = (*lora, *merged, *dora, *attended)
