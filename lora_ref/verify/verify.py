"""A merged checkpoint against its base and its adapter: a verdict for every tensor.

Tensors are taken one at a time and a block of rows at a time, each mapped only while it is
looked at, so that the memory needed does not grow with the checkpoint.

Errors:
    CheckpointError, one line, where the input cannot be judged: an adapter for another model, a
    quantized base, NaN in what the merge starts from. A merged checkpoint that is wrong is no
    error but a verdict.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.errors import refusal, shown
from ..checkpoint.peft import PeftAdapter
from .catalogue import Surroundings
from .diagnose import Diagnosis
from .dtypes import wrong_dtypes
from .grids import grid_of, is_floating
from .judge import BUG, EXACT, Verdict, judge
from .measure import Pair
from .names import Shift, find_shift
from .resolve import Plan, resolve
from .updates import LowRank, Replaced, matrix

# What a model computes for itself and some versions store all the same.
BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "attn.bias", "attn.masked_bias",
           "attention.bias", "attention.masked_bias")  # fmt: skip
Progress = Callable[[Verdict], None]


@dataclass(frozen=True)
class Report:
    """All verdicts, in the base's order, and what was noted besides."""

    base: str
    adapter: str
    merged: str
    verdicts: list[Verdict]
    notes: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(v.status == status for v in self.verdicts)

    @property
    def has_bug(self) -> bool:
        return self.count(BUG) > 0


@dataclass(frozen=True)
class Job:
    """Everything that is opened once: the three inputs, and how their names correspond."""

    base: Checkpoint
    adapter: PeftAdapter
    merged: Checkpoint
    plan: Plan
    shift: Shift  # from the base's names to merged's

    @classmethod
    def open(cls, base: str, adapter: str, merged: str) -> "Job":
        """Open and check the three inputs; no weight is read but the adapter's."""
        opened = Checkpoint.open(base), PeftAdapter.open(adapter), Checkpoint.open(merged)
        plan = resolve(opened[1], opened[0])
        return cls(*opened, plan, find_shift(opened[0].names, opened[2].names))

    @property
    def names(self) -> list[str]:
        """Every tensor to be judged by its name in the base: stored, brought along, or tied."""
        brought = [n for n in self.plan.added if n not in self.base.homes]
        tied = [n for n in self.plan.tied if self.shift(n) in self.merged.homes]
        return [*self.base.names, *brought, *tied]

    def there(self, name: str) -> str:
        """The name in merged."""
        return self.shift(name)


def verify(base: str, adapter: str, merged: str, progress: Progress | None = None) -> Report:
    """Judge the checkpoint `merged` as the merge of `adapter` into `base`.

    `progress` is called with each verdict as it is reached.
    """
    job = Job.open(base, adapter, merged)
    verdicts, notes = [], _notes(job)
    for verdict in _verdicts(job, notes):
        verdicts.append(verdict)
        if progress is not None:
            progress(verdict)
    return Report(base, adapter, merged, verdicts, notes)


def _notes(job: Job) -> list[str]:
    notes = []
    if str(job.shift) != str(Shift()):
        notes.append(f"MERGED has the names of BASE {job.shift}")
    if str(job.plan.shift) != str(Shift()):
        notes.append(f"BASE has the names of ADAPTER {job.plan.shift}")
    if job.adapter.config.base_is_changed:
        how = job.adapter.config.init_lora_weights
        notes.append(f"ADAPTER was trained on a base that its initialisation ({how}) changed")
    return notes


def _verdicts(job: Job, notes: list[str]) -> Iterator[Verdict]:
    odd = wrong_dtypes(job)
    around = Surroundings(
        {n: job.base.info(n).shape for n in job.base.names},
        job.base.tensor,
        _LowRankOnly(job.plan),
        job.base.config,
    )
    for name in job.names:
        yield from _one(job, name, odd, around, notes)
    yield from _extra(job, notes)


