"""What the storage grid swallows is said to be so: never a wrong name, and no bug."""

import numpy as np
import pytest
from layouts import llama
from models import Case
from sweep import judged

from lora_ref.verify import Status, Verdict


def verdicts(size: float, factor: float) -> list[Verdict]:
    case = llama(np.random.default_rng(2), size, layers=1).cast("bfloat16")

    def order(W, t, dtype):
        return (W.astype("f4") + t.delta(factor * t.s)).astype(dtype)

    return [v for v in judged(case, order, None) if v.module is not None]


def test_a_swallowed_update_cannot_be_told_from_none():
    assert {v.status for v in verdicts(1e-9, 0.0)} == {Status.UNDECIDABLE}


def test_a_right_merge_of_a_swallowed_update_is_no_bug():
    assert {v.status for v in verdicts(1e-4, 1.0)} <= {
        Status.EXACT,
        Status.ROUNDING,
        Status.UNDECIDABLE,
    }


def test_a_partly_swallowed_update_that_is_missing_is_found():
    found = verdicts(1e-3, 0.0)
    assert {v.status for v in found} == {Status.BUG}
    assert {v.diagnoses[0].name for v in found} == {"not applied"}


@pytest.mark.parametrize(("factor", "name"), [(2.0, "applied twice"), (-1.0, "subtracted")])
def test_a_partly_swallowed_update_of_another_scale_is_named_or_left_open(factor, name):
    for v in verdicts(1e-3, factor):
        assert v.status in (Status.BUG, Status.UNDECIDABLE)
        assert v.status == Status.UNDECIDABLE or name in [d.name for d in v.diagnoses]


def test_a_tiny_tensor_is_not_named_by_chance():
    """Four elements fit many formulas bit for bit."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        case = Case(fields={"r": 2, "lora_alpha": 3}, size=0.01)
        case.weight(rng, "q.weight", (2, 2))
        case.adapt(rng, "q", 2, 3)
        case = case.cast("bfloat16")
        for v in judged(case, _sum_in_two_steps, None):
            assert v.status != Status.BUG, v.text


def _sum_in_two_steps(W, t, dtype):
    """W + s b₀a₀ rounded, then + s b₁a₁: honest, and in no table."""
    B, A, s = t.B, t.A, np.float32(t.s)
    first = (W.astype("f4") + s * (B[:, :1] @ A[:1])).astype(dtype)
    return (first.astype("f4") + s * (B[:, 1:] @ A[1:])).astype(dtype)
