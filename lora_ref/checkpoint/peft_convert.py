"""Between PEFT's layout and the adapters of this library.

    LORA module            adapter            what PEFT stores
    linear                 LoRA               A (r, n), B (m, r)
    linear, lora_bias      BiasedLoRA         and β (m,)
    embedding              EmbeddingLoRA      A (r, v), B (d, r)
    convolution            ConvLoRA           A (r, n, *kernel), B (m, r/g, 1, ...), only B grouped
    parameter, E experts   ExpertLoRA         A (E·r, n) expert slowest, B (m, r·E) expert fastest

Around the adapter of a linear layer is `FanInFanOut` where the configuration says so, see
`inputs_first`. It says nothing of parameters: whose base stores them inputs first must wrap theirs.

Errors:  TypeError for an adapter that PEFT's LoRA has no layout for; ValueError where an adapter's
         scale or orientation is not the one its configuration gives, or a convolution comes
         without its geometry
Source:  PEFT 0.21.2, tuners/lora/layer.py
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..adapters.base import Adapter
from ..adapters.conv import ConvLoRA
from ..adapters.embedding import EmbeddingLoRA
from ..adapters.experts import ExpertLoRA, to_peft
from ..adapters.lora import LoRA
from ..adapters.lora_bias import BiasedLoRA
from ..layers.convolution import ungrouped
from .config_fields import ends, with_targets
from .inputs_first import check_turned, inside
from .peft import PeftAdapter, assembled
from .peft_config import LoraConfig
from .peft_directory import laid_out, read_only
from .peft_keys import NESTED, PREFIX
from .peft_modules import Kind
from .peft_replaced import TOKENS, key_of
from .peft_to_lora import to_lora

__all__ = ["from_lora", "to_lora"]


def from_lora(
    modules: Mapping[str, Adapter],
    config: LoraConfig | Mapping[str, Any],
    *,
    replaced: Mapping[str, np.ndarray] | None = None,
    tokens: Mapping[str, np.ndarray] | None = None,
) -> PeftAdapter:
    """Lay out `modules`, a path each with its adapter, as PEFT's LoRA with `config` saves it.

    `config` may be the fields of adapter_config.json alone; `target_modules`, if they have none,
    is then the paths that PEFT must wrap. A `LoraConfig` is written as it is.

    A path is the module's in the base model, with a `base_layer` only where PEFT puts one wrapper
    inside another (attn.base_layer.out_proj). The path of an `ExpertLoRA` ends in the name of its
    parameter, which `config.target_parameters` must name; of several on one module give those first
    that the module registers first. `replaced` has base tensors under their own names, `tokens`
    rows under the path of their embedding.

    Errors: CheckpointError if the whole is not what PEFT would save with `config`.
    """
    if not isinstance(config, LoraConfig):
        owners = [t.rpartition(".")[0] for t in LoraConfig.from_fields(config).target_parameters]
        config = LoraConfig.from_fields(with_targets(config, _wrapped(modules, owners)))
    stored: dict[str, np.ndarray] = {}
    places = _places(modules)
    for path, adapter in modules.items():
        stored.update(_factors(PREFIX + places[path], adapter))
    stored |= {key_of(name, modules): t for name, t in (replaced or {}).items()}
    for path, rows in (tokens or {}).items():
        stored[f"{PREFIX}{path}.token_adapter.{TOKENS}"] = rows
    made = assembled(config, laid_out(read_only(stored), "from_lora"))
    _check_same(made, modules, places)
    return made


def _wrapped(modules, owners):
    """The modules that PEFT wraps by name; of nn.MultiheadAttention that is the outer one alone.

    `owners` are modules whose parameters are targeted.
    """
    named = [path for path, adapter in modules.items() if not isinstance(adapter, ExpertLoRA)]
    outer = (f"{path}.".partition(f".{NESTED}.")[0].removesuffix(".") for path in named)
    return {path for path in outer if not ends(path, owners)}


def _places(modules):
    places: dict[str, str] = {}
    owners: dict[str, list[str]] = {}
    for path, adapter in modules.items():
        if isinstance(inside(adapter), ExpertLoRA):
            owner = path.rpartition(".")[0]
            owners.setdefault(owner, []).append(path)
        else:
            places[path] = path
    for owner, paths in owners.items():
        for depth, path in enumerate(reversed(paths)):
            places[path] = owner + f".{NESTED}" * depth
    return places


def _factors(place, adapter):
    adapter = inside(adapter)
    if isinstance(adapter, EmbeddingLoRA):
        return {f"{place}.lora_embedding_A": adapter.A, f"{place}.lora_embedding_B": adapter.B}
    beta = {}
    if isinstance(adapter, BiasedLoRA):
        beta, adapter = {f"{place}.lora_B.bias": adapter.beta}, adapter.lora
    if isinstance(adapter, ExpertLoRA):
        A, B = to_peft(adapter)
    elif isinstance(adapter, ConvLoRA):
        A, B = ungrouped(adapter.A, adapter.geometry.groups), adapter.B
    elif isinstance(adapter, LoRA):
        A, B = adapter.A, adapter.B
    else:
        raise TypeError(
            f"from_lora: the adapter at {place.removeprefix(PREFIX)} must be LoRA, BiasedLoRA, "
            f"EmbeddingLoRA, ConvLoRA or ExpertLoRA, which PEFT's LoRA can hold, "
            f"got {type(adapter).__name__}"
        )
    return {f"{place}.lora_A.weight": A, **beta, f"{place}.lora_B.weight": B}


def _check_same(made, modules, places):
    """Refuse a configuration under which the file would be read as other adapters."""
    read = {module.place: module for module in made.modules}
    for path, adapter in modules.items():
        module = read[places[path]]
        inner: Any = inside(adapter)
        given = (inner.lora if isinstance(inner, BiasedLoRA) else inner).scale
        if not math.isclose(given, module.scale, rel_tol=1e-12):
            raise ValueError(
                f"from_lora: the scale of {path} must be {module.scale}, as config gives "
                f"it from alpha and rank, got {given}"
            )
        if module.kind is not Kind.PARAMETER:
            check_turned("from_lora", path, adapter, module.fan_in_fan_out)
