"""Mutants of attention: masks, heads, scales, keys, rotary embedding."""

import numpy as np

from lora_ref.verdict.grids import BFLOAT16
from lora_ref.verdict.mistakes import names as known

from .cases import Case
from .dtypes import exact, stored
from .implementation import Outputs, Run
from .implementations_attention import factor
from .mutant import only, registry, through

found, gross, subtle = registry()
KIND = "attention"


def _static(name: str, known_name: str, static, add=gross) -> None:
    @add(name, KIND, names=(known_name,))
    def mutated(case: Case, run: Run) -> Outputs | None:
        changed = static(case)
        return None if changed is None else run(case.changed(changed))


def _offset(case: Case, by: int) -> dict[str, int] | None:
    now = case.static["causal"]
    return None if now is None or now + by < 0 else {"causal": now + by}


_static(
    "mask ignored",
    known.MASK_IGNORED,
    lambda case: None if case.visible is None else {"causal": None, "mask": None},
)
_static("causal mask one key ahead", known.ONE_KEY_AHEAD, lambda case: _offset(case, 1))
_static("own key excluded", known.SELF_EXCLUDED, lambda case: _offset(case, -1))
_static(
    "causal mask at the other corner",
    known.OTHER_CORNER,
    lambda case: {"causal": 0} if case.static["causal"] else None,
)
_static("scores not scaled", known.SCORES_UNSCALED, lambda case: {"scale": 1.0})
_static("scores scaled by 1/d", known.SCORES_BY_WIDTH, lambda case: {"scale": factor(case) ** 2})


@subtle("scores scaled 5 % too little", KIND)
def scale_off(case: Case, run: Run) -> Outputs:
    return run(case.changed({"scale": 0.95 * factor(case)}))


