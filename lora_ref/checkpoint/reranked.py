"""An adapter's file at a lower rank: of each update the nearest of that rank.

Updates whose rank is not above it stay as they are, byte for byte, and so does everything that is
no factor. In the configuration r and the values of rank_pattern are cut to the new rank. α and its
pattern stay, so the scale is α/r of the new r, and the factors make up for it.

Math:    s' B' A' = (s B A)_r, the first r terms of the SVD; β' = (s/s') β for lora_bias
Units:   decomposed in float64, stored in the type that the factors had: `error` is that of what
         is stored, relative to ‖s B A‖
Errors:  CheckpointError for an adapter whose base its initialisation changed (PEFT would change
         it again, at the new rank), for a grouped convolution of a larger rank, and for updates
         that float64, or new factors that their own type, cannot hold
Limits:  each expert of a parameter is cut by itself. An α of zero has no update: its factors are
         those of B A. README and other companions are not part of an adapter's file
Source:  `rank.truncation`; PEFT 0.21.2 has no such function
"""

from dataclasses import dataclass, replace

import numpy as np

from ..adapters.experts import ExpertLoRA, to_peft
from ..adapters.lora import LoRA, scaling, stabilised_scaling
from ..rank.spectrum import distance
from ..rank.truncation import Truncation, truncated
from ..values import checked_count
from .dtypes import dtype_name
from .errors import refusal, shown
from .peft import PeftAdapter, assembled
from .peft_config import LoraConfig, refuse_changed_base
from .peft_directory import laid_out
from .peft_modules import Kind, LoraModule
from .spectra import decomposed, groups_of, matrices


@dataclass(frozen=True)
class Change:
    """What became of one module: its ranks, the share of ‖ΔW‖² kept, the error of what is stored.

    Of several experts both figures are of all together.
    """

    name: str
    before: int
    after: int
    retained: float
    error: float


@dataclass(frozen=True, eq=False)
class Reranked:
    """The adapter, and what was done to each module of a larger rank."""

    adapter: PeftAdapter
    changes: tuple[Change, ...]


def reranked(adapter: PeftAdapter, rank: int) -> Reranked:
    """The adapter with no rank above `rank`."""
    checked_count("reranked", "rank", rank, 1)
    config = adapter.config
    refuse_changed_base(config, adapter.path)
    stored: dict[str, np.ndarray] = {}
    changes = []
    for module in adapter.modules:
        if module.rank > rank:
            with decomposed(module, adapter.path):
                new, change = _cut(module, adapter, rank)
            stored.update(new)
            changes.append(change)
    pattern = {key: min(value, rank) for key, value in config.rank_pattern.items()}
    fields = {**config.raw, "r": min(config.r, rank)}
    if pattern:
        fields["rank_pattern"] = pattern
    arrays = {spec.name: adapter.stored[spec.name] for spec in adapter.specs} | stored
    tensors = laid_out(arrays, f"{adapter.path} at rank {rank}")
    made = assembled(LoraConfig.from_fields(fields, tensors.path), tensors)
    return Reranked(made, tuple(changes))


def _cut(
    module: LoraModule, adapter: PeftAdapter, rank: int
) -> tuple[dict[str, np.ndarray], Change]:
    """The new tensors of one module, by their keys."""
    if groups_of(module) > 1:
        problem = "is a grouped convolution, whose B has blocks: its rank cannot be cut"
        raise refusal(adapter.path, f"module {shown(module.path)} {problem}")
    rule = stabilised_scaling if adapter.config.use_rslora else scaling
    scale = rule(module.alpha, rank)
    # α = 0: there is no update, and the factors' own product is what can be kept.
    before = [p if module.scale else replace(p, scale=1.0) for p in matrices(module)]
    cut = [truncated(pair, rank, scale or 1.0) for pair in before]
    A, B = _laid_out(module, [part.adapter for part in cut])
    exact = {module.names[0]: A, module.names[1]: B}
    if module.names[2] is not None:
        beta = np.asarray(module.beta, dtype=np.float64)
        exact[module.names[2]] = beta * ((module.scale / scale) if scale else 1)
    tensors = {name: _as_stored(module, name, t, rank, adapter.path) for name, t in exact.items()}
    after = matrices(replace(module, rank=rank, scale=scale or 1.0, stored=tensors))
    return tensors, _change(module, rank, cut, before, after)


def _laid_out(module: LoraModule, parts: list[LoRA]) -> tuple[np.ndarray, np.ndarray]:
    """A and B in the layout of the module's own."""
    A, B = parts[0].A, parts[0].B
    if module.kind is Kind.PARAMETER:
        experts = np.stack([p.A for p in parts]), np.stack([p.B for p in parts])
        A, B = to_peft(ExpertLoRA(*experts, parts[0].scale))
    if module.kind is Kind.CONVOLUTION:
        A, B = A.reshape(-1, *module.A.shape[1:]), B.reshape(*B.shape, *module.B.shape[2:])
    return A, B


def _as_stored(
    module: LoraModule, name: str, exact: np.ndarray, rank: int, path: object
) -> np.ndarray:
    """The new tensor `name` of the module in the type of the old one, read-only."""
    with np.errstate(over="ignore"):
        values = exact.astype(module.stored[name].dtype)
    if not np.isfinite(values).all():
        problem = f"at rank {rank} leaves the range of {dtype_name(values.dtype)}"
        raise refusal(path, f"module {shown(module.name)} {problem}")
    values.setflags(write=False)
    return values


def _change(
    module: LoraModule,
    rank: int,
    cut: list[Truncation],
    before: list[LoRA],
    after: tuple[LoRA, ...],
) -> Change:
    top = max(part.spectrum[0] for part in cut)
    if top == 0:
        return Change(module.name, module.rank, rank, 1.0, 0.0)
    # In units of the largest singular value, whose square may be beyond float64.
    whole = float(np.linalg.norm(np.concatenate([part.spectrum / top for part in cut])))
    lost = float(np.linalg.norm([part.error / top for part in cut]))
    apart = [distance(a, b) / top for a, b in zip(before, after, strict=True)]
    error = float(np.linalg.norm(apart)) / whole
    return Change(module.name, module.rank, rank, 1.0 - (lost / whole) ** 2, error)
