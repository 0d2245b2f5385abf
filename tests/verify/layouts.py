"""Cases in the layouts that real models have; every size is another number."""

import numpy as np
from models import Case, P, Target, bias, convolution, experts, turned

EXPERTS = 4


def llama(
    rng: np.random.Generator,
    size: float = 0.05,
    *,
    r: int = 6,
    alpha: float = 9.0,
    layers: int = 2,
    square: bool = False,
    stabilised: bool = False,
    heads: int = 6,
    general: tuple[int, float] | None = None,
    width: int = 72,
) -> Case:
    """q, k, v, o with fewer key heads than heads, gate, up, down; `square`: all heads alike."""
    head = width // heads if square else 16
    kv_heads = heads if square else 2
    config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": width}
    fields = {"r": general[0] if general else r, "lora_alpha": general[1] if general else alpha}
    fields |= {"use_rslora": stabilised}
    if general:
        fields |= {"rank_pattern": {".*": r}, "alpha_pattern": {".*": alpha}}
    case = Case(config=config, fields=fields, size=size)
    q, kv, ff = heads * head, kv_heads * head, width * 3 // 2
    shapes = {
        "self_attn.q_proj": (q, width),
        "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, q),
        "mlp.gate_proj": (ff, width),
        "mlp.up_proj": (ff, width),
        "mlp.down_proj": (width, ff),
    }
    case.weight(rng, "model.embed_tokens.weight", (50, width))
    for i in range(layers):
        for name, shape in shapes.items():
            case.weight(rng, f"model.layers.{i}.{name}.weight", shape)
            case.adapt(rng, f"model.layers.{i}.{name}", r, alpha)
        case.weight(rng, f"model.layers.{i}.input_layernorm.weight", (width,))
    return case


def gpt2(rng: np.random.Generator, size: float = 0.05, *, square_only: bool = False) -> Case:
    """Conv1D, stored (in, out): fused q, k, v in c_attn; c_proj is square."""
    case = Case(config={"n_head": 4}, size=size)
    case.fields = {"r": 5, "lora_alpha": 8, "fan_in_fan_out": True}
    for name, (n, m) in {"attn.c_attn": (64, 192), "attn.c_proj": (64, 64)}.items():
        if square_only and n != m:
            continue
        case.weight(rng, f"h.0.{name}.weight", (n, m))
        case.weight(rng, f"h.0.{name}.bias", (m,))
        case.adapt(rng, f"h.0.{name}", 5, 8, turned)
    return case


def fused_qkv(rng: np.random.Generator, size: float = 0.05) -> Case:
    """One LoRA on [q; k; v] with fewer key heads, one on [gate; up]."""
    config = {"num_attention_heads": 6, "num_key_value_heads": 2}
    case = Case(config=config, fields={"r": 4, "lora_alpha": 6}, size=size)
    for name, shape in {"qkv_proj": (160, 72), "gate_up_proj": (208, 72)}.items():
        case.weight(rng, f"layers.0.{name}.weight", shape)
        case.adapt(rng, f"layers.0.{name}", 4, 6)
    return case


def embeddings(rng: np.random.Generator, size: float = 0.05, *, tied: str = "untied") -> Case:
    """LoRA on the embedding and on the output layer: untied, shared, or both the same update."""
    case = Case(config={"tie_word_embeddings": tied != "untied"}, size=size)
    case.fields = {"r": 4, "lora_alpha": 7}
    case.weight(rng, "model.embed_tokens.weight", (90, 56))
    case.weight(rng, "model.norm.weight", (56,))
    keys = (".lora_embedding_A", ".lora_embedding_B")
    path = "model.embed_tokens"
    if tied != "output only":
        case.adapt(rng, path, 4, 7, turned, keys=keys, shapes=((4, 90), (56, 4)))
    if tied == "untied":
        case.weight(rng, "lm_head.weight", (90, 56))
        case.adapt(rng, "lm_head", 4, 7)
    if tied == "output only":
        W = case.tensors["model.embed_tokens.weight"]
        case.tensors["lm_head.weight"] = W.copy()
        case.adapt(rng, "lm_head", 4, 7)
        del case.tensors["lm_head.weight"]
    return case


def convolutions(rng: np.random.Generator, size: float = 0.05) -> Case:
    """A two- and a one-dimensional convolution."""
    case = Case(fields={"r": 4, "lora_alpha": 6}, size=size)
    for name, shape in {"conv_in": (24, 11, 3, 5), "conv1d": (36, 14, 5)}.items():
        case.weight(rng, f"{name}.weight", shape)
        ones = (1,) * (len(shape) - 2)
        shapes = ((4, *shape[1:]), (shape[0], 4, *ones))
        case.adapt(rng, name, 4, 6, convolution, shapes=shapes)
    return case


def mixture(
    rng: np.random.Generator,
    size: float = 0.05,
    *,
    inputs_first: bool = False,
    square: bool = False,
) -> Case:
    """target_parameters: experts stored (E, out, in) or (E, in, out)."""
    case = Case(fields={"r": 3, "lora_alpha": 5, "target_modules": []}, size=size)
    case.fields["target_parameters"] = ["experts.gate_up_proj"]
    m, n = (48, 48) if square else (64, 40)
    stored = (EXPERTS, n, m) if inputs_first else (EXPERTS, m, n)
    name = "layers.0.experts.gate_up_proj"
    case.weight(rng, name, stored)
    case.weight(rng, "layers.0.router.weight", (EXPERTS, n))
    place = experts(EXPERTS, inputs_first=inputs_first)
    shapes = ((EXPERTS * 3, n), (m, 3 * EXPERTS))
    case.adapt(rng, "layers.0.experts", 3, 5, place, name, shapes=shapes)
    return case


