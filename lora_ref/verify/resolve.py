"""From an adapter's modules to the base tensors that they update, each in the form of `updates`.

Errors:
    CheckpointError, one line, if a module's tensor is not in the base (an adapter for another
    model), or its factors do not fit the tensor's shape.
Limits:
    A square weight does not show whether it is stored (out, in) or (in, out); the weights of the
    same adapter that are not square do, and the configuration's fan_in_fan_out says it where
    there are none. The same holds for experts, where (E, out, in) is taken if nothing tells.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.errors import refusal, shown
from ..checkpoint.peft import PeftAdapter
from ..checkpoint.peft_config import refuse_changed_base
from ..checkpoint.peft_modules import Kind, LoraModule
from .layouts import Turns, parts_of
from .names import Shift, find_shift
from .updates import Conventions, LowRank, Part, Replaced, Update

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "shared", "tok_embeddings", "embed_in")
COMPANIONS = ("_scale_inv", "_scale", ".absmax", ".quant_map", "_zero_point", ".SCB")
OUTPUTS = ("lm_head.weight", "output.weight", "embed_out.weight")


@dataclass(frozen=True)
class Plan(Mapping[str, Update]):
    """Base tensor -> its update, made when asked for: factors are held for one tensor at a time.

    `added` are tensors that the adapter brings and the base has not; `tied` maps an output weight
    that the base does not store to the embedding it shares.
    """

    base: Checkpoint
    adapter: PeftAdapter
    shift: Shift
    modules: dict[str, LoraModule]
    biases: dict[str, LoraModule]
    replaced: dict[str, str]
    tokens: dict[str, int]
    tied: dict[str, str] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys((*self.modules, *self.biases, *self.replaced, *self.tokens))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> Update:
        if name in self.modules:
            return self.low_rank(name, self.modules[name])
        if name in self.biases:
            return self._bias(name, self.biases[name])
        if name in self.replaced:
            values = np.asarray(self.adapter.replaced[self.replaced[name]])
            return Replaced(name, self.replaced[name], values)
        token = self.adapter.tokens[self.tokens[name]]
        return Replaced(name, token.target, np.asarray(token.rows), np.asarray(token.indices))

    @property
    def added(self) -> list[str]:
        return [name for name in self.replaced if name not in self.base.homes]

    def stored_at(self, name: str) -> str | None:
        """The base tensor behind a name: itself, or the embedding it is tied to; None if neither.

        PEFT saves the whole embedding beside its factors; that copy then stands for the base's.
        """
        found = self.tied.get(name, name)
        return found if found in self.base.homes and name not in self.copied else None

    @property
    def copied(self) -> set[str]:
        """Names whose starting point is a copy in the adapter's file."""
        own = self.modules.keys() | {n for n in self.replaced if n not in self.base.homes}
        return own & self.replaced.keys()

    def start(self, name: str) -> np.ndarray:
        """What the merge of `name` starts from, as stored."""
        stored = self.stored_at(name)
        if stored is not None:
            return self.base.tensor(stored)
        return np.asarray(self.adapter.replaced[self.replaced[name]])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the merged tensor `name`."""
        if name in self.replaced:
            return tuple(self.adapter.replaced[self.replaced[name]].shape)
        return tuple(self.base.info(self.stored_at(name) or name).shape)

    def _conventions(self, module: LoraModule) -> Conventions:
        c = self.adapter.config
        return Conventions(module.alpha, module.rank, c.use_rslora, c.lora_alpha, c.r)

    def low_rank(self, name: str, module: LoraModule) -> LowRank:
        """The update of one module's weight."""
        shape = self.shape(name)
        matrix, parts, left, right = parts_of(module, shape, self.turns)
        if matrix is None:
            wanted = f"{list(module.A.shape)} and {list(module.B.shape)}"
            raise refusal(self.base.path, f"{shown(name)} must fit A and B of {wanted}, which the "
                          f"adapter has for {module.path}, got {list(shape)}")  # fmt: skip
        conventions = self._conventions(module)
        return LowRank(name, module.path, matrix, parts, module.scale, conventions, left, right)

    def _bias(self, name: str, module: LoraModule) -> LowRank:
        beta = np.asarray(module.beta, dtype=np.float64)
        size = self.base.info(name).shape
        if size != beta.shape:
            need = f"{list(beta.shape)} from lora_B.bias of {module.path}"
            raise refusal(self.base.path, f"{shown(name)} must be {need}, got {list(size)}")
        part = Part(0, beta[:, None], np.ones((1, 1)))
        conventions = self._conventions(module)
        return LowRank(name, module.path, (len(beta), 1), (part,), module.scale, conventions, "β")


