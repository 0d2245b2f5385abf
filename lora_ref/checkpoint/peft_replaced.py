"""What an adapter's file holds besides factors: base tensors, or rows of them, to put in place.

    base_model.model.MODULE.weight, .bias          a module of modules_to_save, whole
    base_model.model.PATH.base_layer.bias          a bias under factors: bias "lora_only", "all"
    base_model.model.ANY.bias                      any bias of the model: bias "all"
    base_model.model.embed_tokens.weight           embeddings and output layer, where PEFT was told
    base_model.model.PATH.base_layer.weight        to save them or found the vocabulary resized
    base_model.model.PATH.token_adapter.trainable_tokens_delta
                                                   rows of an embedding, not differences in spite
                                                   of the name; which rows is in the configuration

All are values of the trained model, never added to the base's. Every other key is refused.

Errors:  CheckpointError, one line, naming every key that nothing in the configuration explains,
         and for token rows that do not fit the configuration
Limits:  with bias "all", PEFT saves the biases in modules_to_save two more times, under
         MODULE.modules_to_save and MODULE.original_module; it loads MODULE.bias, and so do we
Source:  PEFT 0.21.2, utils/save_and_load.py, get_peft_model_state_dict; utils/other.py,
         ModulesToSaveWrapper, TrainableTokensWrapper, _set_trainable; tuners/tuners_utils.py,
         BaseTuner._get_learnable_bias_state_dict
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .errors import refusal, shown
from .header import TensorSpec
from .peft_keys import NESTED, PREFIX, without_nesting
from .peft_modules import check_values

TOKENS = "trainable_tokens_delta"
# The names of embeddings and of output layers in transformers' models.
_EMBEDDINGS = frozenset(
    {
        *("embed_tokens", "wte", "word_embeddings", "embed_in", "shared", "tok_embeddings"),
        *("lm_head", "embed_out", "output", "embeddings"),
    }
)
_COPIES = ("modules_to_save", "original_module")


class Saving(Protocol):
    """The settings that say what is saved besides factors."""

    @property
    def bias(self) -> str:
        """none, all, or lora_only for the biases of the modules that have factors."""

    @property
    def modules_to_save(self) -> tuple[str, ...]:
        """Names of modules that are saved whole."""

    @property
    def trainable_token_indices(self) -> Any:
        """The rows of an embedding, rows for each module, or None."""


class Placed(Protocol):
    """A module that has factors."""

    @property
    def place(self) -> str:
        """Its name in PEFT's model."""


@dataclass(frozen=True)
class Place:
    """A module that has factors, of which nothing else matters here."""

    place: str


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows that replace the rows `indices` of the base tensor `target`; mapped when asked for."""

    target: str
    indices: tuple[int, ...]
    name: str
    stored: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def rows(self) -> np.ndarray:
        return self.stored[self.name]


@dataclass(frozen=True)
class Replaced:
    """`tensors`: base tensor to key in the file; `tokens`; `ignored`: keys PEFT does not use."""

    tensors: dict[str, str]
    tokens: tuple[TokenRows, ...]
    ignored: tuple[str, ...]


def key_of(name: str, adapted: Container[str]) -> str:
    """The key of the base tensor `name`, where the modules `adapted` have factors."""
    owner, _, leaf = name.rpartition(".")
    return f"{PREFIX}{owner}.{NESTED}.{leaf}" if owner in adapted else PREFIX + name


def read_replaced(
    config: Saving,
    names: Iterable[str],
    modules: Iterable[Placed],
    specs: Mapping[str, TensorSpec],
    stored: Mapping[str, np.ndarray],
    path: object,
) -> Replaced:
    """Sort the keys `names`, which are no factors'."""
    places = {module.place for module in modules}
    tensors: dict[str, str] = {}
    tokens, ignored, stray = [], [], []
    for name in names:
        rest = name.removeprefix(PREFIX)
        if rest == name:
            stray.append(name)
        elif rest.endswith(f".{TOKENS}"):
            tokens.append(_token_rows(config, name, specs[name], stored, path))
        elif _is_copy(config, rest):
            ignored.append(name)
        elif _is_explained(config, rest, places):
            target = without_nesting(rest)
            if target in tensors:
                got = shown([tensors[target], name])
                raise refusal(path, f"base tensor {shown(target)} must be there once, got {got}")
            tensors[target] = name
        else:
            stray.append(name)
    if stray:
        need = "must hold only what PEFT saves with this configuration"
        raise refusal(path, f"{need}, got {len(stray)} other keys: {_listed(stray)}")
    if config.trainable_token_indices and not tokens:
        raise refusal(path, f"must hold a {TOKENS}, since the configuration has token indices")
    return Replaced(tensors, tuple(tokens), tuple(ignored))


def _listed(names):
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(shown(name, limit=120) for name in names[:8]) + more


def _ancestors(rest):
    parts = rest.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _is_saved_module(config, rest):
    # PEFT compares the ends of the names, without regard to dots.
    ends = tuple(end for end in config.modules_to_save if end)
    return bool(ends) and any(ancestor.endswith(ends) for ancestor in _ancestors(rest))


def _is_copy(config, rest):
    parts = rest.split(".")
    return (
        config.bias == "all"
        and parts[-1] == "bias"
        and any(
            part in _COPIES and _is_saved_module(config, ".".join([*parts[:at], ""]))
            for at, part in enumerate(parts)
        )
    )


def _is_explained(config, rest, places):
    module, _, leaf = rest.rpartition(".")
    if any(part in _COPIES or part.startswith("lora_") for part in rest.split(".")):
        return False
    if _is_saved_module(config, rest) or (leaf == "bias" and config.bias == "all"):
        return True
    owner = module.removesuffix(f".{NESTED}")
    is_under_factors = owner != module and owner in places
    if leaf == "bias" and config.bias == "lora_only" and is_under_factors:
        return True
    is_embedding = owner.rpartition(".")[2] in _EMBEDDINGS
    return (leaf == "weight" and (is_embedding or is_under_factors)) or (
        leaf == "bias" and is_embedding
    )


def _token_rows(config, name, spec, stored, path):
    place = name.removeprefix(PREFIX).removesuffix(f".{TOKENS}").removesuffix(".token_adapter")
    target = without_nesting(place)
    indices = _indices(config.trainable_token_indices, target)
    if indices is None:
        got = shown(config.trainable_token_indices)
        need = f"trainable_token_indices must have rows for {shown(target)}"
        raise refusal(path, f"{need}, got {got}")
    if len(set(indices)) < len(indices):
        need = f"the token indices of {shown(target)} must differ"
        raise refusal(path, f"{need}, got {shown(indices)}")
    if len(spec.shape) != 2 or spec.shape[0] != len(indices):
        need = f"({len(indices)}, n), a row for each token index"
        raise refusal(path, f"tensor {shown(name)} must be {need}, got {list(spec.shape)}")
    check_values(spec, stored, path)
    return TokenRows(f"{target}.weight", indices, name, stored)


def _indices(given, target):
    if isinstance(given, dict):
        return next((rows for end, rows in given.items() if target.endswith(end)), None)
    return given
