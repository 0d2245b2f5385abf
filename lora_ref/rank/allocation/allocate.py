"""One step of AdaLoRA's allocation, the paper's and PEFT's: state in, state out.

    state = AllocationState.start(adapters)
    state, adapters = paper_step(state, before, gradients, after, step, schedule)
    state, adapters = peft_step(state, adapters, gradients, step, schedule)

Math:
    paper_step  w is what dw was computed at. Every step is observed. A step of falling budget, if a
                multiple of ΔT, masks all but the top b(t); the first step from T − t_f on masks all
                but the top b(T), and that mask stays.
    peft_step   w is what the optimiser has already changed. Steps below T − t_f are observed and
                masked by PEFT's threshold and budget. Step T − t_f is not observed, masks by what
                was seen before, and forgets it. Later steps repeat the last mask.
Shapes:
    adapters, gradients: a mapping of the layers' names to AdaLoRA, all of one model
Errors:
    ValueError if `peft_step` is past its last allocation and has no mask: PEFT fails there as well;
    what `mask` refuses of scores and masks.
Limits:
    PEFT's last allocation is at exactly T − t_f: with t_f = 0 and steps counted from zero it never
    comes, with ΔT > 1 masks repeat only from then on. A masked λ has a gradient and regrows between
    masks, by design in both: the update of a step that masks nothing may have its full rank again.
Source:
    Zhang et al. 2023, arXiv:2303.10512, section 3.3 and Algorithm 1; PEFT 0.21.2,
    tuners/adalora/model.py, AdaLoraModel.update_and_allocate, which its documentation places
    after optimizer.step() and before zero_grad().
"""

from dataclasses import dataclass
from typing import Self

from .importance import Adapters, Importance
from .mask import Mask, masked, peft_mask, top
from .schedule import CubicSchedule


@dataclass(frozen=True, eq=False)
class AllocationState:
    """What was seen, the mask of the last allocation, and whether that mask is the final one."""

    importance: Importance
    mask: Mask | None = None
    is_final: bool = False

    @classmethod
    def start(cls, adapters: Adapters) -> Self:
        """Nothing seen, nothing masked."""
        return cls(Importance.start(adapters))


def paper_step(
    state: AllocationState,
    before: Adapters,
    gradients: Adapters,
    after: Adapters,
    step: int,
    schedule: CubicSchedule,
    *,
    beta1: float = 0.85,
    beta2: float = 0.85,
) -> tuple[AllocationState, dict]:
    """Observe `before` with its gradients and mask `after`, which the optimiser made of it."""
    seen = state.importance.observe(before, gradients, beta1=beta1, beta2=beta2)
    is_final = step >= schedule.last
    if not (is_final or schedule.is_due(step)):
        return AllocationState(seen, state.mask), dict(after)
    mask = state.mask
    if mask is None or not state.is_final:
        mask = top(seen.scores(), schedule.paper_budget(step))
    return AllocationState(seen, mask, is_final), masked(after, mask)


def peft_step(
    state: AllocationState,
    adapters: Adapters,
    gradients: Adapters,
    step: int,
    schedule: CubicSchedule,
    *,
    beta1: float = 0.85,
    beta2: float = 0.85,
) -> tuple[AllocationState, dict]:
    """What PEFT does to adapters that the optimiser has just changed, with the old gradients."""
    if step > schedule.last:
        if state.mask is None:
            raise ValueError(
                f"peft_step: state.mask must be there after the last allocation, step "
                f"{schedule.last} from schedule, got None at step {step}"
            )
        return state, masked(adapters, state.mask)
    seen = state.importance
    if step < schedule.last:
        seen = seen.observe(adapters, gradients, beta1=beta1, beta2=beta2)
        if not schedule.is_due(step):
            return AllocationState(seen, state.mask), dict(adapters)
    mask = peft_mask(seen.scores(), schedule.peft_budget(step))
    is_final = step == schedule.last
    seen = Importance.start(adapters) if is_final else seen
    return AllocationState(seen, mask, is_final), masked(adapters, mask)
