"""One forward and backward of single-head self-attention, by each competitor of the grid.

X is a matrix (batch, embedding) and the attention runs over its rows; no mask; the loss is the
sum of the output. LoRA is on query and key, W' = W + B A. Every step returns the output and the
gradients of the trained tensors only, from the same float32 numbers, each in its library's layout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_ref.adapters.lora import LoRA
from lora_ref.arrays import Array
from lora_ref.compose.lora_of_data import lora_of_data
from lora_ref.layers.factored_attention import factored_attention
from lora_ref.layers.linear_of_data import linear_of_data

Step = Callable[[], tuple[Array, dict[str, Array]]]


@dataclass(frozen=True)
class Problem:
    """x (N, n), three weights (m, n), and the adapters of query and key."""

    x: np.ndarray
    Wq: np.ndarray
    Wk: np.ndarray
    Wv: np.ndarray
    query: LoRA
    key: LoRA

    @classmethod
    def draw(cls, batch: int, embedding: int, hidden: int, rank: int, seed: int = 0) -> "Problem":
        """Scores of order one, so that no softmax saturates, and B away from zero."""
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)

        x = rng.standard_normal((batch, embedding)).astype(np.float32)
        weights = [normal(hidden, embedding) for _ in range(3)]
        adapters = [LoRA(normal(rank, embedding), normal(hidden, rank), 1.0) for _ in range(2)]
        return cls(x, *weights, *adapters)


def our_lora(p: Problem) -> Step:
    """The reference: x is data and wants no gradient, cotangents stay products."""

    def step():
        q, q_backward = lora_of_data(p.x, p.Wq, p.query)
        k, k_backward = lora_of_data(p.x, p.Wk, p.key)
        v, _ = linear_of_data(p.x, p.Wv)
        o, o_backward = factored_attention(q, k, v)
        dq, dk, _ = o_backward(np.ones_like(o))
        dquery, dkey = q_backward(dq), k_backward(dk)
        return o, {"qA": dquery.A, "qB": dquery.B, "kA": dkey.A, "kB": dkey.B}

    return step


def our_full(p: Problem) -> Step:
    """Full fine-tuning by the same kernels."""

    def step():
        q, q_backward = linear_of_data(p.x, p.Wq)
        k, k_backward = linear_of_data(p.x, p.Wk)
        v, v_backward = linear_of_data(p.x, p.Wv)
        o, o_backward = factored_attention(q, k, v)
        dq, dk, dv = o_backward(np.ones_like(o))
        return o, {"Wq": q_backward(dq), "Wk": k_backward(dk), "Wv": v_backward(dv)}

    return step


def jax_attention(x: Array, Wk: Array, Wq: Array, Wv: Array) -> Array:
    """The post's attention, in its layout: W (n, m)."""
    import jax

    q, k, v = x @ Wq, x @ Wk, x @ Wv
    return jax.nn.softmax(q @ k.T / Wv.shape[-1] ** 0.5) @ v


def jax_lora(p: Problem) -> Step:
    """The post's form, its slip mended and compiled once: W + A B is formed and differentiated."""
    import jax

    x, Wk, Wq, Wv = (jax.numpy.array(t) for t in (p.x, p.Wk.T, p.Wq.T, p.Wv.T))
    factors = {
        name: jax.numpy.array(t.T)
        for name, t in (("qA", p.query.A), ("qB", p.query.B), ("kA", p.key.A), ("kB", p.key.B))
    }

    @jax.jit
    def output_and_gradients(factors, x, Wk, Wq, Wv):
        def loss(f):
            o = jax_attention(x, Wk + f["kA"] @ f["kB"], Wq + f["qA"] @ f["qB"], Wv)
            return o.sum(), o

        gradients, o = jax.grad(loss, has_aux=True)(factors)
        return o, gradients

    return lambda: jax.block_until_ready(output_and_gradients(factors, x, Wk, Wq, Wv))


def jax_full(p: Problem) -> Step:
    """Full fine-tuning in the post's form."""
    import jax

    x = jax.numpy.array(p.x)
    weights = {n: jax.numpy.array(W.T) for n, W in (("Wk", p.Wk), ("Wq", p.Wq), ("Wv", p.Wv))}

    @jax.jit
    def output_and_gradients(weights, x):
        def loss(w):
            o = jax_attention(x, **w)
            return o.sum(), o

        gradients, o = jax.grad(loss, has_aux=True)(weights)
        return o, gradients

    return lambda: jax.block_until_ready(output_and_gradients(weights, x))


def _torch_leaves(**arrays: np.ndarray) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(t, requires_grad=True) for name, t in arrays.items()}


def _torch_step(q: Callable, k: Callable, v: Callable, trained: dict[str, Any]) -> Step:
    import torch

    def step():
        values = v()
        o = torch.softmax(q() @ k().T / values.shape[-1] ** 0.5, -1) @ values
        gradients = torch.autograd.grad(o.sum(), tuple(trained.values()))
        return o.detach(), dict(zip(trained, gradients, strict=True))

    return step


def torch_lora(p: Problem) -> Step:
    """Eager PyTorch, the two thin products apart; only the factors require a gradient."""
    import torch
    from torch.nn.functional import linear

    x, Wq, Wk, Wv = (torch.tensor(t) for t in (p.x, p.Wq, p.Wk, p.Wv))
    t = _torch_leaves(qA=p.query.A, qB=p.query.B, kA=p.key.A, kB=p.key.B)

    def q():
        return linear(x, Wq) + linear(linear(x, t["qA"]), t["qB"])

    def k():
        return linear(x, Wk) + linear(linear(x, t["kA"]), t["kB"])

    return _torch_step(q, k, lambda: linear(x, Wv), t)


def torch_full(p: Problem) -> Step:
    """Full fine-tuning in eager PyTorch."""
    import torch
    from torch.nn.functional import linear

    x, t = torch.tensor(p.x), _torch_leaves(Wq=p.Wq, Wk=p.Wk, Wv=p.Wv)
    return _torch_step(
        lambda: linear(x, t["Wq"]), lambda: linear(x, t["Wk"]), lambda: linear(x, t["Wv"]), t
    )


FORMS = {
    "our LoRA": our_lora,
    "our full": our_full,
    "JAX LoRA": jax_lora,
    "JAX full": jax_full,
    "PyTorch LoRA": torch_lora,
    "PyTorch full": torch_full,
}


def in_our_layout(name: str, gradients: dict[str, Array]) -> dict[str, np.ndarray]:
    """A form's gradients as NumPy arrays in our layout, to compare their values."""
    found = {key: np.asarray(t) for key, t in gradients.items()}
    return {key: t.T for key, t in found.items()} if name.startswith("JAX") else found