@dataclass(frozen=True)
class Updates(Mapping[str, LowRank]):
    """The low-rank updates of a plan; each is made when asked for and not kept."""

    plan: Plan

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan.modules)

    def __len__(self) -> int:
        return len(self.plan.modules)

    def __getitem__(self, name: str) -> LowRank:
        return self.plan.low_rank(name, self.plan.modules[name])


def resolve(adapter: PeftAdapter, base: Checkpoint) -> Plan:
    """Find the base tensor of everything that the adapter changes."""
    refuse_changed_base(adapter.config, adapter.path)
    wanted = [module.targets[0] for module in adapter.modules] or list(adapter.replaced)
    tied_name = _tied_embedding(base)
    shift = find_shift(wanted, base.names)
    modules: dict[str, LoraModule] = {}
    biases: dict[str, LoraModule] = {}
    tied: dict[str, str] = {}
    for module in adapter.modules:
        name = _target(module, shift, base, modules, adapter, tied_name)
        modules[name] = module
        if name not in base.homes and tied_name is not None:
            tied[name] = tied_name
        if module.beta is not None:
            biases[_bias_of(name, base, module)] = module
    replaced = {shift(name): name for name in adapter.replaced}
    tokens = {_known(shift(t.target), base, t.target): i for i, t in enumerate(adapter.tokens)}
    plan = Plan(base, adapter, shift, modules, biases, replaced, tokens, tied)
    plan = _oriented(plan)
    for name in plan.modules:
        _refuse_quantized(name, base)
        plan[name]
    return plan


def _refuse_quantized(name: str, base: Checkpoint) -> None:
    """A weight with a scale or a code book beside it holds codes, not values."""
    beside = [f"{name}{end}" for end in COMPANIONS if f"{name}{end}" in base.homes]
    if beside:
        need = f"{shown(name)} must hold values to be merged, and {shown(beside[0])} says codes"
        raise refusal(base.path, f"{need}: a quantized base is not judged by this version")


def _target(
    module: LoraModule,
    shift: Shift,
    base: Checkpoint,
    taken: Mapping[str, LoraModule],
    adapter: PeftAdapter,
    tied: str | None,
) -> str:
    names = [shift(name) for name in module.targets]
    known = [name for name in names if name in base.homes and name not in taken]
    if known:
        fitting = [n for n in known if _may_fit(module, base.info(n).shape)]
        return (fitting or known)[0]
    if tied is not None and names[0].endswith(OUTPUTS):
        return names[0]
    if names[0] in taken:
        raise refusal(base.path, f"two modules of the adapter update {shown(names[0])}")
    has = ", ".join(list(base.names)[:3])
    what = f"the adapter updates {shown(names[0])} (module {shown(module.path)})"
    raise refusal(
        base.path, f"is not the adapter's model: {what}, which is not among its tensors ({has}, …)"
    )


def _may_fit(module: LoraModule, shape: tuple[int, ...]) -> bool:
    """Whether the factors' outer sizes are among the tensor's."""
    n, m = module.A.shape[1], module.B.shape[0]
    return set(shape) >= {n, m}


def _known(name: str, base: Checkpoint, said: str) -> str:
    if name not in base.homes:
        raise refusal(base.path, f"has no tensor {shown(name)}, rows of which the adapter replaces")
    return name


def _bias_of(name: str, base: Checkpoint, module: LoraModule) -> str:
    bias = name.removesuffix("weight") + "bias"
    if bias not in base.homes:
        raise refusal(base.path, f"must have {shown(bias)} for lora_B.bias of {module.path}")
    return bias


def _tied_embedding(base: Checkpoint) -> str | None:
    """The input embedding, if the output weight is not stored because it is the same."""
    if base.config.get("tie_word_embeddings") is False:
        return None
    found = [n for n in base.names if n.endswith(".weight") and n.split(".")[-2] in EMBEDDINGS]
    return found[0] if len(found) == 1 else None


def _oriented(plan: Plan) -> Plan:
    """Decide for square weights what those that are not square show."""
    linear: list[bool] = []
    experts: list[bool] = []
    for name, module in plan.modules.items():
        shape = plan.shape(name)
        m, n = module.B.shape[0], module.A.shape[-1]
        if m == n or module.kind not in (Kind.LINEAR, Kind.PARAMETER):
            continue
        (linear if len(shape) == 2 else experts).append(shape[-2:] == (n, m))
    said = plan.adapter.config.fan_in_fan_out
    turned = all(linear) if linear and len(set(linear)) == 1 else said
    return replace(plan, turns=Turns(turned, bool(experts) and all(experts)))
