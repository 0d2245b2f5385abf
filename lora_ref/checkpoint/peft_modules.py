"""The factors in an adapter's file: which tensors belong together, of what rank and scale.

    base_model.model.PATH.lora_A.weight (r, n)      .lora_B.weight (m, r)    .lora_B.bias (m,)
    base_model.model.PATH.lora_embedding_A (r, v)   .lora_embedding_B (d, r)
    base_model.model.PATH.lora_A.weight (r, n, *k)  .lora_B.weight (m, r/g, 1, ...)
    base_model.model.PATH.lora_A.weight (E·r, n)    .lora_B.weight (m, r·E)  for E experts

PATH has `base_layer` in it where PEFT put one wrapper around another: behind it for the parameters
of one module (the innermost is the first the module registered), within it for the projections of
nn.MultiheadAttention. The name of a targeted parameter is in no key: `targets` has what it may be.

Errors:  CheckpointError, one line, for a factor without its partner, a shape that is not that of
         the rank in the configuration, a type that is not F64, F32, F16 or BF16, NaN and infinity
Limits:  the layout of several experts, (E, m, n) or (E, n, m), and the orientation of a linear
         weight are the base model's to say, not the file's
Source:  PEFT 0.21.2, utils/save_and_load.py, get_peft_model_state_dict; tuners/lora/layer.py,
         classes Linear, Embedding, _ConvNd, MultiheadAttention, ParamWrapper
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .errors import refusal, shown
from .header import TensorSpec
from .patterns import is_plain
from .peft_config import LoraConfig
from .peft_keys import NESTED, Factor, without_nesting

_FLOATS = ("F64", "F32", "F16", "BF16")
_BLOCK = 1 << 22
_MAX_MATCHES = 100_000


class Kind(enum.Enum):
    """What the factors correct: it decides how A and B make the update."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONVOLUTION = "convolution"
    PARAMETER = "parameter"


@dataclass(frozen=True, eq=False)
class LoraModule:
    """The factors of one weight. A, B and beta are mapped when asked for, read-only, as stored.

    `path` is the module's name in the base model, `place` the same with every `base_layer`, which
    alone tells the parameters of one module apart. `targets` are the base tensors the factors may
    belong to: one, but for a Kind.PARAMETER of a module of which several are targeted.
    `fan_in_fan_out` is what the configuration says of linear layers, see `peft_convert`.
    """

    path: str
    place: str
    kind: Kind
    targets: tuple[str, ...]
    rank: int
    alpha: float
    scale: float
    names: tuple[str, str, str | None]
    stored: Mapping[str, np.ndarray] = field(repr=False)
    fan_in_fan_out: bool = False

    @property
    def name(self) -> str:
        """What tells it from the others: its path, or of a parameter its own name, if it is one's.

        A parameter that the file leaves open has its place.
        """
        if self.kind is not Kind.PARAMETER:
            return self.path
        return self.targets[0] if len(self.targets) == 1 else self.place

    @property
    def A(self) -> np.ndarray:  # noqa: N802
        return self.stored[self.names[0]]

    @property
    def B(self) -> np.ndarray:  # noqa: N802
        return self.stored[self.names[1]]

    @property
    def beta(self) -> np.ndarray | None:
        return None if self.names[2] is None else self.stored[self.names[2]]


def read_modules(
    config: LoraConfig,
    factors: Mapping[str, Factor],
    specs: Mapping[str, TensorSpec],
    stored: Mapping[str, np.ndarray],
    path: object,
) -> tuple[LoraModule, ...]:
    """Group the keys `factors` into modules, in the order of the file, and check each."""
    groups: dict[str, dict[str, str]] = {}
    for name, factor in factors.items():
        slot = f"embedding {factor.slot}" if factor.is_embedding else factor.slot
        groups.setdefault(factor.place, {})[slot] = name
    check_work((*config.rank_pattern, *config.alpha_pattern), len(groups), path)
    modules = []
    for place, slots in groups.items():
        names = _complete(place, slots, path)
        for name in filter(None, names):
            check_values(specs[name], stored, path)
        modules.append(_Reader(config, groups, specs, path).module(place, names, stored))
    return tuple(modules)


def check_work(patterns: Iterable[str], count: int, path: object) -> None:
    """Refuse patterns that would take years to look up for `count` modules."""
    expressions = sum(not is_plain(pattern) for pattern in patterns)
    if expressions * count > _MAX_MATCHES:
        need = f"at most {_MAX_MATCHES} matches of expressions in rank_pattern and alpha_pattern"
        raise refusal(path, f"must need {need}, got {expressions} for {count} modules")


def _complete(place, slots, path):
    embedding = "embedding A" in slots or "embedding B" in slots
    need = ("embedding A", "embedding B") if embedding else ("A", "B")
    missing = [f"lora_{slot.replace(' ', '_')}" for slot in need if slot not in slots]
    if missing:
        got = shown(sorted(slots.values()))
        raise _refused(path, place, f"must have {missing[0]} beside its partner, got {got}")
    if embedding and len(slots) > 2:
        got = shown(sorted(slots.values()))
        raise _refused(path, place, f"must be an embedding or another layer, got {got}")
    return slots[need[0]], slots[need[1]], slots.get("beta")


