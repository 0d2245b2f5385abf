"""AdaLoRA's budget: how many triplets all layers together may keep, step by step.

It starts at the sum of all ranks, falls with the third power of the time that is left, and stays at
its target for the last steps, in which nothing is allocated any more.

Math:
    peft_budget   b(0)                                       t ≤ tᵢ
                  ⌊b(T) + (b(0) − b(T)) (1 − p)³⌋            p = (t − tᵢ) / (T − t_f − tᵢ)
                  b(T)                                       t > T − t_f
    paper_budget  the same with p = (t − tᵢ − t_f) / (T − tᵢ − t_f), from t = tᵢ to below T − t_f
Units:
    steps and triplets, whole numbers. The paper says nothing of rounding; both round down.
Errors:
    ValueError for a field that is no integer, a schedule without steps in which the budget falls,
    or whose budget rises.
Limits:
    As printed, the paper's p is −t_f / (T − tᵢ − t_f) at t = tᵢ, where the budget jumps above b(0),
    and it falls short of 1: at T − t_f the budget drops to b(T) from above. With t_f = 0 the two
    agree. The authors' code has PEFT's formula.
Source:
    Zhang et al. 2023, arXiv:2303.10512, section 3.3, equation (12), and the mask interval ΔT of
    its Algorithm 1; PEFT 0.21.2, tuners/adalora/layer.py, RankAllocator.budget_schedule.
"""

from dataclasses import dataclass

from ...values import checked_count

_LEAST = {"interval": 1}  # of the fields that may not be 0


@dataclass(frozen=True)
class CubicSchedule:
    """b(0) = `initial`, b(T) = `target`, T = `total` steps, tᵢ = `warmup`, t_f = `final`, ΔT."""

    initial: int
    target: int
    total: int
    warmup: int = 0
    final: int = 0
    interval: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        for name, value in vars(self).items():
            checked_count("CubicSchedule", name, value, _LEAST.get(name, 0))
        if self.target > self.initial:
            raise ValueError(
                f"CubicSchedule: target must be from 0 to initial = {self.initial}, "
                f"got {self.target}"
            )
        if self.warmup >= self.last:
            raise ValueError(
                f"CubicSchedule: warmup must be from 0 to below total − final = {self.last}, "
                f"got {self.warmup}"
            )

    @property
    def last(self) -> int:
        """T − t_f, the step of the last allocation."""
        return self.total - self.final

    def peft_budget(self, step: int) -> int:
        """b(t) as PEFT and the authors' code compute it."""
        if step <= self.warmup:
            return self.initial
        if step > self.last:
            return self.target
        return self._cubic((step - self.warmup) / (self.last - self.warmup))

    def paper_budget(self, step: int) -> int:
        """b(t) as equation (12) is printed; it may exceed b(0)."""
        if step < self.warmup:
            return self.initial
        if step >= self.last:
            return self.target
        return self._cubic((step - self.warmup - self.final) / (self.last - self.warmup))

    def is_due(self, step: int) -> bool:
        """Whether a step of falling budget is one of those that mask, a multiple of ΔT."""
        return self.warmup < step < self.last and step % self.interval == 0

    def _cubic(self, passed: float) -> int:
        return int((self.initial - self.target) * (1 - passed) ** 3 + self.target)
