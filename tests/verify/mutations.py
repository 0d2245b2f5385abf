"""Bugs that a merged checkpoint can show, planted by plain NumPy, and the names they must get.

Each takes a `Bench`: an honest float32 merge to spoil. What it stores differs from the honest
merge in the tensors that must be called bugs, and in no others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from models import Case, Target

F = np.float32
Q0 = "model.layers.0.self_attn.q_proj.weight"
Q1 = "model.layers.1.self_attn.q_proj.weight"
K0 = "model.layers.0.self_attn.k_proj.weight"
V0 = "model.layers.0.self_attn.v_proj.weight"
GATE, UP = ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")
DOWN = "model.layers.0.mlp.down_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
EMBED = "model.embed_tokens.weight"


@dataclass
class Bench:
    """A case, its honest merge, and a copy of that to spoil."""

    case: Case
    right: dict[str, np.ndarray]
    rng: np.random.Generator
    out: dict[str, np.ndarray] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)

    def W(self, name: str) -> np.ndarray:
        return self.case.tensors[name].astype(F)

    def delta(self, name: str, s: float | None = None) -> np.ndarray:
        return self.case.targets[name].delta(s)

    def factors(self, name: str) -> tuple[np.ndarray, np.ndarray, float]:
        t: Target = self.case.targets[name]
        return t.A, t.B, t.s

    def store(self, name: str, value: np.ndarray) -> None:
        """Round to the dtype of the honest merge."""
        self.out[name] = np.asarray(value, dtype=F).astype(self.right[name].dtype)
        self.touched.add(name)

    def put(self, name: str, value: np.ndarray | None) -> None:
        """Store as it is; None: the tensor is missing."""
        if value is None:
            del self.out[name]
        else:
            self.out[name] = value
        self.touched.add(name)

    def some(self) -> list[str]:
        """Three adapted tensors, which show as much as all of them in a fifth of the time."""
        return list(self.case.targets)[:3]

    def again(self, name: str) -> np.ndarray:
        return self.right[name].astype(F)


@dataclass(frozen=True)
class Mutation:
    """What is done to a case of one layout; `names` are the diagnoses that are right."""

    title: str
    row: str  # of the bug catalogue; "" where it is ours
    layout: str
    names: tuple[str, ...]
    apply: Callable[[Bench], None]


MUTATIONS: list[Mutation] = []


def mutation(title: str, names: str | tuple[str, ...], row: str = "", layout: str = "llama"):
    """Add what the function does to the table; a name that ends in … stands for its beginning."""

    def add(apply: Callable[[Bench], None]) -> Callable[[Bench], None]:
        names_ = (names,) if isinstance(names, str) else names
        MUTATIONS.append(Mutation(title, row, layout, names_, apply))
        return apply

    return add


def _scaled(title: str, name: str, factor: Callable, row: str = "", layout: str = "llama") -> None:
    def apply(b: Bench) -> None:
        for n in b.some():
            t = b.case.targets[n]
            r, alpha = b.case.ranks[n]
            b.store(n, b.W(n) + b.delta(n, float(factor(t.s, r, alpha))))

    mutation(title, name, row, layout)(apply)


@mutation("not applied anywhere", "not applied", "Q11, C14, C12")
def _(b: Bench) -> None:
    for n in b.case.targets:
        b.store(n, b.W(n) + 0)


_scaled("scale 2s", "applied twice", lambda s, r, a: 2 * s, "C14, Q16")
_scaled("scale 3s", "applied three times", lambda s, r, a: 3 * s)
_scaled("scale −s", "subtracted", lambda s, r, a: -s, "S17")
_scaled("scale −2s", "scale", lambda s, r, a: -2 * s)
_scaled("scale s/2", "halved", lambda s, r, a: s / 2)
_scaled("scale 1", "scale left out", lambda s, r, a: 1.0, "S13")
_scaled("scale s²", "scale applied twice", lambda s, r, a: s * s, "S26")
_scaled("scale 1/s", "scale inverted", lambda s, r, a: 1 / s)
_scaled("scale √s", "square root of the scale", lambda s, r, a: s**0.5, "S16")
_scaled("scale α", "α not divided by the rank", lambda s, r, a: a, "S11, S14")
_scaled("scale r", "r in place of the scale", lambda s, r, a: r)
_scaled("scale r/α", ("α and r exchanged", "scale inverted"), lambda s, r, a: r / a)
_scaled("scale 1/r", "α left out", lambda s, r, a: 1 / r)
_scaled("scale s·r", ("multiplied by r", "α not divided by the rank"), lambda s, r, a: s * r)
_scaled("scale s/r", "divided by r once more", lambda s, r, a: s / r)
_scaled("scale s/√r", "divided by √r once more", lambda s, r, a: s / r**0.5)
_scaled("α/√r where α/r", "α/√r where the adapter says α/r", lambda s, r, a: a / r**0.5)
_scaled("α/r where α/√r", "α/r where the adapter says α/√r", lambda s, r, a: a / r,
        "S1, S2, S4, S5", "llama, rslora")  # fmt: skip
_scaled("scale s·α", "multiplied by α", lambda s, r, a: s * a)
_scaled("scale 0.9 s", "scale", lambda s, r, a: 0.9 * s)
_scaled("scale 0.77 s", "scale", lambda s, r, a: 0.77 * s)
_scaled("scale s/1.3", "scale", lambda s, r, a: s / 1.3)


@mutation("scale 1 in layer 1 only", "scale left out", "S7")
def _(b: Bench) -> None:
    for n in b.case.targets:
        if ".1." in n:
            b.store(n, b.W(n) + b.delta(n, 1.0))


@mutation("not applied in layer 1", "not applied", "Q17")
def _(b: Bench) -> None:
    for n in b.case.targets:
        if ".1." in n:
            b.store(n, b.W(n))


@mutation("mixed ranks: α / r of the first rank", ("rank_pattern ignored", "both patterns ignored"),
          "S8", "patterns")  # fmt: skip
def _(b: Bench) -> None:
    n = "layers.1.q.weight"
    b.store(n, b.W(n) + b.delta(n, 7 / 8))


@mutation("alpha_pattern ignored", "alpha_pattern ignored", "S7", "patterns")
def _(b: Bench) -> None:
    b.store("layers.1.q.weight", b.W("layers.1.q.weight") + b.delta("layers.1.q.weight", 12 / 3))
    b.store("layers.2.q.weight", b.W("layers.2.q.weight") + b.delta("layers.2.q.weight", 12 / 8))


@mutation("both patterns ignored", "both patterns ignored", "S8", "patterns")
def _(b: Bench) -> None:
    b.store("layers.1.q.weight", b.W("layers.1.q.weight") + b.delta("layers.1.q.weight", 12 / 8))


@mutation("patterns ignored with rslora", "both patterns ignored", "S8", "patterns, rslora")
def _(b: Bench) -> None:
    n = "layers.1.q.weight"
    b.store(n, b.W(n) + b.delta(n, 12 / 8**0.5))


@mutation("merged a second time onto the merge", "applied twice", "Q16, C14")
def _(b: Bench) -> None:
    for n in b.some():
        b.store(n, b.again(n) + b.delta(n))


@mutation("merged, then unmerged", "merged and unmerged again", "Q14")
def _(b: Bench) -> None:
    for n in b.some():
        b.store(n, b.again(n) - b.delta(n))


# Layout


@mutation("update transposed", "transposed", "L1, L16", "llama, square")
def _(b: Bench) -> None:
    for n in (Q0, K0):
        b.store(n, b.W(n) + b.delta(n).T)


@mutation("Conv1D update not transposed", "transposed", "L1", "gpt2, square")
def _(b: Bench) -> None:
    b.store("h.0.attn.c_proj.weight", b.W("h.0.attn.c_proj.weight")
            + b.delta("h.0.attn.c_proj.weight").T)  # fmt: skip


@mutation("base transposed", "base transposed", "L16", "llama, square")
def _(b: Bench) -> None:
    b.store(Q0, b.W(Q0).T + b.delta(Q0))


@mutation("whole tensor transposed", "whole tensor transposed", "L16", "llama, square")
def _(b: Bench) -> None:
    b.store(Q0, b.again(Q0).T)


@mutation("stored in Fortran order under its own shape", "memory read in the other order")
def _(b: Bench) -> None:
    b.store(DOWN, b.again(DOWN).T.reshape(b.right[DOWN].shape))


@mutation("A as (in, r) and B as (r, out)", "A and B read transposed", "L2")
def _(b: Bench) -> None:
    for n in (Q0, DOWN):
        A, B, s = b.factors(n)
        b.store(n, b.W(n) + F(s) * (B.reshape(B.shape[::-1]).T @ A.reshape(A.shape[::-1]).T))


@mutation("A as (in, r)", "A read transposed", "L2")
def _(b: Bench) -> None:
    A, B, s = b.factors(UP)
    b.store(UP, b.W(UP) + F(s) * (B @ A.reshape(A.shape[::-1]).T))


@mutation("B as (r, out)", "B read transposed", "L2")
def _(b: Bench) -> None:
    A, B, s = b.factors(UP)
    b.store(UP, b.W(UP) + F(s) * (B.reshape(B.shape[::-1]).T @ A))


@mutation("A and B exchanged", "A and B swapped", "L16", "llama, square")
def _(b: Bench) -> None:
    A, B, s = b.factors(Q0)
    b.store(Q0, b.W(Q0) + F(s) * (A.reshape(B.shape) @ B.reshape(A.shape)))


@mutation("rank components of A reversed", "rank order reversed in A")
def _(b: Bench) -> None:
    A, B, s = b.factors(Q0)
    b.store(Q0, b.W(Q0) + F(s) * (B @ A[::-1]))


@mutation("heads in another order", "rows permuted…")
def _(b: Bench) -> None:
    D = b.delta(Q0)
    b.store(Q0, b.W(Q0) + D.reshape(6, -1, D.shape[1])[[2, 0, 5, 1, 4, 3]].reshape(D.shape))


@mutation("key heads exchanged", "rows permuted…", "L10")
def _(b: Bench) -> None:
    for n in (K0, V0):
        b.store(n, b.W(n) + np.roll(b.delta(n), 16, axis=0))


@mutation("heads of o_proj's input in another order", "columns permuted…")
def _(b: Bench) -> None:
    n = "model.layers.0.self_attn.o_proj.weight"
    D = b.delta(n)
    b.store(n, b.W(n) + D.reshape(len(D), 6, -1)[:, [3, 0, 5, 1, 4, 2]].reshape(D.shape))


@mutation("rotary halves as pairs, update only", "rows permuted: rotary…")
def _(b: Bench) -> None:
    D = b.delta(Q0)
    b.store(Q0, b.W(Q0) + D.reshape(6, 2, 8, -1).swapaxes(1, 2).reshape(D.shape))


@mutation("rotary halves as pairs, whole tensor", "whole rows permuted: rotary…")
def _(b: Bench) -> None:
    M = b.again(Q0)
    b.store(Q0, M.reshape(6, 2, 8, -1).swapaxes(1, 2).reshape(M.shape))


@mutation("fused q, k, v: k and v exchanged in the update", "rows permuted: blocks…", "L10",
          "fused qkv")  # fmt: skip
def _(b: Bench) -> None:
    n = "layers.0.qkv_proj.weight"
    q, k, v = np.split(b.delta(n), [96, 128])
    b.store(n, b.W(n) + np.concatenate([q, v, k]))


@mutation("fused q, k, v read as interleaved by group", "rows permuted: q, k, v…", "L10",
          "fused qkv")  # fmt: skip
def _(b: Bench) -> None:
    n = "layers.0.qkv_proj.weight"
    D = b.delta(n)
    q, k, v = (t.reshape(2, -1, 72) for t in np.split(D, [96, 128]))
    b.store(n, b.W(n) + np.concatenate([q, k, v], axis=1).reshape(D.shape))


@mutation("fused q, k, v: k left out of the update", "not applied to some rows", "L22, L10",
          "fused qkv")  # fmt: skip
def _(b: Bench) -> None:
    n = "layers.0.qkv_proj.weight"
    D = b.delta(n)
    D[96:128] = 0
    b.store(n, b.W(n) + D)


@mutation("slices of k and v cut at the size of q", "rows misplaced…", "L10", "fused qkv")
def _(b: Bench) -> None:
    n = "layers.0.qkv_proj.weight"
    D = b.delta(n)
    moved = np.zeros_like(D)
    moved[:96], moved[96:128] = D[:96], D[128:]
    b.store(n, b.W(n) + moved)


@mutation("fused gate and up swapped in the update", "rows permuted: halves swapped…", "L14",
          "fused qkv")  # fmt: skip
def _(b: Bench) -> None:
    n = "layers.0.gate_up_proj.weight"
    b.store(n, b.W(n) + np.roll(b.delta(n), 104, axis=0))


@mutation("fused gate and up swapped, whole tensor", "whole rows permuted: halves swapped…", "L14",
          "fused qkv")  # fmt: skip
def _(b: Bench) -> None:
    n = "layers.0.gate_up_proj.weight"
    b.store(n, np.roll(b.again(n), 104, axis=0))


@mutation("gate and up stored under each other's name", "tensors exchanged", "L14")
def _(b: Bench) -> None:
    one, two = b.again(GATE), b.again(UP)
    b.store(GATE, two)
    b.store(UP, one)


@mutation("updates of gate and up exchanged", "another module's update", "L14")
def _(b: Bench) -> None:
    b.store(GATE, b.W(GATE) + b.delta(UP))
    b.store(UP, b.W(UP) + b.delta(GATE))


@mutation("updates shifted by one layer", "another module's update")
def _(b: Bench) -> None:
    for n in [n for n in b.case.targets if ".1." in n]:
        b.store(n, b.W(n) + b.delta(n.replace(".1.", ".0.")))


@mutation("whole layers exchanged", "tensors exchanged")
def _(b: Bench) -> None:
    for n in [n for n in b.case.targets if ".1." in n]:
        b.store(n, b.again(n.replace(".1.", ".0.")))


@mutation("B of another layer", "another module's B")
def _(b: Bench) -> None:
    A, _, s = b.factors(Q0)
    b.store(Q0, b.W(Q0) + F(s) * (b.factors(Q1)[1] @ A))


@mutation("A of another layer", "another module's A")
def _(b: Bench) -> None:
    _, B, s = b.factors(Q0)
    b.store(Q0, b.W(Q0) + F(s) * (B @ b.factors(Q1)[0]))


@mutation("another module's update on top", "another module's update as well")
def _(b: Bench) -> None:
    b.store(Q0, b.W(Q0) + b.delta(Q0) + b.delta(Q1))
