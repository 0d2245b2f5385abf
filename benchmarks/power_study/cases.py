"""A case: a kernel, its inputs on a dtype's grid, and where they came from. All from one seed.

Shapes:
    lora_linear   x (*, T, n)   W (m, n)   b (m)   A (r, n)   B (m, r)   dy (*, T, m)
    lora_merged   W, A, B and dy (m, n), the cotangent of W'
    dora_linear   as lora_linear without b, and m (m)
    attention     q (H, T, d)   k (K, S, d)   v (K, S, e)   dy (H, T, e), and for rotary
                  embedding q_cos, q_sin, k_cos, k_sin (T, d/2), S = T
    A2, B2 are a second adapter, which only mutants look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .dtypes import on_grid
from .regimes import PLANTED, REGIMES, finished, regimes_for

KINDS = ("lora_linear", "lora_merged", "dora_linear", "attention")
DTYPES = ("bfloat16", "float16", "float32")
Sizes = dict[str, int]


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: its base, the position of the first token, and which columns pair up.

    `halves` pairs column j with j + d/2, as GPT-NeoX and Llama do; otherwise 2j with 2j + 1.
    cos and sin are inputs of the kernel, rounded to its dtype, so that angles are no issue.
    """

    base: float
    offset: int
    halves: bool

    def positions(self, length: int) -> np.ndarray:
        """Those of the tokens."""
        return self.offset + np.arange(length)

    def angles(self, d: int, **positions: np.ndarray) -> dict[str, np.ndarray]:
        """cos and sin (T, d/2) at the positions of q and of k, as arrays of a case."""
        frequency = self.base ** (-2 * np.arange(d // 2) / d)
        found = {}
        for side, p in positions.items():
            angle = np.asarray(p, dtype=np.float64)[:, None] * frequency
            found |= {f"{side}_cos": np.cos(angle), f"{side}_sin": np.sin(angle)}
        return found


@dataclass(frozen=True, eq=False)
class Case:
    """The inputs of one kernel. `static` holds what is no array of numbers: α, masks, heads."""

    kind: str
    dtype: str
    seed: int
    regime: str
    arrays: Mapping[str, np.ndarray]
    static: Mapping[str, Any] = field(default_factory=dict)

    @property
    def s(self) -> float:
        """LoRA's scale, α/r."""
        return float(self.static["alpha"]) / int(self.static["rank"])

    @property
    def visible(self) -> np.ndarray | None:
        """Which keys a query may attend to, (T, S), None for all of them."""
        mask, causal = self.static["mask"], self.static["causal"]
        if causal is None:
            return mask
        seen = np.tri(self["q"].shape[-2], self["k"].shape[-2], causal, dtype=bool)
        return seen if mask is None else seen & mask

    def rng(self, *more: int) -> np.random.Generator:
        """A generator of this case, for a mutant's own choices."""
        return np.random.default_rng([self.seed, 7919, *more])

    def changed(self, static: Mapping[str, Any] | None = None, **arrays: np.ndarray) -> "Case":
        """This case with other arrays, on the grid again, or other static arguments."""
        fresh = {name: on_grid(t, self.dtype) for name, t in arrays.items()}
        return replace(
            self, arrays={**self.arrays, **fresh}, static={**self.static, **(static or {})}
        )

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __str__(self) -> str:
        shapes = ", ".join(f"{n} {t.shape}" for n, t in self.arrays.items() if n[-1] != "2")
        return f"{self.kind} {self.dtype} seed {self.seed} {self.regime}: {shapes}"


def draw(kind: str, dtype: str, seed: int, planted: bool = False) -> Case:
    """The case of a seed: any shape and regime, or one that a mutant can be planted in."""
    rng = np.random.default_rng([seed, KINDS.index(kind), DTYPES.index(dtype), int(planted)])
    regime = str(rng.choice(PLANTED[kind] if planted else regimes_for(kind, dtype)))
    build = _attention if kind == "attention" else _linear
    arrays, static = build(rng, kind, regime, planted)
    arrays = finished(rng, regime, arrays)
    arrays = {name: on_grid(t, dtype) for name, t in arrays.items()}
    return Case(kind, dtype, seed, regime, arrays, static)


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    """Half of the time uniform, half of it small."""
    if rng.random() < 0.5:
        return int(rng.integers(low, high + 1))
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))


