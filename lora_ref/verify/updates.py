"""What an adapter does to one stored tensor, in one form for every layout.

A stored tensor is seen as a matrix (rows, columns), and an update adds s L R to it, or to some of
its rows:

    linear            W (m, n)        L = B     R = A
    fan_in_fan_out    W (n, m)        L = Aᵀ    R = Bᵀ
    embedding         E (v, d)        L = Aᵀ    R = Bᵀ
    convolution       W (m, n/g·k)    a part for each group: L = B, R = A of that group
    experts           W (E·m, n)      a part for each expert; stored (E, n, m): L = Aᵀ, R = Bᵀ
    bias              b (m, 1)        L = β     R = 1

Everything downstream (recipes, measures, diagnoses) works on this form, a block of rows at a
time, so that memory does not grow with the tensor.

Source:
    PEFT 0.21.2, tuners/lora/layer.py, get_delta_weight of Linear, Embedding, _ConvNd, ParamWrapper.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..checkpoint.errors import CheckpointError

Columns = slice | np.ndarray
EVERY = slice(None)


@dataclass(frozen=True)
class Part:
    """s L R for the rows from `start`: L (rows, r) and R (r, columns) in float64."""

    start: int
    L: np.ndarray
    R: np.ndarray

    @property
    def stop(self) -> int:
        return self.start + self.L.shape[0]


@dataclass(frozen=True)
class Conventions:
    """Where the scale of an update comes from: what a diagnosis needs to name a wrong one."""

    alpha: float
    rank: int
    stabilised: bool
    general_alpha: float  # lora_alpha and r of the configuration, before the patterns
    general_rank: int


@dataclass(frozen=True)
class LowRank:
    """W' = W + s L R, by parts."""

    target: str
    module: str
    shape: tuple[int, int]
    parts: tuple[Part, ...]
    scale: float
    conventions: Conventions
    left: str = "B"  # which factor L is, for messages
    right: str = "A"

    def product(self, rows: np.ndarray, columns: Columns = EVERY) -> tuple[np.ndarray, np.ndarray]:
        """L R and |L| |R| at the given rows and columns; zero rows where no part is."""
        width = (
            len(range(*columns.indices(self.shape[1])))
            if isinstance(columns, slice)
            else len(columns)
        )
        p = np.zeros((len(rows), width))
        size = np.zeros_like(p)
        for part in self.parts:
            here = (rows >= part.start) & (rows < part.stop)
            if here.any():
                L, R = part.L[rows[here] - part.start], part.R[:, columns]
                p[here] += L @ R
                size[here] += np.abs(L) @ np.abs(R)
        return p, size

    def delta(self, rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        """s L R at the given rows and columns."""
        return self.scale * self.product(rows, columns)[0]

    def is_finite(self, rows: np.ndarray) -> bool:
        """Whether s L R is finite at the given rows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(self.scale * self.product(rows)[1]).all())

    @property
    def rank(self) -> int:
        return self.parts[0].L.shape[1]

    @property
    def is_zero(self) -> bool:
        """Whether the update is exactly zero, as that of an untrained adapter (B = 0)."""
        return self.scale == 0 or all(not p.L.any() or not p.R.any() for p in self.parts)

    def with_factors(self, L: np.ndarray, R: np.ndarray) -> "LowRank":
        """The same update with the factors of its only part replaced."""
        return replace(self, parts=(Part(self.parts[0].start, L, R),))

    def with_scale(self, scale: float) -> "LowRank":
        return replace(self, scale=scale)


def in_order(update: LowRank, rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
    """L R in float32, summed over k = 0, 1, … with a fused multiply-add.

    The product of two float32 numbers is exact in float64, where the sum is rounded a first time,
    to 53 bits; that this changes the second rounding, to 24, takes a tie of one in 2²⁹.
    """
    total = np.zeros((len(rows), len(update.parts[0].R[0, columns])), dtype=np.float32)
    for part in update.parts:
        here = np.flatnonzero((rows >= part.start) & (rows < part.stop))
        L, R = part.L[rows[here] - part.start], part.R[:, columns]
        L, R = (t.astype(np.float32).astype(np.float64) for t in (L, R))
        partial = total[here].astype(np.float64)
        for k in range(update.rank):
            partial = (partial + L[:, k, None] * R[k]).astype(np.float32).astype(np.float64)
        total[here] = partial
    return total.astype(np.float64)


@dataclass(frozen=True)
class Terms:
    """The r rank-one terms b_k a_k of an update at some rows and columns, made when asked for."""

    update: LowRank
    rows: np.ndarray
    columns: Columns

    def __len__(self) -> int:
        return self.update.rank

    def __iter__(self) -> Iterator[np.ndarray]:
        for k in range(len(self)):
            one = slice(k, k + 1)
            parts = tuple(Part(p.start, p.L[:, one], p.R[one]) for p in self.update.parts)
            yield replace(self.update, parts=parts).product(self.rows, self.columns)[0]


@dataclass(frozen=True)
class Replaced:
    """Rows of a tensor that an adapter carries whole: modules_to_save, base biases, tokens."""

    target: str
    module: str
    values: np.ndarray
    rows: np.ndarray | None = None  # None: all of them

    def merged(self, W: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The block W of the given rows, as the adapter replaces it."""
        values = self.values.reshape(self.values.shape[0], -1) if self.values.ndim else self.values
        if self.rows is None:
            return values.reshape(len(values), -1)[rows].astype(np.float64)
        out = W.copy()
        place = {int(row): i for i, row in enumerate(self.rows)}
        for k, row in enumerate(rows):
            if int(row) in place:
                out[k] = values[place[int(row)]].astype(np.float64)
        return out


Update = LowRank | Replaced


def nothing(target: str, shape: tuple[int, int]) -> LowRank:
    """The update of a tensor that the adapter leaves alone."""
    part = Part(0, np.zeros((shape[0], 1)), np.zeros((1, shape[1])))
    return LowRank(target, "", shape, (part,), 0.0, Conventions(1.0, 1, False, 1.0, 1))


def matrix(t: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """A stored tensor as (rows, columns): of the given shape, or its first axis and the rest."""
    if shape is not None:
        return t.reshape(shape)
    return t.reshape(t.shape[0] if t.ndim > 1 else t.size, -1) if t.size else t.reshape(0, 1)


def check_finite(name: str, values: np.ndarray) -> None:
    """Refuse NaN and inf, which would make every comparison with them meaningless."""
    if not np.isfinite(values).all():
        count = int(np.size(values) - np.isfinite(values).sum())
        raise CheckpointError(f"{name}: must be finite to be verified, got {count} NaN or inf")
