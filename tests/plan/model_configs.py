"""Configs as transformers writes them: published ones, and small ones with sizes that differ."""

import json

PUBLISHED = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
    "bert": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 30522, "max_position_embeddings": 512,
        "type_vocab_size": 2,
    },
    "roberta": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 50265, "max_position_embeddings": 514,
        "type_vocab_size": 1,
    },
    "distilbert": {
        "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "vocab_size": 30522,
        "max_position_embeddings": 512,
    },
    "llama": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000,
    },
    "mistral": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000,
        "head_dim": None,
    },
    "qwen2": {
        "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
        "vocab_size": 151936, "tie_word_embeddings": True,
    },
}  # fmt: skip
# As the model cards and papers have them: GPT-2 small, BERT base, RoBERTa base, DistilBERT base,
# Llama 7B, Mistral 7B, Qwen 2.5 0.5B, Qwen 3 0.6B.
PARAMETERS = {
    "gpt2": 124_439_808,
    "bert": 109_482_240,
    "roberta": 124_645_632,
    "distilbert": 66_362_880,
    "llama": 6_738_415_616,
    "mistral": 7_241_732_096,
    "qwen2": 494_032_768,
    "qwen3": 596_049_920,
}
_DECODER = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 40, "vocab_size": 50,
}  # fmt: skip
_ENCODER = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40,
    "vocab_size": 50, "max_position_embeddings": 30, "type_vocab_size": 2,
}  # fmt: skip
_GPT2 = {"n_embd": 24, "n_layer": 3, "n_head": 4, "vocab_size": 50, "n_positions": 30}
SMALL = {
    "gpt2": {**_GPT2, "model_type": "gpt2"},
    "gpt2, inner and untied": {
        **_GPT2, "model_type": "gpt2", "n_inner": 40, "tie_word_embeddings": False,
    },
    "bert": {**_ENCODER, "model_type": "bert"},
    "roberta": {**_ENCODER, "model_type": "roberta"},
    "xlm-roberta": {**_ENCODER, "model_type": "xlm-roberta"},
    "distilbert": {
        "model_type": "distilbert", "dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 40,
        "vocab_size": 50, "max_position_embeddings": 30,
    },
    "llama": {**_DECODER, "model_type": "llama"},
    "llama, tied with biases": {
        **_DECODER, "model_type": "llama", "tie_word_embeddings": True,
        "attention_bias": True, "mlp_bias": True, "head_dim": 10,
    },
    "mistral": {**_DECODER, "model_type": "mistral", "head_dim": 10},
    "qwen2": {**_DECODER, "model_type": "qwen2"},
    "qwen3": {**_DECODER, "model_type": "qwen3", "head_dim": 10},
    "qwen3 with biases": {
        **_DECODER, "model_type": "qwen3", "head_dim": 10, "attention_bias": True,
    },
}  # fmt: skip
# By transformers 5; test_plan_peers.py counts them again.
SMALL_PARAMETERS = {
    "gpt2": 23_640,
    "gpt2, inner and untied": 16_608,
    "bert": 16_056,
    "roberta": 16_056,
    "xlm-roberta": 16_056,
    "distilbert": 15_408,
    "llama": 16_392,
    "llama, tied with biases": 19_272,
    "mistral": 19_848,
    "qwen2": 16_536,
    "qwen3": 19_908,
    "qwen3 with biases": 20_220,
}


def written(directory, fields):
    """The path of a config.json with `fields`."""
    path = directory / "config.json"
    path.write_text(json.dumps(fields))
    return path
