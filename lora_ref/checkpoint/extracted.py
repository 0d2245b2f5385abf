"""A LoRA adapter from a fine-tuned model and the model it was tuned from.

Math:    s B A = (W_tuned − W)_r for the weight of each targeted module, the first r terms of its
         SVD; s = 1 unless alpha is given
Units:   differences in float64; factors stored in float32, float64 where the model is
Errors:  CheckpointError where no weight is targeted, a targeted weight is in one of the models
         only or has another shape there, is no matrix, is not of a floating type of 16 bits or
         more, or is not finite; ValueError for an alpha of zero
Limits:  what is targeted must be the weight of a linear layer: an embedding has the same shape in
         a file, but its factors have other names. Everything else that changed (norms, biases,
         embeddings) is not in the adapter unless `modules_to_save` has its module; `left` has how
         much each of them changed, so that nobody takes the adapter for the whole difference.
         Models stored in 16 bits differ by their rounding in every direction: a long flat tail of
         the spectrum is that, and no reason for a larger rank.
         A dense SVD for each weight: one or two minutes of a core for 4096 × 4096. Held at a time:
         one weight of each model and its decomposition, in float64, and the finished factors
Source:  `rank.truncation`; PEFT 0.21.2 targets a module by the end of its path, tuners_utils.py,
         check_target_module_exists
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..adapters.base import Adapter
from ..adapters.lora import LoRA
from ..rank.truncation import Truncation
from ..rank.truncation import extracted as nearest
from .checkpoint import Checkpoint
from .errors import refusal, shown
from .peft import PeftAdapter
from .peft_config import LoraConfig
from .peft_convert import from_lora

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, eq=False)
class Extracted:
    """The adapter; the spectrum of each targeted difference; how much each other tensor changed.

    `left` has ‖W_tuned − W‖/‖W‖ of the tensors that changed and are not in the adapter, infinity
    where there is nothing to compare.
    """

    adapter: PeftAdapter
    spectra: Mapping[str, np.ndarray]
    retained: Mapping[str, float]
    left: Mapping[str, float]


def extracted(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    rank: int,
    target_modules: Sequence[str],
    *,
    alpha: float | None = None,
    modules_to_save: Sequence[str] = (),
    fan_in_fan_out: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Extracted:
    """The adapter of this rank that is nearest to the difference of the two models.

    `fan_in_fan_out` says, as in PEFT, that the targeted weights are stored inputs first.
    `progress` is called with the name of each tensor that is done.
    """
    before, after = Checkpoint.open(base), Checkpoint.open(tuned)
    fields = {
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "target_modules": list(target_modules),
        "modules_to_save": list(modules_to_save) or None,
        "fan_in_fan_out": fan_in_fan_out,
    }
    config = LoraConfig.from_fields(fields)
    modules: dict[str, Adapter] = {}
    spectra, shares, whole, left = {}, {}, {}, {}
    for name in dict.fromkeys((*before.names, *after.names)):
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and _ends(module, target_modules):
            cut = _cut(before, after, name, config)
            modules[module] = _stored(cut.adapter, before.info(name).dtype)
            spectra[module], shares[module] = cut.spectrum, cut.retained
        elif name in after.homes and _ends(module, modules_to_save):
            whole[name] = np.array(after.tensor(name))
        elif change := _change(before, after, name):
            left[name] = change
        if progress is not None:
            progress(name)
    if not modules:
        need = f"must have a weight of {shown(list(target_modules))}"
        raise refusal(before.path, f"{need}, got {shown(list(before.names))}")
    return Extracted(from_lora(modules, config, replaced=whole), spectra, shares, left)


def _ends(module: str, targets: Sequence[str]) -> bool:
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _cut(before: Checkpoint, after: Checkpoint, name: str, config: LoraConfig) -> Truncation:
    W, W_tuned = (_matrix(model, name) for model in (before, after))
    if W.shape != W_tuned.shape:
        need = f"must have the shape {list(W.shape)} that it has in {before.path}"
        raise refusal(after.path, f"{shown(name)} {need}, got {list(W_tuned.shape)}")
    if config.fan_in_fan_out:
        W, W_tuned = W.T, W_tuned.T
    return nearest(W_tuned, W, config.r, config.scale(name.rpartition(".")[0]))


def _matrix(model: Checkpoint, name: str) -> np.ndarray:
    stored, info = model.tensor(name), model.info(name)
    if len(info.shape) != 2 or info.dtype not in _FLOATS:
        need = f"be a matrix of {', '.join(_FLOATS)} to be targeted"
        raise refusal(model.path, f"{shown(name)} must {need}, got {info.dtype} {list(info.shape)}")
    W = stored.astype(np.float64)
    if not np.isfinite(W).all():
        raise refusal(model.path, f"{shown(name)} must be finite, has NaN or infinity")
    return W


def _stored(adapter: LoRA, dtype: str) -> LoRA:
    kind = np.float64 if dtype == "F64" else np.float32
    return LoRA(adapter.A.astype(kind), adapter.B.astype(kind), adapter.scale)


def _change(before: Checkpoint, after: Checkpoint, name: str) -> float:
    """‖W_tuned − W‖/‖W‖, 0 if nothing changed."""
    if name not in before.homes or name not in after.homes:
        return float("inf")
    W, W_tuned = before.tensor(name), after.tensor(name)
    if W.shape != W_tuned.shape:
        return float("inf")
    start, end = (t.astype(np.float64).ravel() for t in (W, W_tuned))
    if np.array_equal(start, end, equal_nan=True):
        return 0.0
    apart, size = float(np.linalg.norm(end - start)), float(np.linalg.norm(start))
    return apart / size if size > 0 and np.isfinite(apart) else float("inf")
