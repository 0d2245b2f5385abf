"""The exact tests, for whoever may choose the inputs: which mutants they see, of any size.

A mutant is made a function of arrays, as the library's exact tests want it. It counts if it
changed a bit in any of their calls; a correct implementation must pass them all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_ref.verdict import exact as tests
from lora_ref.verdict.exact import Failure

from .cases import Case
from .dtypes import GRIDS, exact
from .implementation import Implementation, Outputs
from .mutant import Mutant, changes

HEADS, KEY_HEADS, WIDTH = 6, 3, 16
MASKS = ((37, 37, 0), (37, 37, None), (34, 37, 3))  # queries, keys, offset of a causal mask
# (T, m, n, r): odd, square, all equal, and beyond the tiles of 16 and 32 that some mutants have.
SHAPES = ((13, 11, 17, 3), (7, 19, 19, 5), (8, 8, 8, 8), (37, 29, 67, 13))


def prepared(case: Case) -> Case:
    """What a sibling is chosen by: the tests do not rotate, and DoRA's norm is held constant."""
    return case.changed(
        {"attention": {"rope": None}, "dora_linear": {"detached": True}}.get(case.kind)
    )


@dataclass
class Subject:
    """A sibling, with a mutant in it or not, called on the arrays that a test chooses."""

    sibling: Implementation
    mutant: Mutant | None
    kind: str
    dtype: str
    seed: int
    static: dict[str, Any] = field(default_factory=dict)
    changed: bool = False

    def __call__(self, arrays: dict[str, np.ndarray], static: dict[str, Any]) -> Outputs:
        """The outputs for these arrays; where the mutant cannot be made, the right ones."""
        case = Case(self.kind, self.dtype, self.seed, "exact", arrays, {**self.static, **static})
        right = self.sibling.run(case)
        if self.mutant is None:
            return right
        found = self.mutant.planted(case, self.sibling)
        if found is None:
            return right
        self.changed |= bool(changes(found, right))
        return found


def exact_failures(subject: Subject) -> tuple[Failure, ...]:
    """What the exact tests of its kernel say of a subject."""
    return _TESTS[subject.kind](subject, GRIDS[subject.dtype])


def _values(outputs: Outputs) -> dict[str, np.ndarray]:
    return {name: exact(t) for name, t in outputs.items()}


def _others(A: np.ndarray, B: np.ndarray) -> dict[str, np.ndarray]:
    return {"A2": -A[::-1].copy(), "B2": np.roll(B, 1, axis=0)}


def _factors(A: np.ndarray, B: np.ndarray, s: float) -> dict[str, Any]:
    return {"rank": A.shape[0], "alpha": s * A.shape[0]}


def _linear(subject: Subject, grid: Any) -> tuple[Failure, ...]:
    def mine(x, W, b, A, B, s, dy):
        arrays = {"x": x, "W": W, "b": b, "A": A, "B": B, "dy": dy, **_others(A, B)}
        return _values(subject(arrays, _factors(A, B, s)))

    return tests.lora_linear_tests(mine, grid, shapes=SHAPES, seed=subject.seed)


def _merged(subject: Subject, grid: Any) -> tuple[Failure, ...]:
    def mine(W, A, B, s, dW):
        arrays = {"W": W, "A": A, "B": B, "dy": dW, **_others(A, B)}
        return _values(subject(arrays, _factors(A, B, s)))

    return tests.merged_weight_tests(mine, grid, shapes=SHAPES, seed=subject.seed)


def _dora(subject: Subject, grid: Any) -> tuple[Failure, ...]:
    def mine(x, W, b, A, B, m, s, dy):
        arrays = {"x": x, "W": W, "A": A, "B": B, "m": m, "dy": dy, **_others(A, B)}
        found = _values(subject(arrays, {**_factors(A, B, s), "detached": True}))
        if b is None:
            return found
        return found | {"y": grid.round(found["y"] + b), "db": grid.round(dy.sum(0))}

    return tests.dora_tests(mine, grid, seed=subject.seed)


def _attention(subject: Subject, grid: Any) -> tuple[Failure, ...]:
    found: tuple[Failure, ...] = ()
    for T, S, causal in MASKS:
        static = {"mask": None, "causal": causal, "scale": None, "rope": None}
        mask = np.ones((T, S), dtype=bool) if causal is None else np.tri(T, S, causal, dtype=bool)
        found += tests.attention_tests(
            _batched(subject, static),
            grid,
            mask,
            heads=HEADS,
            kv_heads=KEY_HEADS,
            head_dim=WIDTH,
            seed=subject.seed,
        )
    return found


def _batched(subject: Subject, static: dict[str, Any]) -> Callable[..., dict[str, np.ndarray]]:
    """One call for each element of the batch."""

    def mine(q, k, v, do):
        each = [
            _values(subject(dict(zip(("q", "k", "v", "dy"), one, strict=True)), static))
            for one in zip(q, k, v, do, strict=True)
        ]
        return {name: np.stack([outputs[name] for outputs in each]) for name in each[0]}

    return mine


_TESTS: dict[str, Callable[[Subject, Any], tuple[Failure, ...]]] = {
    "lora_linear": _linear,
    "lora_merged": _merged,
    "dora_linear": _dora,
    "attention": _attention,
}
