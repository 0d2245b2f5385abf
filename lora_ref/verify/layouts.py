"""How a module's factors lie in the tensor that they update: see the table in `updates`.

Source: PEFT 0.21.2, tuners/lora/layer.py, get_delta_weight of each layer.
"""

from dataclasses import dataclass

import numpy as np

from ..checkpoint.peft_modules import Kind, LoraModule
from .updates import Part


@dataclass(frozen=True)
class Turns:
    """Whether square weights are stored with the inputs first, which their shape does not say."""

    linear: bool = False
    experts: bool = False


def parts_of(
    module: LoraModule, shape: tuple[int, ...], turns: Turns
) -> tuple[tuple[int, int] | None, tuple[Part, ...], str, str]:
    """(shape as a matrix, parts, left factor, right factor); no shape if the factors do not fit."""
    A, B = (np.asarray(t, dtype=np.float64) for t in (module.A, module.B))
    if module.kind is Kind.EMBEDDING and shape == (A.shape[1], B.shape[0]):
        return shape, (Part(0, A.T, B.T),), "A", "B"
    if module.kind is Kind.CONVOLUTION and shape == (B.shape[0], *A.shape[1:]):
        A, B = A.reshape(len(A), -1), B.reshape(len(B), -1)
        if B.shape[1] == A.shape[0]:
            return (len(B), A.shape[1]), (Part(0, B, A),), "B", "A"
    if module.kind is Kind.LINEAR or (module.kind is Kind.PARAMETER and len(shape) == 2):
        m, n = B.shape[0], A.shape[-1]
        turned = turns.linear if m == n else shape != (m, n)
        if turned and shape == (n, m):
            return (n, m), (Part(0, A.T, B.T),), "A", "B"
        if not turned and shape == (m, n):
            return (m, n), (Part(0, B, A),), "B", "A"
    if module.kind is Kind.PARAMETER and len(shape) == 3:
        return _expert_parts(module, shape, A, B, turns)
    return None, (), "", ""


def _expert_parts(module, shape, A, B, turns):
    """PEFT's layouts: A (E·r, n) with the expert slowest, B (m, r·E) with the expert fastest."""
    experts, r = shape[0], module.rank
    if A.shape[0] != experts * r:
        return None, (), "", ""
    A = A.reshape(experts, r, -1)
    B = B.reshape(len(B), r, experts).transpose(2, 0, 1)
    m, n = B.shape[1], A.shape[2]
    turned = turns.experts if m == n else shape[1:] != (m, n)
    if turned and shape[1:] == (n, m):
        parts = tuple(Part(e * n, A[e].T, B[e].T) for e in range(experts))
        return (experts * n, m), parts, "A", "B"
    if not turned and shape[1:] == (m, n):
        parts = tuple(Part(e * m, B[e], A[e]) for e in range(experts))
        return (experts * m, n), parts, "B", "A"
    return None, (), "", ""
