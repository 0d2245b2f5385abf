"""The correctly rounded merge of a checkpoint: each element of W + s L R rounded once.

What it writes is the yardstick: no merge can be nearer to the definition in the dtype it is
stored in. Tensors are made one at a time and a block of rows at a time, so the memory needed
is that of the largest tensor's mapping and not of the checkpoint.

Math:
    M = round(W + s L R), the sum in float64, to the nearest of the storage grid, ties to even
Errors:
    CheckpointError, one line: where the adapter does not fit, a base that is quantized or has
    NaN where it is updated, an output weight that the base does not store (tied), a target that
    exists or is one of the inputs.
Limits:
    float64 itself rounds: the product is within γ_r |L||R| of the exact one (r + 1 units of
    2⁻⁵³), which decides a tie of the storage grid wrongly once in about 2²⁸ elements of float32.
    config.json is copied as it is, also where `dtype` changes what is stored.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.dtypes import DTYPES, dtype_name
from ..checkpoint.errors import refusal, shown
from ..checkpoint.header import TensorSpec
from ..checkpoint.peft import PeftAdapter
from ..checkpoint.safetensors import Blocks
from ..checkpoint.write import write_checkpoint
from ..verdict.grids import grid_of
from .measure import reference, row_blocks, take_from
from .names import Shift
from .resolve import Plan, resolve
from .updates import EVERY, LowRank, Replaced, Update, matrix

DTYPES_OF_MERGE = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
PLAIN = (*DTYPES_OF_MERGE.values(),)  # what is merged, and converted if a dtype is asked for
SPAN = 1 << 20  # elements written together


@dataclass
class Merged:
    """What was written: tensors by what was done to them, elements that became inf, notes."""

    out: str
    updated: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    copied: int = 0
    converted: int = 0
    overflowed: int = 0
    notes: list[str] = field(default_factory=list)


def merge(
    base: str,
    adapter: str,
    out: str,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Merged:
    """Write the correctly rounded merge of `adapter` into `base` as the checkpoint `out`.

    `dtype` is a name such as 'bfloat16' for the stored tensors; without it each keeps its own.
    `progress` is called with the name of each tensor that is written.
    """
    if dtype is not None and dtype not in DTYPES_OF_MERGE:
        known = ", ".join(DTYPES_OF_MERGE)
        raise ValueError(f"merge: dtype must be one of {known}, got {shown(dtype)}")
    model, lora = Checkpoint.open(base), PeftAdapter.open(adapter)
    _refuse_adapter(out, adapter)
    plan = resolve(lora, model)
    _refuse_tied(plan)
    stored = None if dtype is None else DTYPES_OF_MERGE[dtype]
    specs = {name: _spec(plan, name, stored) for name in (*model.names, *plan.added)}
    result = Merged(str(out), notes=_notes(plan, stored))

    def blocks(name: str) -> Blocks:
        if progress is not None:
            progress(name)
        return _blocks(plan, specs[name], result)

    write_checkpoint(out, model, blocks, specs=specs, overwrite=overwrite)
    return result


def _refuse_adapter(out: str, adapter: str) -> None:
    target, source = Path(os.path.realpath(out)), Path(os.path.realpath(adapter))
    if target == source or target in source.parents:
        raise refusal(out, f"must not be or hold the adapter of the merge, {adapter}")


def _refuse_tied(plan: Plan) -> None:
    for name, embedding in plan.tied.items():
        raise refusal(
            plan.base.path,
            f"must store {shown(name)}, which the adapter updates, but shares {shown(embedding)} "
            "for it: a merge would change the embedding too, or be ignored by loaders that tie "
            "the two; save the base with tie_word_embeddings false first",
        )


def _spec(plan: Plan, name: str, stored: str | None) -> TensorSpec:
    """Name, dtype and shape in the merged checkpoint."""
    update = plan[name] if name in plan.replaced else None
    whole = update.values if isinstance(update, Replaced) else None
    if name in plan.base.homes:
        spec = plan.base.info(name).spec
        if whole is not None and tuple(whole.shape) != spec.shape:
            spec = replace(spec, shape=tuple(whole.shape))
    elif whole is not None:
        spec = TensorSpec(name, dtype_name(whole.dtype), tuple(whole.shape))
    if stored is not None and spec.dtype in PLAIN:
        spec = replace(spec, dtype=stored)
    return spec


def _notes(plan: Plan, stored: str | None) -> list[str]:
    notes = []
    if str(plan.shift) != str(Shift()):
        notes.append(f"BASE has the names of ADAPTER {plan.shift}")
    before = {plan.base.info(name).dtype for name in plan.base.names} & set(PLAIN)
    if stored is not None and before - {stored} and plan.base.config:
        notes.append("config.json is copied as it is: the dtype that it names is the base's")
    return notes


def _blocks(plan: Plan, spec: TensorSpec, result: Merged) -> Blocks:
    """The data of one tensor, as the writer takes them."""
    name, model = spec.name, plan.base
    update = plan.get(name)
    before = model.info(name) if name in model.homes else None
    if update is None and before is not None and before.spec == spec:
        result.copied += 1
        return model.blocks(name)
    for dtype in (spec.dtype, before.dtype if before else spec.dtype):
        if dtype not in PLAIN:
            need = "of a floating type of at least 16 bits to be merged"
            raise refusal(model.path, f"{shown(name)} must be {need}, got {dtype}")
    if update is None:
        result.converted += 1
    elif before is None:
        result.added.append(name)
    else:
        (result.replaced if isinstance(update, Replaced) else result.updated).append(name)
    if isinstance(update, Replaced) and update.rows is None:
        return _rounded(matrix(np.asarray(update.values)), None, spec, result)
    W = matrix(model.tensor(name), update.shape if isinstance(update, LowRank) else None)
    if update is not None:
        _refuse_nan(W, name, model.path)
    return _rounded(W, update, spec, result)


def _refuse_nan(W: np.ndarray, name: str, path: Path) -> None:
    for rows in row_blocks(W.shape):
        if not np.isfinite(W[rows[0] : rows[-1] + 1]).all():
            raise refusal(path, f"{shown(name)} must be finite to be merged, has NaN or inf")


def _rounded(
    W: np.ndarray, update: Update | None, spec: TensorSpec, result: Merged
) -> Iterator[np.ndarray]:
    """The tensor by entries of its first axis, each element rounded once."""
    dtype = DTYPES[spec.dtype].numpy
    grid, take, width = grid_of(np.dtype(dtype)), take_from(W), W.shape[1]
    entries = spec.shape[0] if spec.shape else 1
    each = len(W) // max(1, entries)  # rows of the matrix in one entry
    step = max(1, SPAN // max(1, each * width))
    for start in range(0, entries, step):
        first, last = start * each, min(start + step, entries) * each
        block = np.empty((last - first, width), dtype)
        # By rows: an entry of a tensor of experts is a whole matrix.
        for rows in row_blocks((last - first, width)):
            wanted = reference(update, take(rows + first, EVERY), rows + first)
            value = grid.round(wanted)
            result.overflowed += int((np.isinf(value) & np.isfinite(wanted)).sum())
            with np.errstate(over="ignore"):
                block[rows] = value.astype(dtype)
        yield block.reshape((-1, *spec.shape[1:]) if spec.shape else ())