def _linear_sizes(rng: np.random.Generator, planted: bool) -> Sizes:
    m, n = (_between(rng, 24 if planted else 1, 300) for _ in range(2))
    if rng.random() < 0.3:
        m = n  # only a square weight can be transposed without anyone noticing
    tokens = _between(rng, 4 if planted else 1, 300 if rng.random() < 0.1 else 59)
    return {"m": m, "n": n, "r": _between(rng, 2 if planted else 1, 23), "T": tokens}


def _linear(
    rng: np.random.Generator, kind: str, regime: str, planted: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    sizes = _linear_sizes(rng, planted)
    rank = sizes["r"]
    static: dict[str, Any] = {"alpha": _alpha(rng, rank), "rank": rank}
    s = static["alpha"] / rank
    first, second = (REGIMES[regime].linear(rng, **sizes, scale=s) for _ in range(2))
    arrays = {**first, "A2": second["A"], "B2": second["B"]}
    magnitude = arrays.pop("magnitude")
    if kind == "dora_linear":
        arrays["m"] = magnitude
    if kind != "lora_linear":
        del arrays["b"]
    if kind == "lora_merged":
        del arrays["x"]
        arrays["dy"] = rng.standard_normal(arrays["W"].shape)
    elif sizes["T"] % 2 == 0 and rng.random() < 0.3:  # a batch of two sequences
        arrays |= {n: arrays[n].reshape(2, -1, arrays[n].shape[-1]) for n in ("x", "dy")}
    if kind == "dora_linear":
        static["detached"] = rng.random() < 0.8  # PEFT detaches the norm, the paper's (5) may not
    return arrays, static


def _alpha(rng: np.random.Generator, rank: int) -> float:
    """A third of the scales are powers of two, which implementations may move for nothing."""
    if rng.random() < 1 / 3:
        return float(rank * 2.0 ** rng.integers(-2, 4))
    return float(rng.choice([a for a in (3, 5, 8, 11, 16, 20, 32, 48) if a != rank]))


def _attention(
    rng: np.random.Generator, kind: str, regime: str, planted: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    low = 4 if planted else 1
    top = 200 if rng.random() < 0.1 else 59
    kv_heads = int(rng.choice((1, 2, 3)))
    heads = kv_heads * int(rng.choice((1, 1, 2, 3)))
    T = _between(rng, low, top)
    S = T if rng.random() < 0.6 else _between(rng, low, top)
    d = int(rng.choice((8, 16, 32, 64))) if rng.random() < 0.6 else _between(rng, low, 80)
    rope = None
    if d % 2 == 0 and T == S and rng.random() < 0.5:
        rope = Rope(1e4, int(rng.choice((0, 300, 5000))), rng.random() < 0.6)
    e = d if rng.random() < 0.85 else _between(rng, 1, 80)
    arrays = REGIMES[regime].attention(rng, T=T, S=S, d=d, e=e, heads=heads, kv_heads=kv_heads)
    arrays["dy"] = arrays.pop("do")
    if rope is not None:
        arrays |= rope.angles(d, q=rope.positions(T), k=rope.positions(T))
    chance, mask, causal = rng.random(), None, None
    if 0.35 < chance < 0.8:
        causal = max(S - T, 0)
    elif chance >= 0.8:
        mask = rng.random((T, S)) < 0.7
        mask[:, 0] = True  # every query has a key
    return arrays, {"mask": mask, "causal": causal, "scale": None, "rope": rope}