class _Reader:
    """The checks of one module against the configuration and the other modules of the file."""

    def __init__(self, config, groups, specs, path):
        self.config, self.groups, self.specs, self.path = config, groups, specs, path

    def module(self, place, names, stored):
        path = without_nesting(place)
        # Patterns speak of the module PEFT wrapped, before it put other wrappers into it.
        key = f"{place}.".partition(f".{NESTED}.")[0].removesuffix(".")
        kind, targets = self._kind(place, path, names[0]), (self._weight(place, path),)
        if kind is Kind.PARAMETER:
            targets = tuple(self._candidates(place, path, _parameters(self.config, path)))
            key = targets[0]
        elif place.endswith(f".{NESTED}"):
            raise self._error(place, "must be in target_parameters to have a nested wrapper")
        config = self.config
        rank, alpha, scale = config.rank(key), config.alpha(key), config.scale(key)
        self._check_shapes(place, kind, key, *(self.specs[name].shape for name in names[:2]))
        self._check_beta(place, kind, names)
        turned = kind is Kind.LINEAR and config.fan_in_fan_out
        return LoraModule(path, place, kind, targets, rank, alpha, scale, names, stored, turned)

    def _kind(self, place, path, name):
        axes = len(self.specs[name].shape)
        if axes < 2:
            raise self._error(place, f"must have lora_A of two axes or more, got {axes}")
        if self.groups[place].get("embedding A") == name:
            return Kind.EMBEDDING
        if axes > 2:
            return Kind.CONVOLUTION
        return Kind.PARAMETER if _parameters(self.config, path) else Kind.LINEAR

    def _weight(self, place, path):
        fused = f"{place}.{NESTED}.out_proj" in self.groups
        return ".".join(filter(None, [path, "in_proj_weight" if fused else "weight"]))

    def _candidates(self, place, path, parameters):
        # All parameters of a module have the same number of experts, so ranks that differ say
        # which factors are whose.
        ranks = {name: self.config.rank(name) for name in parameters}
        rows = {
            other: self.specs[slots["A"]].shape[:1]
            for other, slots in self.groups.items()
            if "A" in slots and without_nesting(other) == path
        }
        fitting = [
            name
            for name, rank in ranks.items()
            if self._is_shared(rows[place][0] / rank, ranks, rows)
        ]
        if not fitting or len(rows) > len(ranks):
            got = f"ranks {shown(ranks)} of the configuration and rows {shown(rows)}"
            raise self._error(place, f"must have lora_A of rank * experts rows, got {got}")
        if len({(ranks[name], self.config.alpha(name)) for name in fitting}) > 1:
            need = "one rank and alpha, or ranks that tell which parameter the factors belong to"
            raise self._error(place, f"must have {need}, got {shown(fitting)}")
        return fitting

    def _is_shared(self, experts, ranks, rows):
        wanted = {(rank * experts,) for rank in ranks.values()}
        return experts == int(experts) and wanted.issuperset(rows.values())

    def _check_shapes(self, place, kind, key, a, b):
        rank = self.config.rank(key)
        columns = b[1] if len(b) > 1 else 0
        if kind is Kind.PARAMETER:
            fits = len(b) == 2 and a[0] == columns
            need = f"A (E*{rank}, n) and B (m, {rank}*E)"
        elif kind is Kind.CONVOLUTION:
            fits = a[0] == rank and len(a) <= 5 and b[2:] == (1,) * (len(a) - 2)
            fits = fits and columns > 0 and rank % columns == 0
            need = f"A ({rank}, n, *kernel) and B (m, {rank} / groups, 1, ...)"
        else:
            fits = len(b) == 2 and a[0] == columns == rank
            need = f"A ({rank}, n) and B (m, {rank})"
        if not fits or 0 in (*a, *b):
            source = f"rank {rank} from {self.config.rank_source(key)} of the configuration"
            got = f"A {list(a)} and B {list(b)}"
            raise self._error(place, f"must have {need}, {source}, got {got}")

    def _check_beta(self, place, kind, names):
        if names[2] is None:
            return
        got, need = (list(self.specs[name].shape[:1]) for name in (names[2], names[1]))
        if kind in (Kind.PARAMETER, Kind.EMBEDDING):
            raise self._error(place, f"must have no lora_B.bias, being of kind {kind.value}")
        if self.specs[names[2]].shape != tuple(need):
            raise self._error(place, f"must have lora_B.bias of shape {need}, got {got}")

    def _error(self, place, problem):
        return _refused(self.path, place, problem)


def _refused(path, place, problem):
    return refusal(path, f"module {shown(place)} {problem}")


def _parameters(config, path):
    found = []
    for target in config.target_parameters:
        name = f"{path}.{target.rpartition('.')[2]}"
        if (name == target or name.endswith(f".{target}")) and name not in found:
            found.append(name)
    return found


def check_values(spec: TensorSpec, stored: Mapping[str, np.ndarray], path: object) -> None:
    """Refuse a tensor that is not of finite floating-point values."""
    if spec.dtype not in _FLOATS:
        need = f"be of type {', '.join(_FLOATS)} (anything below is a code that needs its scale)"
        raise refusal(path, f"tensor {shown(spec.name)} must {need}, got {spec.dtype}")
    flat = stored[spec.name].reshape(-1)
    if not all(np.isfinite(flat[i : i + _BLOCK]).all() for i in range(0, flat.size, _BLOCK)):
        raise refusal(path, f"tensor {shown(spec.name)} must be finite, has NaN or infinity")
