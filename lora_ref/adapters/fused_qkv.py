"""LoRA on the parts of a fused projection: q, k and v, or gate and up, in one weight.

Each part has its own LoRA or none, and its own rows of W. Which rows is the layout, given as
ranges, because it is what engines disagree on and no shape shows it.

Math:
    W'[R_i] = W[R_i] + s_i B_i A_i for every part i with a LoRA,   W'[R_i] = W[R_i] for the others
    y[..., R_i] = (x Wᵀ)[..., R_i] + s_i (x A_iᵀ) B_iᵀ

    dA_i = s_i B_iᵀ dW'[R_i]        dB_i = s_i dW'[R_i] A_iᵀ
Shapes:
    x (..., n)   W (m, n)   A_i (r_i, n)   B_i (m_i, r_i), with m_i the number of rows in R_i
Units:
    A layout is a tuple of parts, a part a tuple of ranges of rows in the part's own order.
    A part's rows are heads · head_dim, which need not be n (Gemma).
Errors:
    ValueError if the layout does not take every row once; ShapeError if a LoRA does not fit.
Limits:
    One LoRA over the whole fused weight is not this: it is plain LoRA, its A is shared by all
    parts, and one that has it for q and v only still changes k. A part that is None has no
    parameters and keeps its rows bit for bit.
Source:
    loralib 0.1.2, MergedLinear (parts of equal size, block layout). Layouts in transformers:
    block in GPT-2 (c_attn, which is FanInFanOut besides), Phi-3 and vLLM's fused projections;
    interleaved in GPT-NeoX and BLOOM (one q, k, v for each head), Falcon with
    new_decoder_architecture and InternLM2 (all q of a group, then its k and its v).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..arrays import Array, Backward, namespace, on_device_of, outer_sum
from ..shapes import ShapeError, shapes
from ..trees import with_leaves
from .base import Adapter
from .lora import LoRA

Layout = tuple[tuple[range, ...], ...]


def blocks(*sizes: int) -> Layout:
    """One block of rows for each part, in order: [gate; up], for instance.

    >>> blocks(4, 2)
    ((range(0, 4),), (range(4, 6),))
    """
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple((range(a, a + size),) for a, size in zip(starts, sizes, strict=True))


def block_rows(heads: int, kv_heads: int, head_dim: int) -> Layout:
    """[q; k; v]: all query heads, all key heads, all value heads.

    >>> block_rows(heads=4, kv_heads=2, head_dim=3)
    ((range(0, 12),), (range(12, 18),), (range(18, 24),))
    """
    _check_heads("block_rows", heads, kv_heads, head_dim)
    return blocks(heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)


def interleaved_rows(heads: int, kv_heads: int, head_dim: int) -> Layout:
    """For each key-value head its query heads, its key, its value; then the next.

    >>> interleaved_rows(heads=4, kv_heads=2, head_dim=1)[0]
    (range(0, 2), range(4, 6))
    """
    _check_heads("interleaved_rows", heads, kv_heads, head_dim)
    queries = heads // kv_heads * head_dim
    starts = [group * (queries + 2 * head_dim) for group in range(kv_heads)]
    parts = ((0, queries), (queries, head_dim), (queries + head_dim, head_dim))
    return tuple(
        tuple(range(start + first, start + first + size) for start in starts)
        for first, size in parts
    )


@dataclass(frozen=True, eq=False)
class FusedLoRA(Adapter):
    """A LoRA, or None, for each part of a fused projection."""

    parts: tuple[LoRA | None, ...]
    layout: Layout

    def __post_init__(self) -> None:
        """Every row belongs to one part, and every LoRA has its part's rows."""
        super().__post_init__()
        taken = sorted(row for part in self.layout for run in part for row in run)
        steps = {run.step for part in self.layout for run in part}
        whole = taken == list(range(len(taken))) and steps == {1} and all(self.layout)
        if not whole or len(self.layout) != len(self.parts):
            raise ValueError(
                f"FusedLoRA: layout must take every row once, in ranges of step 1, for "
                f"{len(self.parts)} parts, got {self.layout}"
            )
        for i, (part, runs) in enumerate(zip(self.parts, self.layout, strict=True)):
            size = sum(map(len, runs))
            if part is not None and part.B.shape[0] != size:
                raise ShapeError(
                    f"FusedLoRA: parts[{i}].B must be (m, r) with m = {size} from layout, got "
                    f"{tuple(part.B.shape)}"
                )

    @classmethod
    def init(
        cls,
        W: Array,
        ranks: Sequence[int | None],
        alpha: float,
        layout: Layout,
        rng: np.random.Generator,
    ) -> Self:
        """`LoRA.init` for each part with a rank; a rank of None leaves the part alone."""
        parts = [
            None if rank is None else LoRA.init(_gathered(W, runs, 0), rank, alpha, rng)
            for rank, runs in zip(ranks, layout, strict=True)
        ]
        return cls(tuple(parts), layout)

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' row by row: each part's rows by index, adapted, and put back by index."""
        self._check(W)
        xp = namespace(W)
        rows = [[row for run in runs for row in run] for runs in self.layout]
        indices = [_index(W, part_rows) for part_rows in rows]
        merged, backwards = [], []
        for part, index in zip(self.parts, indices, strict=True):
            own = xp.take(W, index, axis=0)
            adapted, part_backward = (own, _nothing) if part is None else part.weight(own)
            merged.append(adapted)
            backwards.append(part_backward)
        order = [row for part_rows in rows for row in part_rows]
        place = _index(W, sorted(range(len(order)), key=order.__getitem__))

        def backward(dW):
            pairs = zip(backwards, indices, strict=True)
            return with_leaves(self, parts=tuple(b(xp.take(dW, i, axis=0)) for b, i in pairs))

        return xp.take(xp.concat(merged, axis=0), place, axis=0), backward

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y = x Wᵀ, with each part's correction added to its own features."""
        self._check(W)
        base = x @ W.T
        u = [None if part is None else x @ part.A.T for part in self.parts]
        pieces = []
        for part, runs, t in zip(self.parts, self.layout, u, strict=True):
            own = _gathered(base, runs, -1)
            pieces.append(own if part is None else own + part.scale * (t @ part.B.T))

        def backward(dy):
            dx = dy @ W
            gradients: list[LoRA | None] = []
            for part, runs, t in zip(self.parts, self.layout, u, strict=True):
                if part is None:
                    gradients.append(None)
                    continue
                dpart = _gathered(dy, runs, -1)
                du = part.scale * (dpart @ part.B)
                dx = dx + du @ part.A
                dB = part.scale * outer_sum(dpart, t)
                gradients.append(with_leaves(part, A=outer_sum(du, x), B=dB))
            return dx, with_leaves(self, parts=tuple(gradients))

        return _scattered(pieces, self.layout), backward

    def _check(self, W: Array) -> None:
        size = sum(len(run) for runs in self.layout for run in runs)
        if W.shape[0] != size:
            raise ShapeError(
                f"FusedLoRA: W must be (m, n) with m = {size} from layout, got {tuple(W.shape)}"
            )
        for i, part in enumerate(self.parts):
            if part is not None and part.A.shape[1] != W.shape[1]:
                raise ShapeError(
                    f"FusedLoRA: parts[{i}].A must be (r, n) with n = {W.shape[1]} from W, got "
                    f"{tuple(part.A.shape)}"
                )


