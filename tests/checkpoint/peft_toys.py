"""Small PyTorch models, one for each layout in which PEFT saves factors, and what it then saves."""

import pytest

# pytest looks for doctests here too, also where there are no peers.
torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
pytest.importorskip("transformers", reason="transformers is in the [peers] extra")

from torch import nn  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

GATE, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(13, 7)
        self.q = nn.Linear(7, 11)
        self.v = nn.Linear(11, 7, bias=False)
        self.turned = Conv1D(9, 7)
        self.norm = nn.LayerNorm(9)
        self.classifier = nn.Linear(9, 5)

    def forward(self, ids):
        return self.classifier(self.norm(self.turned(self.v(self.q(self.emb(ids))))))


class Convolutions(nn.Module):
    def __init__(self, groups=1):
        super().__init__()
        self.c = nn.Conv2d(4, 6, (3, 2), groups=groups)

    def forward(self, x):
        return self.c(x)


class Experts(nn.Module):
    def __init__(self, is_transposed):
        super().__init__()
        self.is_transposed = is_transposed
        shapes = ((2, 7, 10), (2, 5, 7)) if is_transposed else ((2, 10, 7), (2, 7, 5))
        self.gate_up_proj, self.down_proj = (nn.Parameter(torch.randn(s)) for s in shapes)

    def forward(self, x):
        gate, down = self.gate_up_proj, self.down_proj
        if not self.is_transposed:
            gate, down = gate.mT, down.mT
        h = torch.einsum("bi,eio->beo", x, gate)
        return torch.einsum("beo,eoi->bi", h[..., :5] * h[..., 5:], down)


class Mixture(nn.Module):
    def __init__(self, is_transposed=False):
        super().__init__()
        self.lin = nn.Linear(7, 7)
        self.mlp = nn.ModuleDict({"experts": Experts(is_transposed)})

    def forward(self, x):
        return self.mlp["experts"](self.lin(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


def llama(tied):
    sizes = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 12}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))


def ids():
    return torch.tensor([[1, 5, 12, 0], [4, 4, 2, 7]])


def features(*shape):
    return lambda: torch.linspace(-1, 1, int(torch.Size(shape).numel())).reshape(shape).double()


def factors(*paths):
    return [f"{path}.lora_{x}.weight" for path in paths for x in "AB"]


EMBEDDED = ["emb.lora_embedding_A", "emb.lora_embedding_B"]
TIED = ["model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"]
HEADS = ["lm_head.base_layer.weight", "model.embed_tokens.base_layer.weight"]
NESTED = factors("mlp.experts.base_layer", "mlp.experts")
QK = "model.layers.0.self_attn.q_proj"
TOKENS = "token_adapter.trainable_tokens_delta"

# name: (model, its input, fields of LoraConfig, the keys PEFT 0.21.2 saves without their prefix)
LAYOUTS = {
    "linear": (Toy, ids, {"target_modules": ["q", "v"]}, factors("q", "v")),
    "Conv1D": (Toy, ids, {"target_modules": ["turned"]}, factors("turned")),
    "embedding": (Toy, ids, {"target_modules": ["emb"]}, EMBEDDED),
    "convolution": (Convolutions, features(2, 4, 5, 6), {"target_modules": ["c"]}, factors("c")),
    "grouped convolution": (
        lambda: Convolutions(2),
        features(2, 4, 5, 6),
        {"target_modules": ["c"], "r": 4},
        factors("c"),
    ),
    "lora_bias": (
        Toy,
        ids,
        {"target_modules": ["q"], "lora_bias": True},
        [*factors("q"), "q.lora_B.bias"],
    ),
    "rslora and patterns": (
        Toy,
        ids,
        {
            "target_modules": ["q", "v", "turned"],
            "use_rslora": True,
            "rank_pattern": {"[qv]": 2, "turned": 4},
            "alpha_pattern": {"v": 11},
        },
        factors("q", "v", "turned"),
    ),
    "modules_to_save": (
        Toy,
        ids,
        {"target_modules": ["q"], "modules_to_save": ["classifier", "norm"]},
        [
            *factors("q"),
            *(f"{m}.{leaf}" for m in ("classifier", "norm") for leaf in ("weight", "bias")),
        ],
    ),
    "bias lora_only": (
        Toy,
        ids,
        {"target_modules": ["q", "v"], "bias": "lora_only"},
        [*factors("q", "v"), "q.base_layer.bias"],
    ),
    "bias all": (
        Toy,
        ids,
        {"target_modules": ["q", "v"], "bias": "all"},
        [
            *factors("q", "v"),
            "q.base_layer.bias",
            *(f"{m}.bias" for m in ("turned", "norm", "classifier")),
        ],
    ),
    "bias all with a saved module": (
        Toy,
        ids,
        {"target_modules": ["q"], "bias": "all", "modules_to_save": ["classifier"]},
        [
            *factors("q"),
            *("q.base_layer.bias", "turned.bias", "norm.bias"),
            *("classifier.weight", "classifier.bias"),
            *("classifier.modules_to_save.bias", "classifier.original_module.bias"),
        ],
    ),
    "tokens": (
        Toy,
        ids,
        {"target_modules": ["q"], "trainable_token_indices": {"emb": [5, 1]}},
        [*factors("q"), f"emb.{TOKENS}"],
    ),
    "one parameter": (
        Mixture,
        features(3, 7),
        {"target_modules": ["lin"], "target_parameters": [GATE]},
        factors("lin", "mlp.experts"),
    ),
    "two parameters": (
        Mixture,
        features(3, 7),
        {"target_modules": [], "target_parameters": [DOWN, GATE]},
        NESTED,
    ),
    "two transposed parameters of two ranks": (
        lambda: Mixture(True),
        features(3, 7),
        {"target_modules": [], "target_parameters": [DOWN, GATE], "rank_pattern": {"down_proj": 2}},
        NESTED,
    ),
    "parameter of two axes": (
        Mixture,
        features(3, 7),
        {"target_modules": [], "target_parameters": ["lin.weight"]},
        factors("lin"),
    ),
    "MultiheadAttention": (
        Attention,
        features(2, 3, 8),
        {"target_modules": ["attn"], "rank_pattern": {"attn": 2}},
        factors("attn", "attn.base_layer.out_proj"),
    ),
    "tied embeddings, ensured": (
        lambda: llama(True),
        ids,
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        [*TIED, *factors("lm_head"), *HEADS],
    ),
    "untied embeddings": (
        lambda: llama(False),
        ids,
        {"target_modules": ["embed_tokens", "lm_head"]},
        [*TIED, *factors("lm_head"), *HEADS],
    ),
    "tokens of tied embeddings": (
        lambda: llama(True),
        ids,
        {"target_modules": ["q_proj"], "trainable_token_indices": [4, 1]},
        [*factors(QK), f"model.embed_tokens.{TOKENS}"],
    ),
    "saved tied embeddings": (
        lambda: llama(True),
        ids,
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["embed_tokens"],
            "ensure_weight_tying": True,
        },
        [*factors(QK), "lm_head.weight", "model.embed_tokens.weight"],
    ),
    "replicated layers": (
        lambda: llama(False),
        ids,
        {"target_modules": ["q_proj"], "layer_replication": [[0, 1], [0, 1]]},
        factors(QK, QK.replace("0", "1")),
    ),
}