def _on_heads(case: Case, run: Run, chosen: np.ndarray) -> Outputs | None:
    """Query head h on key head chosen[h]; the gradients of a key head are summed."""
    H, K = case["q"].shape[0], case["k"].shape[0]
    if np.array_equal(chosen, np.arange(H) * K // H):
        return None
    outputs = run(case.changed(k=case["k"][chosen], v=case["v"][chosen]))

    def summed(t: np.ndarray) -> np.ndarray:
        total = np.zeros((K, *t.shape[1:]))
        np.add.at(total, chosen, t)
        return total

    sums = {n: stored(summed(exact(outputs[n])), case.dtype) for n in ("dk", "dv")}
    return outputs | sums


@gross("query head h on key head h mod K", KIND, names=(known.HEADS_MODULO,))
def modulo(case: Case, run: Run) -> Outputs | None:
    return _on_heads(case, run, np.arange(case["q"].shape[0]) % case["k"].shape[0])


@gross("all query heads on the first key head", KIND, names=(known.FIRST_KEY_HEAD,))
def first_head(case: Case, run: Run) -> Outputs | None:
    return _on_heads(case, run, np.zeros(case["q"].shape[0], dtype=int))


@subtle("last query head on the first key head", KIND, names=(known.LAST_HEAD,))
def last_head(case: Case, run: Run) -> Outputs | None:
    H, K = case["q"].shape[0], case["k"].shape[0]
    chosen = np.arange(H) * K // H
    chosen[-1] = 0
    return _on_heads(case, run, chosen)


@gross("dk and dv of one head of each group", KIND, names=(known.GROUP_NOT_SUMMED,))
def group_not_summed(case: Case, run: Run) -> Outputs | None:
    H, K = case["q"].shape[0], case["k"].shape[0]
    alone = np.arange(H) % (H // K) == 0
    if alone.all():
        return None
    return only(run(case.changed(dy=np.where(alone[:, None, None], case["dy"], 0))), "dk", "dv")


@gross("dq without the scale", KIND, names=(known.DQ_UNSCALED,))
def dq_unscaled(case: Case, run: Run) -> Outputs:
    return only(through(run(case), case, dq=lambda t: t / factor(case)), "dq")


@gross("dk without the scale", KIND, names=(known.DK_UNSCALED,))
def dk_unscaled(case: Case, run: Run) -> Outputs:
    return only(through(run(case), case, dk=lambda t: t / factor(case)), "dk")


def _seen(case: Case) -> np.ndarray:
    if case.visible is not None:
        return case.visible.copy()
    return np.ones((case["q"].shape[-2], case["k"].shape[-2]), dtype=bool)


def _with_mask(case: Case, run: Run, seen: np.ndarray) -> Outputs | None:
    """With these keys visible; a query that would be left without any keeps its own."""
    seen = np.where(seen.any(axis=1, keepdims=True), seen, _seen(case))
    return run(case.changed({"mask": seen, "causal": None}))


@subtle("one masked cell leaks", KIND)
def leaked_cell(case: Case, run: Run) -> Outputs | None:
    hidden = np.argwhere(~_seen(case))
    if not len(hidden):
        return None
    seen = _seen(case)
    seen[tuple(hidden[case.rng(2).integers(len(hidden))])] = True
    return _with_mask(case, run, seen)


@subtle("last key left out", KIND, names=(known.LAST_KEY,))
def last_key(case: Case, run: Run) -> Outputs | None:
    seen = _seen(case)
    seen[:, -1] = False
    return _with_mask(case, run, seen) if seen.shape[1] > 1 else None


@subtle("first key left out", KIND, names=(known.FIRST_KEY,))
def first_key(case: Case, run: Run) -> Outputs | None:
    seen = _seen(case)
    seen[:, 0] = False
    return _with_mask(case, run, seen) if seen.shape[1] > 1 else None


@subtle("last tile of 16 keys left out", KIND, akin=(known.LAST_KEY,))
def last_tile(case: Case, run: Run) -> Outputs | None:
    seen = _seen(case)
    whole = seen.shape[1] // 16 * 16
    seen[:, whole:] = False
    return _with_mask(case, run, seen) if 0 < whole < seen.shape[1] else None


@subtle("last query left out of dk and dv", KIND)
def last_query_of_gradients(case: Case, run: Run) -> Outputs:
    dy = case["dy"].copy()
    dy[..., -1, :] = 0
    return only(run(case.changed(dy=dy)), "dk", "dv")


def _turn(name: str, known_name: str, angles, add=gross) -> None:
    """A mutant of cos and sin, where the case is rotated."""

    @add(name, KIND, names=(known_name,))
    def mutated(case: Case, run: Run) -> Outputs | None:
        if case.static["rope"] is None:
            return None
        return run(case.changed(**angles(case)))


def _flat(case: Case, sides: str) -> dict[str, np.ndarray]:
    turns = {"cos": 1.0, "sin": 0.0}
    return {f"{s}_{n}": 0 * case[f"{s}_{n}"] + t for s in sides for n, t in turns.items()}


def _at(case: Case, positions, sides: str) -> dict[str, np.ndarray]:
    rope, (T, d) = case.static["rope"], case["q"].shape[-2:]
    return rope.angles(d, **dict.fromkeys(sides, positions(rope.positions(T).astype(float))))


_turn("not rotated", known.NOT_ROTATED, lambda case: _flat(case, "qk"))
_turn("keys not rotated", known.KEYS_NOT_ROTATED, lambda case: _flat(case, "k"))
_turn(
    "rotated backwards",
    known.BACKWARDS,
    lambda case: {n: -case[n] for n in ("q_sin", "k_sin")},
)
_turn(
    "queries one position ahead",
    known.ONE_POSITION_AHEAD,
    lambda case: _at(case, lambda p: p + 1, "q"),
)
_turn(
    "positions rounded to bfloat16",
    known.POSITIONS_ROUNDED,
    lambda case: _at(case, BFLOAT16.round, "qk"),
    add=subtle,
)


@gross("the other pairing of columns", KIND, names=(known.PAIRING,))
def pairing(case: Case, run: Run) -> Outputs | None:
    rope = case.static["rope"]
    if rope is None:
        return None
    return run(case.changed({"rope": type(rope)(rope.base, rope.offset, not rope.halves)}))


MUTANTS = tuple(found)