class _LowRankOnly(dict[str, LowRank]):
    """The plan's low-rank updates; each is made when asked for and not kept."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def items(self) -> Iterable[tuple[str, LowRank]]:  # type: ignore[override]
        for name in self.plan.modules:
            yield name, self.plan._low_rank(name, self.plan.modules[name])

    def get(self, name: str, default=None) -> LowRank | None:  # type: ignore[override]
        return (
            self.plan._low_rank(name, self.plan.modules[name])
            if name in self.plan.modules
            else default
        )


def _one(
    job: Job, name: str, odd: dict[str, str], around: Surroundings, notes: list[str]
) -> Iterator[Verdict]:
    there = job.there(name)
    if there not in job.merged.homes:
        if name.endswith(BUFFERS) and name not in job.plan:
            notes.append(f"{name} is not in MERGED: a buffer that models make themselves")
        elif _is_tied_copy(job, name):
            notes.append(f"{name} is not in MERGED: tied to the input embedding")
        else:
            yield _bug(name, "missing", "the tensor is in BASE and not in MERGED")
        return
    update = job.plan[name] if name in job.plan else None
    stored = job.plan.stored_at(name)
    wanted = job.base.info(stored).shape if stored in job.base.homes else None
    if isinstance(update, Replaced) and update.rows is None:
        wanted = update.values.shape
    found = job.merged.info(there)
    if tuple(found.shape) != tuple(wanted or ()):
        text = f"{list(found.shape)} in MERGED, must be {list(wanted or ())}"
        yield _bug(name, "wrong shape", text)
    elif name in odd:
        yield _bug(name, "wrong dtype", odd[name])
    else:
        yield _compare(job, name, update, around)


def _compare(job: Job, name: str, update, around: Surroundings) -> Verdict:
    stored, there = job.plan.stored_at(name), job.there(name)
    brought = stored not in job.base.homes
    info = job.merged.info(there)
    if not brought and (not _floats(job.base, stored) or not _floats(job.merged, there)):
        return _compare_bytes(job, name, update)
    M = job.merged.tensor(there)
    W = np.asarray(update.values) if brought else job.base.tensor(stored)
    if isinstance(update, Replaced) and update.rows is None and W.shape != M.shape:
        W, update = np.asarray(update.values), None
    if brought:
        update = None
    shape = update.shape if isinstance(update, LowRank) else None
    W, M = matrix(W, shape), matrix(M, shape)
    pair = Pair(W, M, grid_of(W.dtype), grid_of(M.dtype))
    if update is not None and not _is_finite(W):
        raise refusal(job.base.path, f"{shown(stored)} must be finite to be merged, has NaN or inf")
    verdict = judge(name, pair, update, around, np.random.default_rng(0))
    return Verdict(**{**verdict.__dict__, "info": info})


def _floats(checkpoint: Checkpoint, name: str) -> bool:
    from ..checkpoint.dtypes import DTYPES

    dtype = DTYPES[checkpoint.info(name).dtype].numpy
    return dtype is not None and is_floating(dtype)


def _is_finite(W: np.ndarray) -> bool:
    step = max(1, (1 << 18) // max(1, W.shape[1]))
    return all(np.isfinite(W[i : i + step]).all() for i in range(0, len(W), step))


def _compare_bytes(job: Job, name: str, update) -> Verdict:
    """Integers, booleans and packed types: the same bytes, or not."""
    here, there = job.base.info(name), job.merged.info(job.there(name))
    if update is not None:
        raise refusal(
            job.base.path,
            f"{shown(name)} must be of a floating type to be merged, got {here.dtype}: a quantized "
            "base is not judged by this version",
        )
    same = here.dtype == there.dtype and np.array_equal(
        job.base._home(name).raw(name), job.merged._home(job.there(name)).raw(job.there(name))
    )
    if same:
        return Verdict(name, EXACT, "unchanged", info=there)
    return _bug(name, "changed that should not", f"other {here.dtype} values in MERGED")


def _is_tied_copy(job: Job, name: str) -> bool:
    """An output weight that the base stores although it is the input embedding."""
    from .resolve import OUTPUTS

    tied = job.base.config.get("tie_word_embeddings")
    return bool(tied) and name.endswith(OUTPUTS) and name not in job.plan


def _extra(job: Job, notes: list[str]) -> Iterator[Verdict]:
    """Tensors of merged that nothing accounts for."""
    from .resolve import OUTPUTS

    expected = {job.there(name) for name in job.names}
    for name in job.merged.names:
        if name in expected:
            continue
        if name.endswith(BUFFERS):
            notes.append(f"{name} is only in MERGED: a buffer that models make themselves")
        elif ".lora_" in name or ".base_layer." in name:
            yield _bug(name, "not merged", "an adapter's tensor: MERGED was saved unmerged")
        elif name.endswith(OUTPUTS) and _equals_embedding(job, name):
            notes.append(f"{name} is only in MERGED: a copy of the input embedding")
        else:
            yield _bug(name, "extra", "the tensor is in MERGED and not in BASE")


def _equals_embedding(job: Job, name: str) -> bool:
    info = job.merged.info(name)
    for other in job.merged.names:
        same = other != name and job.merged.info(other).shape == info.shape
        if same and job.merged.info(other).dtype == info.dtype:
            raw = job.merged._home(other).raw(other)
            if np.array_equal(raw, job.merged._home(name).raw(name)):
                return True
    return False


def _bug(name: str, what: str, text: str) -> Verdict:
    return Verdict(name, BUG, f"{what}: {text}", diagnoses=[Diagnosis(what, text, 1.0, "seen")])
