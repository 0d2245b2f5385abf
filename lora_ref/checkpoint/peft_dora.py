"""DoRA in PEFT's layout: the file of a LoRA, a magnitude for each module, and use_dora.

    base_model.model.PATH.lora_A.weight, .lora_B.weight           as LoRA's, kernels too
    base_model.model.PATH.lora_embedding_A, .lora_embedding_B
    base_model.model.PATH.lora_magnitude_vector                   m, none with a .weight
        of a linear layer (m,), of an embedding (d,), of a convolution (1, m, 1, ...)

`PeftAdapter` refuses such a file, whose map is not W + s B A; `open_dora` reads it.

Errors:  CheckpointError, one line, for everything that is wrong with a directory; TypeError and
         ValueError where `from_dora` is given what has no place in the layout
Limits:  PEFT trains with the norm held constant, so what is read has detach_norm=True; the file
         does not say. A grouped convolution is refused, see `ConvDoRA`: its magnitudes are
         lengths of a scrambled kernel. Targeted parameters, nn.MultiheadAttention and
         lora_bias have no DoRA in PEFT.
Source:  PEFT 0.21.2, tuners/lora/model.py, LoraModel._get_adapter_state_dict and
         _remap_adapter_state_dict_for_load; tuners/lora/dora.py for the shapes
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..adapters.base import Adapter
from ..adapters.conv import ConvLoRA
from ..adapters.dora import DoRA
from ..adapters.dora_conv import ConvDoRA
from ..adapters.dora_embedding import EmbeddingDoRA
from ..adapters.embedding import EmbeddingLoRA
from ..adapters.fan_in_fan_out import FanInFanOut
from ..adapters.lora import LoRA
from ..layers.convolution import Geometry
from .config_fields import CONFIG_NAME, text_of, with_targets
from .errors import refusal, shown
from .header import TensorSpec
from .inputs_first import turned
from .peft import PeftAdapter, assembled, refuse_residual
from .peft_config import LoraConfig
from .peft_convert import from_lora, to_lora
from .peft_directory import Tensors, laid_out, read_fields, read_only, read_tensors
from .peft_keys import PREFIX
from .peft_modules import Kind, LoraModule, check_values

_MAGNITUDE = re.compile(
    rf"{re.escape(PREFIX)}(?P<place>.+)\.lora_magnitude_vector(\.[^.]+(\.weight)?)?", re.DOTALL
)


@dataclass(frozen=True)
class DoraConfig:
    """The settings of the LoRA inside, and the bytes of the whole file, which say use_dora."""

    lora: LoraConfig
    text: bytes = field(repr=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any], text: bytes, path: object = CONFIG_NAME) -> "DoraConfig":
        """Check the fields as LoRA's, apart from use_dora; `path` is for messages."""
        if fields.get("lora_bias"):
            raise refusal(path, "lora_bias must be unset beside use_dora, got true")
        return cls(LoraConfig.from_fields({**fields, "use_dora": False}, path), text)