def with_biases(rng: np.random.Generator, size: float = 0.05) -> Case:
    """lora_bias: B has a bias, which goes into the layer's."""
    case = Case(fields={"r": 4, "lora_alpha": 6, "lora_bias": True}, size=size)
    case.weight(rng, "encoder.dense.weight", (60, 44))
    case.weight(rng, "encoder.dense.bias", (60,))
    case.adapt(rng, "encoder.dense", 4, 6)
    beta = (rng.normal(size=60) * size * np.std(case.tensors["encoder.dense.bias"])).astype("f4")
    case.adapter[f"{P}encoder.dense.lora_B.bias"] = beta
    case.targets["encoder.dense.bias"] = Target(np.ones((1, 1), "f4"), beta, 1.5, bias)
    return case


def with_copies(rng: np.random.Generator, size: float = 0.05) -> Case:
    """bias lora_only, modules_to_save (a classifier that the base has not), token rows."""
    case = Case(fields={"r": 4, "lora_alpha": 6, "bias": "lora_only"}, size=size)
    case.fields |= {"modules_to_save": ["classifier", "norm"]}
    case.fields |= {"trainable_token_indices": {"embed_tokens": [3, 17, 40]}}
    case.weight(rng, "model.dense.weight", (60, 44))
    case.weight(rng, "model.dense.bias", (60,))
    case.weight(rng, "model.norm.weight", (60,))
    case.weight(rng, "model.embed_tokens.weight", (80, 44))
    case.adapt(rng, "model.dense", 4, 6)
    for name, shape in {"classifier.weight": (5, 60), "classifier.bias": (5,)}.items():
        case.replaced[name] = (rng.normal(size=shape) * 0.1).astype("f4")
        case.adapter[P + name] = case.replaced[name]
    for name, key in {"model.norm.weight": "model.norm.weight",
                      "model.dense.bias": "model.dense.base_layer.bias"}.items():  # fmt: skip
        case.replaced[name] = case.tensors[name] + (rng.normal(size=60) * 0.02).astype("f4")
        case.adapter[P + key] = case.replaced[name]
    rows = (rng.normal(size=(3, 44)) * 0.15).astype("f4")
    case.rows["model.embed_tokens.weight"] = ([3, 17, 40], rows)
    case.adapter[f"{P}model.embed_tokens.token_adapter.trainable_tokens_delta"] = rows
    return case


def mixed_ranks(rng: np.random.Generator, size: float = 0.05, *, stabilised: bool = False) -> Case:
    """rank_pattern and alpha_pattern: layer 1 has its own of both, layer 2 of alpha."""
    case = Case(size=size)
    case.fields = {"r": 8, "lora_alpha": 12, "use_rslora": stabilised}
    case.fields |= {"rank_pattern": {"layers.1.q": 3}, "alpha_pattern": {"layers.1.q": 7}}
    case.fields["alpha_pattern"]["layers.2.q"] = 5
    for i, (r, alpha) in enumerate(((8, 12), (3, 7), (8, 5))):
        case.weight(rng, f"layers.{i}.q.weight", (56, 72))
        case.adapt(rng, f"layers.{i}.q", r, alpha)
    return case


def of_random_sizes(rng: np.random.Generator, size: float, kind: str) -> Case:
    """One linear weight of random sizes, rank (which may exceed both) and alpha, and `kind`."""
    r, alpha = int(rng.integers(1, 17)), float(rng.integers(1, 40)) * float(rng.choice([-1, 1, 1]))
    case = Case(fields={"r": r, "lora_alpha": alpha}, size=size)
    case.fields["use_rslora"] = bool(rng.integers(2))
    m, n = (int(t) for t in rng.integers(1, 90, 2))
    case.weight(rng, "q.weight", (m, n))
    W = case.tensors["q.weight"]
    if kind == "heavy tails":
        W *= np.abs(rng.standard_t(2, W.shape)).astype("f4")
    if kind == "outlier rows":
        W[rng.integers(m)] *= 50
    if kind == "zeros":
        W[rng.random(W.shape) < 0.3] = 0
    if kind == "small numbers":
        W *= np.float32(1e-5)
    if kind == "large numbers":
        W *= np.float32(1e2)
    case.adapt(rng, "q", r, alpha)
    if kind == "zeros":
        key = f"{P}q.lora_B.weight"
        case.adapter[key][rng.random(m) < 0.3] = 0
    return case


KINDS = ("Gaussian", "heavy tails", "outlier rows", "zeros", "small numbers", "large numbers")
LAYOUTS = {
    "llama": llama,
    "llama, square": lambda rng, size=0.05: llama(rng, size, square=True),
    "llama, rslora": lambda rng, size=0.05: llama(rng, size, stabilised=True, layers=1),
    "gpt2": gpt2,
    "fused qkv": fused_qkv,
    "embeddings": embeddings,
    "tied embeddings": lambda rng, size=0.05: embeddings(rng, size, tied="tied"),
    "convolutions": convolutions,
    "experts": mixture,
    "experts, inputs first": lambda rng, size=0.05: mixture(rng, size, inputs_first=True),
    "experts, square": lambda rng, size=0.05: mixture(rng, size, square=True),
    "gpt2, square": lambda rng, size=0.05: gpt2(rng, size, square_only=True),
    "llama, negative": lambda rng, size=0.05: llama(rng, size, alpha=-9.0, layers=1),
    "biases": with_biases,
    "copies": with_copies,
    "patterns": mixed_ranks,
    "patterns, rslora": lambda rng, size=0.05: mixed_ranks(rng, size, stabilised=True),
}
