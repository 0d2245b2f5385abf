"""A merged checkpoint against its base and its adapter: a verdict for every tensor.

Tensors are taken one at a time and a block of rows at a time, each mapped only while it is
looked at, so that the memory needed does not grow with the checkpoint.

Errors:
    CheckpointError, one line, where the input cannot be judged: an adapter for another model, a
    quantized base, NaN in what the merge starts from. A merged checkpoint that is wrong is no
    error but a verdict.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.dtypes import DTYPES
from ..checkpoint.errors import refusal, shown
from ..checkpoint.header import TensorInfo
from ..checkpoint.peft import PeftAdapter
from ..verdict.findings import Status
from ..verdict.grids import grid_of, is_floating
from .catalogue import Surroundings
from .diagnose import Diagnosis
from .dtypes import wrong_dtypes
from .judge import Verdict, judge
from .measure import Pair, row_blocks, take_from
from .names import Shift, find_shift
from .resolve import EMBEDDINGS, OUTPUTS, Plan, Updates, resolve
from .updates import LowRank, Update, matrix

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
        return self.count(Status.BUG) > 0


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
        tied = [n for n in self.plan.tied if self.shift(n) in self.merged.homes]
        return list(dict.fromkeys((*self.base.names, *self.plan.added, *tied)))


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
    if job.adapter.ignored:
        notes.append(f"not used, as PEFT does not: {', '.join(job.adapter.ignored)}")
    return notes


def _verdicts(job: Job, notes: list[str]) -> Iterator[Verdict]:
    odd = wrong_dtypes(job)
    shapes = {n: job.base.info(n).shape for n in job.base.names}
    updates = Updates(job.plan)
    around = Surroundings(shapes, job.base.tensor, updates, job.base.config)
    for name in job.names:
        if job.shift(name) not in job.merged.homes:
            yield from _missing(job, name, notes)
        else:
            yield _one(job, name, odd, around)
    yield from _shared(job)
    yield from _extra(job, notes)


def _missing(job: Job, name: str, notes: list[str]) -> Iterator[Verdict]:
    touched = name in job.plan
    if name.endswith(BUFFERS) and not touched:
        notes.append(f"{name} is not in MERGED: a buffer that models make themselves")
    elif name.endswith(OUTPUTS) and job.base.config.get("tie_word_embeddings") and not touched:
        notes.append(f"{name} is not in MERGED: tied to the input embedding")
    else:
        yield _bug(name, "missing", "the tensor is in BASE and not in MERGED")


def _one(job: Job, name: str, odd: dict[str, str], around: Surroundings) -> Verdict:
    found = job.merged.info(job.shift(name))
    wanted = job.plan.shape(name)
    if tuple(found.shape) != wanted:
        return _bug(name, "wrong shape", f"{list(found.shape)} in MERGED, must be {list(wanted)}")
    if name in odd:
        return _bug(name, "wrong dtype", odd[name])
    update = job.plan.get(name)
    start = job.plan.stored_at(name)
    if not _floats(found) or (start is not None and not _floats(job.base.info(start))):
        return _compare_bytes(job, name, update)
    return _compare(job, name, update, around)


def _compare(job: Job, name: str, update: Update | None, around: Surroundings) -> Verdict:
    shape = update.shape if isinstance(update, LowRank) else None
    W = matrix(job.plan.start(name), shape)
    M = matrix(job.merged.tensor(job.shift(name)), shape)
    if update is not None and not _is_finite(W):
        raise refusal(job.base.path, f"{shown(name)} must be finite to be merged, has NaN or inf")
    if isinstance(update, LowRank) and not all(map(update.is_finite, row_blocks(W.shape))):
        raise refusal(job.base.path, f"{shown(name)}: the update must be finite, got an overflow")
    pair = Pair(W, M, grid_of(W.dtype), grid_of(M.dtype))
    with np.errstate(all="ignore"):  # a hypothesis may overflow: it then explains nothing
        verdict = judge(name, pair, update, around, np.random.default_rng(0))
    return replace(verdict, info=job.merged.info(job.shift(name)))


def _floats(info: TensorInfo) -> bool:
    dtype = DTYPES[info.dtype].numpy
    return dtype is not None and is_floating(dtype)


def _is_finite(W: np.ndarray) -> bool:
    return all(np.isfinite(take_from(W)(rows)).all() for rows in row_blocks(W.shape))


def _compare_bytes(job: Job, name: str, update: Update | None) -> Verdict:
    """Integers, booleans and packed types: the same bytes, or not."""
    here, there = job.base.info(name), job.merged.info(job.shift(name))
    if update is not None:
        need = f"{shown(name)} must be of a floating type to be judged"
        why = "a quantized tensor is not judged by this version"
        raise refusal(job.base.path, f"{need}, got {here.dtype} and {there.dtype}: {why}")
    same = here.dtype == there.dtype and np.array_equal(
        job.base.homes[name].raw(name),
        job.merged.homes[job.shift(name)].raw(job.shift(name)),
    )
    if same:
        return Verdict(name, Status.EXACT, "unchanged", info=there)
    return _bug(name, "changed that should not", f"other {here.dtype} values in MERGED")


def _shared(job: Job) -> Iterator[Verdict]:
    """Updates of an output weight that shares its storage with the embedding in MERGED."""
    for name, embedding in job.plan.tied.items():
        if job.shift(name) in job.merged.homes or _same_update(job.plan, name, embedding):
            continue
        text = f"MERGED stores one tensor for {name} and {embedding}, but only one is updated so"
        yield _bug(name, "tied weight", f"{text}: merge with the weights untied")


def _same_update(plan: Plan, name: str, embedding: str) -> bool:
    """Whether both uses of a shared weight get the same update, as ensure_weight_tying makes it."""
    if embedding not in plan.modules:
        return False
    one, two = plan[name], plan[embedding]
    if not isinstance(one, LowRank) or not isinstance(two, LowRank) or one.shape != two.shape:
        return False
    blocks = row_blocks(one.shape)
    return all(np.allclose(one.delta(r), two.delta(r), rtol=1e-6, atol=0) for r in blocks)


def _extra(job: Job, notes: list[str]) -> Iterator[Verdict]:
    """Tensors of merged that nothing accounts for."""
    expected = {job.shift(name) for name in job.names}
    for name in job.merged.names:
        if name in expected:
            continue
        if name.endswith(BUFFERS):
            notes.append(f"{name} is only in MERGED: a buffer that models make themselves")
        elif ".lora_" in name or ".base_layer." in name:
            yield _bug(name, "not merged", "an adapter's tensor: MERGED was saved unmerged")
        elif name.endswith(OUTPUTS) and _equals_embedding(job.merged, name):
            notes.append(f"{name} is only in MERGED: a copy of the input embedding")
        else:
            yield _bug(name, "extra", "the tensor is in MERGED and not in BASE")


def _equals_embedding(merged: Checkpoint, name: str) -> bool:
    info = merged.info(name)
    like = (info.dtype, info.shape)
    others = [n for n in merged.names if n.split(".")[-2:-1] and n.split(".")[-2] in EMBEDDINGS]
    return any(
        np.array_equal(merged.homes[other].raw(other), merged.homes[name].raw(name))
        for other in others
        if (merged.info(other).dtype, merged.info(other).shape) == like
    )


def _bug(name: str, what: str, text: str) -> Verdict:
    return Verdict(
        name, Status.BUG, f"{what}: {text}", diagnoses=[Diagnosis(what, text, 1.0, "seen")]
    )
