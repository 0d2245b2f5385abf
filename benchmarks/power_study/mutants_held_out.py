"""Mutants that nobody who wrote the bounds or the catalogue has had in mind, and lost precision.

They show what the verdict says of bugs that it does not know: it should see them, and should not
give them a known name.
"""

import numpy as np

from lora_ref.verdict.grids import TF32
from lora_ref.verdict.mistakes import names as known

from .cases import Case
from .dtypes import exact, on_grid, stored
from .implementation import Outputs, Run
from .implementations_attention import factor
from .mutant import LAYERS, LINEAR, flat_rows, on_rows, only, registry, through

found, gross, subtle = registry()
EVERY = (*LINEAR, "attention")


@subtle("one exponent bit flipped in one element", EVERY, held_out=True)
def bit_flip(case: Case, run: Run) -> Outputs:
    y = exact(run(case)["y"])
    at = tuple(case.rng(3).integers(0, y.shape))
    y[at] *= 2.0 if case.rng(4).random() < 0.5 else 0.5
    return {"y": stored(y, case.dtype)}


@gross("first tile of 16 rows written over the second", (*EVERY,), held_out=True)
def tile_twice(case: Case, run: Run) -> Outputs | None:
    y = run(case)["y"]
    rows = flat_rows(y)
    if len(rows) <= 16:
        return None
    second = rows[16:32]
    second[...] = rows[: len(second)]
    return {"y": rows.reshape(y.shape)}


def _columns_of_base(case: Case, run: Run, columns: slice, factor: float) -> Outputs | None:
    """y with some columns of W at so many times what they are."""
    W = case["W"].copy()
    if not W[:, columns].size:
        return None
    W[:, columns] *= factor
    return only(run(case.changed(W=W)), "y")


@subtle("a tile of 16 inputs added twice to the base", "lora_linear", held_out=True)
def inputs_twice(case: Case, run: Run) -> Outputs | None:
    return _columns_of_base(case, run, slice(16, 32), 2.0)


@subtle(
    "last partial tile of 32 inputs left out of the base",
    "lora_linear",
    akin=(known.LAST_INPUT_OF_BASE,),
    held_out=True,
)
def partial_tile(case: Case, run: Run) -> Outputs | None:
    n = case["W"].shape[1]
    return _columns_of_base(case, run, slice(n // 32 * 32, n), 0.0) if n > 32 else None


@subtle("two tokens exchanged in the update alone", LAYERS, held_out=True)
def exchanged(case: Case, run: Run) -> Outputs | None:
    """x in another order for A, the rest as it is: what the base adds is taken out again."""
    rows = flat_rows(case["x"])
    if len(rows) < 2:
        return None
    i, j = case.rng(5).choice(len(rows), 2, replace=False)
    order = np.arange(len(rows))
    order[[i, j]] = j, i
    bare = exact(run(case.changed(B=0 * case["B"]))["y"]) if case.kind == "lora_linear" else None
    if bare is None:
        return None
    y = exact(run(case)["y"])
    update = flat_rows(y - bare)
    mixed = flat_rows(y)
    mixed[[i, j]] = flat_rows(bare)[[i, j]] + update[order][[i, j]]
    return {"y": stored(mixed.reshape(y.shape), case.dtype)}


@subtle("rank cut to a multiple of eight", LINEAR, akin=(known.RANK_TRUNCATED,), held_out=True)
def rank_of_eight(case: Case, run: Run) -> Outputs | None:
    r = case["A"].shape[0]
    if r < 9 or r % 8 == 0:
        return None
    A, B = case["A"].copy(), case["B"].copy()
    A[r // 8 * 8 :], B[:, r // 8 * 8 :] = 0, 0
    return run(case.changed(A=A, B=B))


@gross("accumulator of one token not cleared", EVERY, held_out=True)
def not_cleared(case: Case, run: Run) -> Outputs | None:
    if flat_rows(run(case)["y"]).shape[0] < 2:
        return None

    def change(rows: np.ndarray) -> None:
        t = int(case.rng(6).integers(1, len(rows)))
        rows[t] += rows[t - 1]

    return only(through(run(case), case, y=on_rows(change)), "y")


@subtle("the bias of the neighbouring output", "lora_linear", held_out=True)
def bias_rolled(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(b=np.roll(case["b"], 1))), "y")


@gross("dx from the first half of the outputs", LAYERS, held_out=True)
def half_of_dx(case: Case, run: Run) -> Outputs:
    dy = case["dy"].copy()
    dy[..., (dy.shape[-1] + 1) // 2 :] = 0
    return only(run(case.changed(dy=dy)), "dx")


@subtle("a key of zeros attended to", "attention", held_out=True)
def padded_key(case: Case, run: Run) -> Outputs:
    """A tile's padding takes part in the softmax: its score is 0, its value nothing."""
    zeros = {n: np.zeros_like(case[n][:, :1]) for n in ("k", "v")}
    more = {n: np.concatenate([case[n], zeros[n]], axis=1) for n in zeros}
    for n in (n for n in ("k_cos", "k_sin") if n in case.arrays):
        more[n] = np.concatenate([case[n], case[n][-1:]])
    seen = case.visible
    if seen is not None:
        seen = np.concatenate([seen, np.ones_like(seen[:, :1])], axis=1)
    outputs = run(case.changed({"mask": seen, "causal": None}, **more))
    return outputs | {n: outputs[n][:, :-1].copy() for n in ("dk", "dv")}


@subtle("values of two keys exchanged", "attention", held_out=True)
def values_exchanged(case: Case, run: Run) -> Outputs | None:
    v = case["v"].copy()
    if v.shape[1] < 2:
        return None
    i, j = case.rng(7).choice(v.shape[1], 2, replace=False)
    v[:, [i, j]] = v[:, [j, i]]
    return only(run(case.changed(v=v)), "y")


@gross("online softmax without rescaling its sum", "attention", held_out=True)
def not_rescaled(case: Case, run: Run) -> Outputs | None:
    """The output is rescaled when the maximum rises, the denominator is not."""
    q, k, v = (case[n] for n in "qkv")
    if k.shape[1] <= 16 or case.static["rope"] is not None:
        return None
    k, v = (np.repeat(t, q.shape[0] // t.shape[0], axis=0) for t in (k, v))
    z = factor(case) * q @ k.mT
    if case.visible is not None:
        z = np.where(case.visible, z, -1e300)
    top = z.max(-1, keepdims=True)
    first = z[..., :16].max(-1, keepdims=True)
    p = np.exp(z - top)
    total = np.exp(z[..., :16] - first).sum(-1, keepdims=True) + p[..., 16:].sum(-1, keepdims=True)
    return {"y": stored(p @ v / total, case.dtype)}


@subtle("partial sums over 32 inputs kept in fewer bits", "lora_linear", held_out=True)
def narrow_partial_sums(case: Case, run: Run) -> Outputs | None:
    """Split-K whose partial sums are stored: in the dtype, or tf32 where that is float32."""
    n = case["x"].shape[-1]
    if n <= 32:
        return None

    def rounded(t: np.ndarray) -> np.ndarray:
        return TF32.round(t) if case.dtype == "float32" else on_grid(t, case.dtype)

    W, total = case["W"], 0.0
    for start in range(0, n, 32):
        part = slice(start, start + 32)
        total = rounded(total + rounded(case["x"][..., part] @ W[:, part].T))
    update = on_grid(case.s * ((case["x"] @ case["A"].T) @ case["B"].T), case.dtype)
    return {"y": stored(on_grid(total + update, case.dtype) + case["b"], case.dtype)}


MUTANTS = tuple(found)
