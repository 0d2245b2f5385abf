"""The linear weights of a model from the config.json that transformers writes.

Units:
    Counted are the bare encoder with its pooler (BERT, RoBERTa, DistilBERT, which has none) and
    the decoder with its output layer (GPT-2, Llama, Mistral, Qwen 2 and 3), to the parameter.
    The dtype is `dtype`, or `torch_dtype` as older files have it, and may be one that no plan has.
Errors:
    CheckpointError, one line, for a file that is no such config or of a family that is not here,
    and for heads that do not divide what transformers refuses to divide by them.
Limits:
    Mixtures of experts, models of images or sound and quantized checkpoints are other shapes than
    these and are refused by their model_type.
Source:
    transformers 5, models/<family>/modeling_<family>.py and configuration_<family>.py; targets as
    PEFT 0.21.2, utils/constants.py, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, which has
    none for DistilBERT: here its queries and values. GPT-3: Brown et al. 2020, arXiv:2005.14165,
    table 2.1, with the separate projections that the LoRA paper counts.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.errors import refusal, shown
from ..checkpoint.strict_json import parse_object, read_file
from .model import Linear, Model


@dataclass(frozen=True)
class _Fields:
    raw: Mapping[str, Any]
    path: object

    def size(self, name: str, default: int | None = None) -> int:
        value = self.raw.get(name)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value < 2**40:
            need = "an integer of at least 1"
            raise refusal(self.path, f"{name} must be {need}, got {shown(value)}")
        return value

    def check_divides(self, part: str, whole: str) -> None:
        """Refuse a `whole` that is no multiple of `part`, where both are given."""
        if None not in (self.raw.get(part), self.raw.get(whole)):
            size, count = self.size(whole), self.size(part)
            if size % count:
                need = f"a multiple of {part}, {count}"
                raise refusal(self.path, f"{whole} must be {need}, got {size}")

    def dtype(self) -> str | None:
        """The dtype under its name, or under that of before transformers 4.56; None if neither."""
        name = "torch_dtype" if self.raw.get("dtype") is None else "dtype"
        value = self.raw.get(name)
        if value is not None and not isinstance(value, str):
            raise refusal(self.path, f"{name} must be the name of a dtype, got {shown(value)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw.get(name, default)
        if type(value) is not bool:
            raise refusal(self.path, f"{name} must be true or false, got {shown(value)}")
        return value


def read_model(path: str | os.PathLike[str]) -> Model:
    """The model of a config.json, or of the directory that has one."""
    file = Path(path)
    file = file / "config.json" if file.is_dir() else file
    raw = parse_object(read_file(file), file, "the file")
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise refusal(file, f"model_type must be one of {', '.join(FAMILIES)}, got {shown(kind)}")
    fields = _Fields(raw, file)
    return replace(FAMILIES[kind](kind, fields), dtype=fields.dtype())


def gpt3(layers: int = 96, d: int = 12288, context: int = 2048, vocabulary: int = 50257) -> Model:
    """GPT-3, by default the one of 175 billion parameters, with separate q, k, v and o."""
    names = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj")
    linears = (
        *(Linear(name, d, d, layers) for name in names),
        Linear("mlp.c_fc", 4 * d, d, layers),
        Linear("mlp.c_proj", d, 4 * d, layers),
        Linear("lm_head", vocabulary, d, head=True, tied=True),
    )
    others = (vocabulary + context) * d + layers * 13 * d + 2 * d
    return Model("gpt3-175b", linears, others, layers * d, ("q_proj", "v_proj"))


def _gpt2(kind: str, given: _Fields) -> Model:
    d, layers, vocabulary = given.size("n_embd"), given.size("n_layer"), given.size("vocab_size")
    given.check_divides("n_head", "n_embd")
    f = given.size("n_inner", 4 * d)
    tied = given.flag("tie_word_embeddings", True)
    linears = (
        Linear("attn.c_attn", 3 * d, d, layers),
        Linear("attn.c_proj", d, d, layers),
        Linear("mlp.c_fc", f, d, layers),
        Linear("mlp.c_proj", d, f, layers),
        Linear("lm_head", vocabulary, d, head=True, tied=tied),
    )
    # By layer the biases of the four, and two norms with gain and bias; one more norm at the end.
    others = (vocabulary + given.size("n_positions")) * d + layers * (9 * d + f) + 2 * d
    return Model(kind, linears, others, layers * d, ("c_attn",))


def _encoder(kind: str, given: _Fields) -> Model:
    d, layers = given.size("hidden_size"), given.size("num_hidden_layers")
    given.check_divides("num_attention_heads", "hidden_size")
    f = given.size("intermediate_size")
    linears = (
        *(Linear(f"attention.self.{x}", d, d, layers) for x in ("query", "key", "value")),
        Linear("attention.output.dense", d, d, layers),
        Linear("intermediate.dense", f, d, layers),
        Linear("output.dense", d, f, layers),
        Linear("pooler.dense", d, d),
    )
    rows = sum(given.size(x) for x in ("vocab_size", "max_position_embeddings", "type_vocab_size"))
    others = rows * d + 2 * d + layers * (9 * d + f) + d
    return Model(kind, linears, others, layers * d, ("query", "value"))


def _distilbert(kind: str, given: _Fields) -> Model:
    d, layers, f = given.size("dim"), given.size("n_layers"), given.size("hidden_dim")
    given.check_divides("n_heads", "dim")
    names = ("q_lin", "k_lin", "v_lin", "out_lin")
    linears = (
        *(Linear(f"attention.{name}", d, d, layers) for name in names),
        Linear("ffn.lin1", f, d, layers),
        Linear("ffn.lin2", d, f, layers),
    )
    rows = given.size("vocab_size") + given.size("max_position_embeddings")
    others = rows * d + 2 * d + layers * (9 * d + f)
    return Model(kind, linears, others, layers * d, ("q_lin", "v_lin"))


def _llama(kind: str, given: _Fields) -> Model:
    d, layers, f = (
        given.size(x) for x in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    vocabulary, (heads, shared, size) = given.size("vocab_size"), _llama_heads(kind, given, d)
    q, kv = heads * size, shared * size
    tied = given.flag("tie_word_embeddings", False)
    linears = (
        Linear("self_attn.q_proj", q, d, layers),
        Linear("self_attn.k_proj", kv, d, layers),
        Linear("self_attn.v_proj", kv, d, layers),
        Linear("self_attn.o_proj", d, q, layers),
        Linear("mlp.gate_proj", f, d, layers),
        Linear("mlp.up_proj", f, d, layers),
        Linear("mlp.down_proj", d, f, layers),
        Linear("lm_head", vocabulary, d, head=True, tied=tied),
    )
    by_layer = 2 * d + _llama_biases(kind, given, q, kv, d, f)
    by_layer += 2 * size if kind == "qwen3" else 0  # norms of queries and of keys
    others = vocabulary * d + layers * by_layer + d
    return Model(kind, linears, others, layers * q, ("q_proj", "v_proj"))


def _llama_heads(kind: str, given: _Fields, d: int) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, and the size of each."""
    heads = given.size("num_attention_heads")
    if kind == "llama":  # the others round down, and so does transformers
        given.check_divides("num_attention_heads", "hidden_size")
    given.check_divides("num_key_value_heads", "num_attention_heads")
    # Where the key is missing transformers has numbers of its own for each family, but Llama's.
    size = given.size("head_dim") if kind == "qwen3" else given.size("head_dim", d // heads)
    return heads, given.size("num_key_value_heads", heads if kind == "llama" else None), size


def _llama_biases(kind: str, given: _Fields, q: int, kv: int, d: int, f: int) -> int:
    """Biases of one layer: always or never by family, or as the config says."""
    if kind == "qwen2":
        return q + 2 * kv
    attention = kind != "mistral" and given.flag("attention_bias", False)
    mlp = kind == "llama" and given.flag("mlp_bias", False)
    return (q + 2 * kv + d if attention else 0) + (2 * f + d if mlp else 0)


FAMILIES: dict[str, Callable[[str, _Fields], Model]] = {
    "gpt2": _gpt2,
    "bert": _encoder,
    "roberta": _encoder,
    "xlm-roberta": _encoder,
    "distilbert": _distilbert,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
}