@dataclass(frozen=True, eq=False)
class PeftDoRA:
    """One DoRA adapter: `factors` is the LoRA inside, `magnitudes` has m (m,) by a module's place.

    `stored` maps every key of the file to its values, read-only and in their stored type.
    """

    config: DoraConfig
    factors: PeftAdapter
    magnitudes: Mapping[str, np.ndarray]
    stored: Mapping[str, np.ndarray] = field(repr=False)
    specs: tuple[TensorSpec, ...] = field(repr=False)
    header: bytes | None = field(repr=False)

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapter of each module by its path, as `PeftAdapter.adapters`."""
        return self.adapters_with()

    def adapters_with(
        self, geometries: Mapping[str, Geometry] | None = None, *, on_residual: bool = False
    ) -> dict[str, Adapter]:
        """The adapter of each module, as `PeftAdapter.adapters_with`."""
        if not on_residual:
            refuse_residual(self.config.lora, self.factors.path)
        given = geometries or {}
        modules = self.factors.modules
        return {m.name: self.adapter(m, given.get(m.path)) for m in modules}

    def adapter(self, module: LoraModule, geometry: Geometry | None = None) -> Adapter:
        """The adapter of one of `factors.modules`, as `to_lora` gives that of a LoRA."""
        m, lora = self.magnitudes[module.place], to_lora(module, geometry)
        if isinstance(lora, EmbeddingLoRA):
            return EmbeddingDoRA(lora, m, detach_norm=True)
        if isinstance(lora, ConvLoRA):
            return ConvDoRA(lora, m, detach_norm=True)
        dora = DoRA(module.A, module.B, m, module.scale, detach_norm=True)
        return turned(dora, module.fan_in_fan_out)


def open_dora(directory: str | os.PathLike[str]) -> PeftDoRA:
    """Read the DoRA adapter in `directory`."""
    path, text, fields = read_fields(directory)
    if fields.get("use_dora") is not True:
        raise refusal(path, f"use_dora must be true, got {shown(fields.get('use_dora'))}")
    return _assembled(DoraConfig.of(fields, text, path), read_tensors(directory))


def from_dora(
    modules: Mapping[str, Adapter],
    fields: Mapping[str, Any],
    *,
    replaced: Mapping[str, np.ndarray] | None = None,
    tokens: Mapping[str, np.ndarray] | None = None,
) -> PeftDoRA:
    """Lay out `modules`, a path each with its DoRA, as PEFT saves them; see `from_lora`.

    Their `detach_norm` must be True, which is how PEFT trains: a file has no place for it.
    """
    fields = {"peft_type": "LORA", **with_targets(fields, modules), "use_dora": True}
    config = DoraConfig.of(fields, text_of(fields))
    parts = {path: _taken_apart(path, adapter) for path, adapter in modules.items()}
    loras = {path: lora for path, (lora, _) in parts.items()}
    made = from_lora(loras, config.lora, replaced=replaced, tokens=tokens)
    m = {f"{PREFIX}{path}.lora_magnitude_vector": m for path, (_, m) in parts.items()}
    return _assembled(config, laid_out({**made.stored, **read_only(m)}, "from_dora"))


def _assembled(config, tensors):
    stored, specs, path = tensors.stored, tensors.specs, tensors.path
    keys = {spec.name: _MAGNITUDE.fullmatch(spec.name) for spec in specs}
    factors = tuple(spec for spec in specs if keys[spec.name] is None)
    rest = {spec.name: stored[spec.name] for spec in factors}
    lora = assembled(config.lora, Tensors(rest, factors, None, path))
    names: dict[str, str] = {}
    for name, found in keys.items():
        if found is not None and (other := names.setdefault(found["place"], name)) != name:
            need = f"one lora_magnitude_vector for {shown(found['place'])}"
            raise refusal(path, f"must hold {need}, got {shown([other, name])}")
    places = [module.place for module in lora.modules]
    if sorted(names) != sorted(places):
        need = f"lora_magnitude_vector for the modules {shown(sorted(places))}"
        raise refusal(path, f"must hold {need}, got {shown(sorted(names))}")
    by_name = {spec.name: spec for spec in specs}
    magnitudes = {}
    for module in lora.modules:
        name = names[module.place]
        check_values(by_name[name], stored, path)
        _check_shape(module, name, by_name[name].shape, path)
        magnitudes[module.place] = stored[name].reshape(-1)
    return PeftDoRA(config, lora, magnitudes, stored, specs, tensors.header)


def _check_shape(module, name, shape, path):
    ones = (1,) * (module.A.ndim - 2)
    outputs = module.B.shape[0]
    if module.kind is Kind.PARAMETER:
        raise refusal(path, f"{shown(module.path)} must be no targeted parameter with use_dora")
    if ones and module.B.shape[1] != module.rank:
        need = "must be of one group with use_dora: PEFT's norm of a grouped kernel is not its norm"
        raise refusal(path, f"{shown(module.path)} {need}")
    wanted = (1, outputs, *ones) if ones else (outputs,)
    if tuple(shape) != wanted:
        raise refusal(path, f"{shown(name)} must be {list(wanted)}, got {list(shape)}")


def _taken_apart(path, adapter):
    """The LoRA inside, and the magnitudes in the shape of PEFT's file."""
    if isinstance(adapter, FanInFanOut):
        lora, m = _taken_apart(path, adapter.inner)
        return FanInFanOut(lora), m
    if isinstance(adapter, DoRA | EmbeddingDoRA | ConvDoRA) and not adapter.detach_norm:
        raise ValueError(
            f"from_dora: detach_norm of the adapter at {path} must be True, as PEFT trains and "
            "open_dora reads: replace(adapter, detach_norm=True) has the same weights, got False"
        )
    if isinstance(adapter, DoRA):
        return LoRA(adapter.A, adapter.B, adapter.scale), adapter.m
    if isinstance(adapter, EmbeddingDoRA):
        return adapter.lora, adapter.m
    if not isinstance(adapter, ConvDoRA):
        raise TypeError(
            f"from_dora: the adapter at {path} must be DoRA, ConvDoRA or EmbeddingDoRA, which "
            f"PEFT's DoRA can hold, got {type(adapter).__name__}"
        )
    if adapter.lora.geometry.groups > 1:
        raise ValueError(
            f"from_dora: the convolution at {path} must be of one group, whose norm PEFT computes, "
            f"got {adapter.lora.geometry.groups}"
        )
    ones = (1,) * (adapter.lora.A.ndim - 2)
    return adapter.lora, np.reshape(adapter.m, (1, -1, *ones))
