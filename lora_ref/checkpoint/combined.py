"""Several adapters as one directory: of each module what a rule of `combination` makes of it.

The scale of every part is folded in, whatever its α, patterns and rsLoRA are, and every scale of
the result is 1. A module that some adapters do not have is made of those that have it, as if the
update of the others were zero.

Math:    B' A' = rule({s_i B_i A_i}, w)
Units:   combined in float64; stored in the type that all factors have, else in float64 if any has
         it and in float32 if none does. `error` is that of what is stored
Errors:  CheckpointError, one line, for an adapter of another method, for one whose base its
         initialisation changed, for biases of lora_bias, token rows, experts of a parameter,
         grouped convolutions and copies of base tensors that are not the same in all, and for
         adapters that do not fit each other
Limits:  a convolution is combined as a matrix (m, n·kernel), an embedding as its transpose. Names
         of base models are not compared
Source:  PEFT 0.21.2, tuners/lora/model.py, add_weighted_adapter: the modules that it combines, its
         default rank, and r = α. It keeps use_rslora, which makes the result too large by √r, and
         the first adapter's init_lora_weights, bias and patterns of layers; this does not
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..adapters.base import Adapter
from ..adapters.conv import ConvLoRA
from ..adapters.embedding import EmbeddingLoRA
from ..adapters.lora import LoRA
from ..compose.factors import weighted_cat
from ..layers.convolution import Geometry
from ..rank.spectrum import distance, spectrum
from ..shapes import ShapeError
from .combination import Joined, Rule
from .combining_inputs import open_alike, replaced_by_all, target_fields
from .errors import refusal, shown
from .inputs_first import turned
from .peft import PeftAdapter
from .peft_config import LoraConfig
from .peft_convert import from_lora
from .peft_modules import Kind, LoraModule
from .rank_fields import rank_fields
from .spectra import matrices


@dataclass(frozen=True)
class Module:
    """One module: ranks of the parts (0 where there is none), and what the combination is.

    `retained` is the share of ‖·‖² that truncation keeps, `error` how far the stored update is
    from the untruncated one, `off` how far from Σ w_i s_i B_i A_i; both relative, infinity where
    there is nothing to be relative to.
    """

    name: str
    shape: tuple[int, int]
    ranks: tuple[int, ...]
    rank: int
    retained: float
    error: float
    off: float


@dataclass(frozen=True, eq=False)
class Combined:
    """The adapter, and what became of each module."""

    adapter: PeftAdapter
    modules: tuple[Module, ...]


def combined(
    directories: Sequence[str | os.PathLike[str]],
    weights: Sequence[float],
    rule: Rule,
    rank: int | None = None,
    *,
    dtype: DTypeLike | None = None,
    progress: Callable[[str], None] | None = None,
) -> Combined:
    """Combine the adapters in these directories; `rank` is what a rule truncates to, if it does.

    Without a rank it is PEFT's: the largest in any of the configurations.
    """
    if not directories or len(weights) != len(directories):
        got = f"{len(weights)} for {len(directories)}"
        raise ValueError(f"combined: weights must be one for each directory, got {got}")
    adapters = open_alike(directories)
    most = max(max((a.config.r, *a.config.rank_pattern.values())) for a in adapters)
    kind = _common_dtype(adapters) if dtype is None else dtype
    replaced = replaced_by_all(directories, adapters)
    parts: dict[str, Adapter] = {}
    modules = []
    for place, present in _places(adapters).items():
        made, stored = _module(place, present, weights, rule, rank or most, kind)
        like = next(module for module in present if module is not None)
        parts[place] = _laid_out(like, stored, adapters[0].config.fan_in_fan_out)
        modules.append(made)
        if progress is not None:
            progress(place)
    ranks = {_owner(place): module.rank for place, module in zip(parts, modules, strict=True)}
    fields = {**target_fields(adapters, tuple(ranks)), **rank_fields(ranks)}
    made_of = from_lora(parts, LoraConfig.from_fields(fields), replaced=replaced)
    return Combined(made_of, tuple(modules))


def _places(adapters: Sequence[PeftAdapter]) -> dict[str, list[LoraModule | None]]:
    """The module of each adapter, or None, by its place: those of the first adapter first."""
    by_place = [{module.place: module for module in adapter.modules} for adapter in adapters]
    places = dict.fromkeys(place for modules in by_place for place in modules)
    return {place: [modules.get(place) for modules in by_place] for place in places}


def _module(
    place: str,
    present: Sequence[LoraModule | None],
    weights: Sequence[float],
    rule: Rule,
    rank: int,
    dtype: DTypeLike,
) -> tuple[Module, LoRA]:
    found = [(m, w) for m, w in zip(present, weights, strict=True) if m is not None]
    own = [w for _, w in found]
    _check_alike(place, [m for m, _ in found])
    loras = [matrices(module)[0] for module, _ in found]
    shape = loras[0].B.shape[0], loras[0].A.shape[1]
    try:
        joined = rule(loras, own, min(rank, *shape))
    except ShapeError:
        got = [module.rank for module, _ in found]
        need = "must have one rank in all adapters for a method that adds factors"
        raise refusal("combined", f"module {shown(place)} {need}, got {got}") from None
    with np.errstate(over="ignore"):  # an infinity is refused with the name of its tensor
        A, B = (np.asarray(t).astype(dtype) for t in (joined.lora.A, joined.lora.B))
    stored = replace(joined.lora, A=A, B=B)
    error, off = _errors(joined, stored, weighted_cat(loras, own))
    ranks = tuple(0 if m is None else m.rank for m in present)
    return Module(place, shape, ranks, len(A), joined.retained, error, off), stored


def _errors(joined: Joined, stored: LoRA, whole: LoRA) -> tuple[float, float]:
    """Of what is stored: from what was to be made, and from the weighted sum."""
    A, B = (t.astype(np.float64) for t in (stored.A, stored.B))
    if not (np.isfinite(A).all() and np.isfinite(B).all()):
        return float("inf"), float("inf")
    exact = LoRA(A, B, stored.scale)
    # What truncation drops is orthogonal to what it keeps, rounded or not, to second order.
    size = np.hypot(np.linalg.norm(spectrum(joined.lora)), joined.lost)
    error = np.hypot(distance(joined.lora, exact), joined.lost)
    return _ratio(error, size), _ratio(distance(whole, exact), np.linalg.norm(spectrum(whole)))


def _ratio(error: Any, size: Any) -> float:
    return float(error / size) if size > 0 else 0.0 if error == 0 else float("inf")


def _check_alike(place: str, modules: Sequence[LoraModule]) -> None:
    first = modules[0]
    for module in modules[1:]:
        sizes = [(m.kind.value, *m.B.shape[:1], *m.A.shape[1:]) for m in (first, module)]
        if sizes[0] != sizes[1]:
            need = f"must be of one kind and size in all adapters, {sizes[0]} in the first"
            raise refusal("combined", f"module {shown(place)} {need}, got {sizes[1]}")


def _laid_out(module: LoraModule, lora: LoRA, fan_in_fan_out: bool) -> Adapter:
    """The factors in the layout of the module."""
    if module.kind is Kind.EMBEDDING:
        return EmbeddingLoRA(lora.A, lora.B, lora.scale)
    if module.kind is Kind.CONVOLUTION:
        kernel = module.A.shape[1:]
        A, B = lora.A.reshape(-1, *kernel), lora.B.reshape(*lora.B.shape, *[1] * (len(kernel) - 1))
        return ConvLoRA(A, B, lora.scale, Geometry.uniform(len(kernel) - 1))
    return turned(lora, fan_in_fan_out)


def _owner(place: str) -> str:
    """The module that PEFT wrapped, which patterns speak of."""
    return f"{place}.".partition(".base_layer.")[0].removesuffix(".")


def _common_dtype(adapters: Sequence[PeftAdapter]) -> DTypeLike:
    found = {t.dtype for a in adapters for m in a.modules for t in (m.A, m.B)}
    if len(found) == 1:
        return found.pop()
    return np.float64 if np.dtype(np.float64) in found else np.float32
