"""A LoRA adapter from a fine-tuned model and the model it was tuned from.

Math:    s B A = (W_tuned − W)_r for the weight of each targeted module, the first r terms of its
         SVD; s = 1 unless alpha is given. r is `rank`, or with `energy` the least rank that keeps
         that share of ‖W_tuned − W‖², `rank` at the most; never more than the weight has
Units:   differences in float64; factors stored in float32, float64 where the model is, unless
         `dtype` says otherwise
Errors:  CheckpointError where no weight is targeted, a targeted weight is in one of the models
         only or has another shape there, is no matrix, is not of a floating type of 16 bits or
         more, or is not finite, and where factors leave the range of `dtype`; ValueError for an
         alpha of zero, and where neither rank nor energy is given
Limits:  a targeted matrix is written as an embedding, E' − E = s (B A)ᵀ, if its module has the
         name of one (`is_linear`), else as a linear layer. An output layer that is tied to an
         embedding has none of its factors in PEFT. What changed and is not targeted (norms,
         biases) is not in the adapter unless `modules_to_save` has its module; `left` has how much
         each of them changed, so that nobody takes the adapter for the whole difference.
         Models stored in 16 bits differ by their rounding in every direction: a long flat tail of
         the spectrum is that, and no reason for a larger rank.
         A dense SVD for each weight: one or two minutes of a core for 4096 × 4096. Held at a time:
         one weight of each model and its decomposition, in float64, and the finished factors
Source:  `rank.truncation`; PEFT 0.21.2 targets a module by the end of its path, tuners_utils.py,
         check_target_module_exists
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..adapters.embedding import EmbeddingLoRA
from ..adapters.lora import LoRA
from ..rank.measures import energy_rank, retained
from ..rank.truncation import extracted as nearest
from .checkpoint import Checkpoint
from .config_fields import ends
from .differences import FLOATS, change, is_linear
from .errors import refusal, shown
from .inputs_first import turned
from .peft import PeftAdapter
from .peft_config import LoraConfig
from .peft_convert import from_lora
from .rank_fields import rank_fields


@dataclass(frozen=True, eq=False)
class Extracted:
    """The adapter; the spectrum of each targeted difference; how much each other tensor changed.

    `retained` has the share of ‖W_tuned − W‖² that the rank keeps, `errors` the relative error of
    the factors as stored. `left` has ‖W_tuned − W‖/‖W‖ of the tensors that changed and are not in
    the adapter, infinity where there is nothing to compare.
    """

    adapter: PeftAdapter
    spectra: Mapping[str, np.ndarray]
    retained: Mapping[str, float]
    errors: Mapping[str, float]
    left: Mapping[str, float]


def extracted(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    rank: int | None,
    target_modules: Sequence[str],
    *,
    energy: float | None = None,
    dtype: DTypeLike | None = None,
    alpha: float | None = None,
    modules_to_save: Sequence[str] = (),
    fan_in_fan_out: bool = False,
    linear: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Extracted:
    """The adapter of this rank that is nearest to the difference of the two models.

    `fan_in_fan_out` says, as in PEFT, that the targeted weights are stored inputs first; `linear`
    names modules that are linear layers, though they are called as embeddings are.
    `progress` is called with the name of each tensor that is done.
    """
    before, after = Checkpoint.open(base), Checkpoint.open(tuned)
    cut = _Cut(before, after, fan_in_fan_out, linear, rank, energy, dtype, alpha)
    parts: dict[str, _Part] = {}
    whole, left = {}, {}
    for name in dict.fromkeys((*before.names, *after.names)):
        if has_factors(name, target_modules):
            parts[name.removesuffix(".weight")] = cut.part(name)
        elif name in after.homes and is_whole(name, modules_to_save):
            whole[name] = np.array(after.tensor(name))
        elif by := change(before, after, name):
            left[name] = by
        if progress is not None:
            progress(name)
    if not parts:
        need = f"must have a weight of {shown(list(target_modules))}"
        raise refusal(before.path, f"{need}, got {shown(list(before.names))}")
    fields = {
        "target_modules": list(target_modules),
        "modules_to_save": list(modules_to_save) or None,
        "fan_in_fan_out": fan_in_fan_out,
    }
    return _finished(parts, fields | rank_fields(_each(parts, "rank"), alpha), whole, left)


def has_factors(name: str, target_modules: Sequence[str]) -> bool:
    """Whether the tensor is a weight that the factors hold."""
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and ends(module, target_modules)


def is_whole(name: str, modules_to_save: Sequence[str]) -> bool:
    """Whether the tensor, if it has no factors, is stored whole."""
    return ends(name.rpartition(".")[0], modules_to_save)


@dataclass(frozen=True, eq=False)
class _Part:
    adapter: LoRA | EmbeddingLoRA
    spectrum: np.ndarray
    error: float

    @property
    def rank(self) -> int:
        return int(self.adapter.A.shape[0])

    @property
    def retained(self) -> float:
        return retained(self.spectrum, self.rank)


def _finished(
    parts: Mapping[str, _Part],
    fields: Mapping[str, Any],
    whole: Mapping[str, np.ndarray],
    left: Mapping[str, float],
) -> Extracted:
    config = LoraConfig.from_fields(fields)
    loras = {
        path: turned(part.adapter, config.fan_in_fan_out and isinstance(part.adapter, LoRA))
        for path, part in parts.items()
    }
    spectra, shares, errors = (_each(parts, name) for name in ("spectrum", "retained", "error"))
    return Extracted(from_lora(loras, config, replaced=whole), spectra, shares, errors, left)


def _each(parts: Mapping[str, _Part], name: str) -> dict[str, Any]:
    return {module: getattr(part, name) for module, part in parts.items()}


class _Cut:
    """The factors of one weight after another, by one rule for all."""

    def __init__(self, before, after, turned, linear, rank, energy, dtype, alpha):
        if rank is None and energy is None:
            raise ValueError("extracted: rank or energy must be given, got neither")
        if alpha == 0:
            need = "scale must not be zero, since the factors are √(σ/|s|)"
            raise ValueError(f"extracted: {need}: got an alpha of 0")
        self.before, self.after, self.turned, self.linear = before, after, turned, linear
        self.rank, self.energy, self.dtype, self.alpha = rank, energy, dtype, alpha

    def part(self, name: str) -> _Part:
        W, W_tuned = (_matrix(model, name) for model in (self.before, self.after))
        if W.shape != W_tuned.shape:
            need = f"must have the shape {list(W.shape)} that it has in {self.before.path}"
            raise refusal(self.after.path, f"{shown(name)} {need}, got {list(W_tuned.shape)}")
        kind = LoRA if is_linear(name.removesuffix(".weight"), self.linear) else EmbeddingLoRA
        if self.turned or kind is EmbeddingLoRA:
            W, W_tuned = W.T, W_tuned.T
        most = min(W.shape) if self.rank is None else min(self.rank, *W.shape)
        cut = nearest(W_tuned, W, most)
        S, A, B = cut.spectrum, cut.adapter.A, cut.adapter.B
        r = most if self.energy is None else max(1, min(most, energy_rank(S, self.energy)))
        scale = 1.0 if self.alpha is None else float(self.alpha) / r
        A, B = _stored(A[:r], B[:, :r], scale, self._dtype(name))
        size = float(np.linalg.norm(S))
        held = B.astype(np.float64) @ A.astype(np.float64)
        apart = float(np.linalg.norm(W_tuned - W - scale * held))
        return _Part(kind(A, B, scale), S, apart / size if size else 0.0)

    def _dtype(self, name: str) -> DTypeLike:
        if self.dtype is not None:
            return self.dtype
        return np.float64 if self.before.info(name).dtype == "F64" else np.float32


def _stored(
    A: np.ndarray, B: np.ndarray, scale: float, dtype: DTypeLike
) -> tuple[np.ndarray, np.ndarray]:
    """The factors of a scale of 1 at this scale, shared out alike, in the type of the file."""
    root = abs(scale) ** 0.5
    with np.errstate(over="ignore"):  # an infinity is refused with the name of its tensor
        return (A / root).astype(dtype), (B * math.copysign(1 / root, scale)).astype(dtype)


def _matrix(model: Checkpoint, name: str) -> np.ndarray:
    stored, info = model.tensor(name), model.info(name)
    if len(info.shape) != 2 or 0 in info.shape or info.dtype not in FLOATS:
        need = f"be a matrix of {', '.join(FLOATS)} to be targeted"
        raise refusal(model.path, f"{shown(name)} must {need}, got {info.dtype} {list(info.shape)}")
    W = stored.astype(np.float64)
    if not np.isfinite(W).all():
        raise refusal(model.path, f"{shown(name)} must be finite, has NaN or infinity")
    return W
