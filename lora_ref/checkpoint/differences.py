"""Where two checkpoints of one model differ, and which of it factors of a LoRA can hold.

    linear   modules whose weight is a matrix that changed
    other    everything else that changed: norms, biases, embeddings, kernels, stacks of experts

Math:    the change of a tensor is ‖W_tuned − W‖ / ‖W‖, infinity where W is zero
Errors:  CheckpointError, one line, if a tensor is in one of the models only or has another shape
         there, and for one that changed and is not of a floating type of 16 bits or more, or has
         NaN or infinity in it
Limits:  that a matrix is the weight of a linear layer is in no file: it is taken for one unless
         its module has the name of an embedding, which has the same shape and other factors, and
         is not among those that `linear` says are linear all the same.
         Tensors are compared by their bytes and then in blocks, so little is held of each
Source:  PEFT 0.21.2, tuners/lora/layer.py: the factors of Linear and those of Embedding
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .checkpoint import Checkpoint
from .config_fields import ends
from .errors import refusal, shown

FLOATS = ("F64", "F32", "F16", "BF16")
_BLOCK = 1 << 20
_EMBEDDINGS = ("wte", "wpe", "shared", "relative_attention_bias")


@dataclass(frozen=True)
class Differences:
    """Modules whose weight changed, how much each other tensor did, how many tensors are equal."""

    linear: tuple[str, ...]
    other: Mapping[str, float]
    equal: int


def differences(
    before: Checkpoint,
    after: Checkpoint,
    progress: Callable[[str], None] | None = None,
    *,
    linear: Sequence[str] = (),
) -> Differences:
    """Compare two checkpoints of the same tensors; `progress` is called with each name."""
    _refuse_names(before, after)
    matrices, other, equal = [], {}, 0
    for name in before.names:
        by = _checked_change(before, after, name)
        module = name.removesuffix(".weight")
        if by == 0:
            equal += 1
        elif module != name and is_linear(module, linear) and len(before.info(name).shape) == 2:
            matrices.append(module)
        else:
            other[name] = by
        if progress is not None:
            progress(name)
    return Differences(tuple(matrices), other, equal)


def is_linear(module: str, linear: Sequence[str] = ()) -> bool:
    """Whether a matrix is taken for a linear layer's: by its module's name, or as `linear` says."""
    return ends(module, linear) or not is_embedding(module)


def is_embedding(module: str) -> bool:
    """Whether the last part of a module's path is what embeddings are called.

    >>> [is_embedding(m) for m in ("model.embed_tokens", "h.0.wte", "embed_out", "q_proj")]
    [True, True, False, False]
    """
    name = module.rpartition(".")[2]
    return name in _EMBEDDINGS or ("embed" in name and name != "embed_out")


def short_targets(modules: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """What `target_modules` must say for these modules among those with weights in `names`.

    The last part of a path where it is a name, and that of no other module, else the whole path.

    >>> short_targets(["l.0.q", "l.1.q", "l.0.k"], [f"l.{i}.{x}.weight" for i in (0, 1) for x in "qk"])
    ('q', 'l.0.k')
    """  # noqa: E501
    wanted = set(modules)
    others = {name.rpartition(".")[0] for name in names} - wanted
    inside = others | {path.rpartition(".")[0] for path in wanted}
    taken = {part for path in inside for part in path.split(".")}
    # A number is also the name of modules without tensors, such as activations in a Sequential.
    last = {m: m.rpartition(".")[2] for m in modules}
    short = [m if n in taken or n.isdecimal() else n for m, n in last.items()]
    return tuple(dict.fromkeys(short))


def change(before: Checkpoint, after: Checkpoint, name: str) -> float:
    """‖W_tuned − W‖/‖W‖, 0 if nothing changed, infinity where there is nothing to compare."""
    if name not in before.homes or name not in after.homes:
        return float("inf")
    W, W_tuned = (np.asarray(model.blocks(name)) for model in (before, after))
    one, two = before.info(name), after.info(name)
    if one.shape != two.shape:
        return float("inf")
    if one.dtype == two.dtype and _same_bytes(W, W_tuned):
        return 0.0
    if W.shape != one.shape or W_tuned.shape != two.shape:  # packed: the bytes are no numbers
        return float("inf")
    apart = size = 0.0
    for a, b in zip(_blocks(W), _blocks(W_tuned), strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        d = b - a
        apart, size = apart + float(d @ d), size + float(a @ a)
    if apart == 0:
        return 0.0
    return (apart / size) ** 0.5 if size > 0 and np.isfinite(apart) else float("inf")


def _checked_change(before: Checkpoint, after: Checkpoint, name: str) -> float:
    one, two = before.info(name), after.info(name)
    if one.shape != two.shape:
        need = f"must have the shape {list(one.shape)} that it has in {before.path}"
        raise refusal(after.path, f"{shown(name)} {need}, got {list(two.shape)}")
    by = change(before, after, name)
    if by == 0:
        return by
    for model in (before, after):
        dtype = model.info(name).dtype
        if dtype not in FLOATS:
            need = f"must be of type {', '.join(FLOATS)} where the models differ"
            raise refusal(model.path, f"{shown(name)} {need}, got {dtype}")
        if not np.isfinite(by) and not is_finite(model.tensor(name)):
            raise refusal(model.path, f"{shown(name)} must be finite, has NaN or infinity")
    return by


def is_finite(stored: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity."""
    return all(bool(np.isfinite(block).all()) for block in _blocks(stored))


def _refuse_names(before: Checkpoint, after: Checkpoint) -> None:
    for one, two in ((before, after), (after, before)):
        missing = [name for name in one.names if name not in two.homes]
        if missing:
            need = f"must have the tensors of {one.path}"
            raise refusal(two.path, f"{need}, lacks {len(missing)}: {shown(missing)}")


def _same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    raw = (t.reshape(-1).view(np.uint8) for t in (a, b))
    return all(np.array_equal(x, y) for x, y in zip(*map(_blocks, raw), strict=True))


def _blocks(t: np.ndarray) -> Iterator[np.ndarray]:
    flat = t.reshape(-1)
    return (flat[i : i + _BLOCK] for i in range(0, flat.size, _BLOCK))