def _gathered(t: Array, runs: tuple[range, ...], axis: int) -> Array:
    """The runs of `t` along its first axis or its last, joined."""
    cuts = [slice(run.start, run.stop) for run in runs]
    return namespace(t).concat(
        [t[cut, ...] if axis == 0 else t[..., cut] for cut in cuts], axis=axis
    )


def _scattered(pieces: list[Array], layout: Layout) -> Array:
    """The inverse of `_gathered` for all parts, along the last axis."""
    placed = []
    for piece, runs in zip(pieces, layout, strict=True):
        first = 0
        for run in runs:
            placed.append((run.start, piece[..., first : first + len(run)]))
            first += len(run)
    placed.sort(key=lambda pair: pair[0])
    return namespace(*pieces).concat([piece for _, piece in placed], axis=-1)


def _index(like: Array, values: list[int]) -> Array:
    xp = namespace(like)
    return xp.asarray(values, dtype=xp.int64, **on_device_of(like))


def _nothing(dW: Array) -> None:
    """The gradient of a part without parameters."""


def _check_heads(owner: str, heads: int, kv_heads: int, head_dim: int) -> None:
    if min(heads, kv_heads, head_dim) < 1 or heads % kv_heads:
        raise ValueError(
            f"{owner}: heads must be a multiple of kv_heads, and all at least 1, got heads = "
            f"{heads}, kv_heads = {kv_heads}, head_dim = {head_dim}"
        )
