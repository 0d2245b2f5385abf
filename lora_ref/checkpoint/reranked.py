"""An adapter's file at a lower rank: of each update the nearest of that rank.

Updates whose rank is not above it stay as they are, byte for byte, and so does everything that is
no factor. In the configuration r and the values of rank_pattern are cut to the new rank. α and its
pattern stay, so the scale is α/r of the new r, and the factors make up for it.

Math:    s' B' A' = (s B A)_r, the first r terms of the SVD; β' = (s/s') β for lora_bias
Units:   decomposed in float64, stored in the type that the factors had: `error` is that of what
         is stored, relative to ‖s B A‖
Errors:  CheckpointError for an adapter whose base its initialisation changed (PEFT would change
         it again, at the new rank), and for a grouped convolution of a larger rank
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
from .dtypes import dtype_name
from .errors import refusal, shown
from .header import TensorSpec, build_header, parse_header
from .peft import PeftAdapter, assembled
from .peft_config import CONFIG_NAME, LoraConfig
from .peft_modules import Kind, LoraModule
from .spectra import groups_of, matrices, name_of


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
    if rank < 1:
        raise ValueError(f"reranked: rank must be at least 1, got {rank}")
    config = adapter.config
    if config.base_is_changed:
        problem = f"must be converted to a plain LoRA before, got {shown(config.init_lora_weights)}"
        raise refusal(CONFIG_NAME, f"init_lora_weights {problem}, which changed the base")
    stored: dict[str, np.ndarray] = {}
    changes = []
    for module in adapter.modules:
        if module.rank > rank:
            tensors, change = _cut(module, config, rank)
            stored.update(tensors)
            changes.append(change)
    pattern = {key: min(value, rank) for key, value in config.rank_pattern.items()}
    fields = {**config.raw, "r": min(config.r, rank)}
    if pattern:
        fields["rank_pattern"] = pattern
    return Reranked(_with(adapter, LoraConfig.from_fields(fields), stored), tuple(changes))


def _cut(module: LoraModule, config: LoraConfig, rank: int) -> tuple[dict[str, np.ndarray], Change]:
    """The new tensors of one module, by their keys."""
    if groups_of(module) > 1:
        problem = "is a grouped convolution, whose B has blocks: its rank cannot be cut"
        raise refusal("reranked", f"module {shown(module.path)} {problem}")
    rule = stabilised_scaling if config.use_rslora else scaling
    scale = rule(module.alpha, rank)
    # α = 0: there is no update, and the factors' own product is what can be kept.
    before = [p if module.scale else replace(p, scale=1.0) for p in matrices(module)]
    cut = [truncated(pair, rank, scale or 1.0) for pair in before]
    A, B = _laid_out(module, [part.adapter for part in cut])
    tensors = {module.names[0]: A, module.names[1]: B}
    if module.names[2] is not None:
        beta = np.asarray(module.beta, dtype=np.float64) * ((module.scale / scale) if scale else 1)
        tensors[module.names[2]] = beta.astype(module.stored[module.names[2]].dtype)
    after = matrices(replace(module, rank=rank, scale=scale or 1.0, stored=tensors))
    return tensors, _change(module, rank, cut, before, after)


def _laid_out(module: LoraModule, parts: list[LoRA]) -> tuple[np.ndarray, np.ndarray]:
    """A and B in the layout and the type of the module's own."""
    A, B = parts[0].A, parts[0].B
    if module.kind is Kind.PARAMETER:
        experts = np.stack([p.A for p in parts]), np.stack([p.B for p in parts])
        A, B = to_peft(ExpertLoRA(*experts, parts[0].scale))
    if module.kind is Kind.CONVOLUTION:
        A, B = A.reshape(-1, *module.A.shape[1:]), B.reshape(*B.shape, *module.B.shape[2:])
    return A.astype(module.A.dtype), B.astype(module.B.dtype)


def _change(
    module: LoraModule,
    rank: int,
    cut: list[Truncation],
    before: list[LoRA],
    after: tuple[LoRA, ...],
) -> Change:
    whole = float(np.linalg.norm(np.concatenate([part.spectrum for part in cut])))
    lost = float(np.linalg.norm([part.error for part in cut]))
    apart = [distance(a, b) for a, b in zip(before, after, strict=True)]
    if whole == 0:
        return Change(name_of(module), module.rank, rank, 1.0, 0.0)
    error = float(np.linalg.norm(apart)) / whole
    return Change(name_of(module), module.rank, rank, 1.0 - (lost / whole) ** 2, error)


def _with(adapter: PeftAdapter, config: LoraConfig, changed: dict[str, np.ndarray]) -> PeftAdapter:
    """The adapter with this configuration and these tensors in the place of its own."""
    arrays = {spec.name: adapter.stored[spec.name] for spec in adapter.specs} | changed
    for values in changed.values():
        values.setflags(write=False)
    announced = [TensorSpec(name, dtype_name(t.dtype), t.shape) for name, t in arrays.items()]
    header = build_header(announced, {"format": "pt"})
    _, infos = parse_header(header, sum(spec.nbytes for spec in announced), "reranked")
    return assembled(config, arrays, tuple(i.spec for i in infos.values()), header, "reranked")
