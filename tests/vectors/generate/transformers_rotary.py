"""Golden vectors of transformers' rotary embeddings: ../transformers_rotary.json + .safetensors.

Queries and keys are random and float64; cos and sin are the model's own. Llama and GPT-NeoX compute
them in float32 always, GPT-J in the default dtype, which is float64 here. Each case records
positions, cos and sin as the model has them, q and k before and after, and the gradients of both
for a random cotangent.

    python tests/vectors/generate/transformers_rotary.py
"""

from importlib.metadata import version
from typing import Any

import torch
from minilm import VECTORS, write_json
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama

POSITIONS = torch.tensor([[0, 1, 2, 3, 4], [17, 3, 1000, 9, 2047]])
HEADS, KV_HEADS = 3, 2


def draw_pair(width: int, heads_last: bool, draw: torch.Generator) -> list[torch.Tensor]:
    """q and k of this width, (batch, heads, T, d), or (batch, T, heads, d) as GPT-J has them."""
    batch, length = POSITIONS.shape
    found = []
    for heads in (HEADS, KV_HEADS):
        shape = (batch, length, heads, width) if heads_last else (batch, heads, length, width)
        found.append(torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_())
    return found


def run_llama(q: Any, k: Any, base: float) -> tuple[Any, Any, Any, Any]:
    """Halves of the whole width."""
    width = q.shape[-1]
    rope = {"rope_type": "default", "rope_theta": base}
    config = LlamaConfig(hidden_size=width, num_attention_heads=1, rope_parameters=rope)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, POSITIONS)
    return cos, sin, *llama.apply_rotary_pos_emb(q, k, cos, sin)


def run_gpt_neox(q: Any, k: Any, base: float) -> tuple[Any, Any, Any, Any]:
    """Halves of the first half of the features."""
    width = q.shape[-1]
    rope = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": 0.5}
    config = GPTNeoXConfig(hidden_size=width, num_attention_heads=1, rope_parameters=rope)
    cos, sin = gpt_neox.GPTNeoXRotaryEmbedding(config)(q, POSITIONS)
    return cos, sin, *gpt_neox.apply_rotary_pos_emb(q, k, cos, sin)


def run_gptj(q: Any, k: Any, rotary_dim: int) -> tuple[Any, Any, Any, Any]:
    """Neighbours, of the first features only, as GPTJAttention.forward slices them."""
    table = gptj.create_sinusoidal_positions(2048, rotary_dim)
    sin, cos = torch.split(table[POSITIONS], rotary_dim // 2, dim=-1)
    turned = (
        torch.cat(
            [gptj.apply_rotary_pos_emb(t[..., :rotary_dim], sin, cos), t[..., rotary_dim:]], dim=-1
        )
        for t in (q, k)
    )
    return cos, sin, *turned


CASES = {
    "llama": ("Llama", 8, run_llama, {"base": 10000.0}, "halves, base of the paper"),
    "llama_base": ("Llama", 10, run_llama, {"base": 500000.0}, "base of Llama 3, w/2 odd"),
    "gpt_neox": ("GPTNeoX", 12, run_gpt_neox, {"base": 10000.0}, "halves, the first w = 6 of 12"),
    "gptj": ("GPTJ", 8, run_gptj, {"rotary_dim": 8}, "neighbours, every feature"),
    "gptj_partial": ("GPTJ", 10, run_gptj, {"rotary_dim": 6}, "neighbours, the first w = 6 of 10"),
}


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    arrays: dict[str, torch.Tensor] = {}
    described = {}
    for seed, (name, (layer, width, run, config, reason)) in enumerate(CASES.items()):
        draw = torch.Generator().manual_seed(2000 + seed)
        q, k = draw_pair(width, layer == "GPTJ", draw)
        cos, sin, q_turned, k_turned = run(q, k, **config)
        dq_turned, dk_turned = (
            torch.randn(t.shape, generator=draw, dtype=torch.float64) for t in (q, k)
        )
        dq, dk = torch.autograd.grad((q_turned, k_turned), (q, k), (dq_turned, dk_turned))
        found = {"positions": POSITIONS, "cos": cos, "sin": sin, "q": q, "k": k}
        found |= {"q_turned": q_turned, "k_turned": k_turned, "dq": dq, "dk": dk}
        found |= {"dq_turned": dq_turned, "dk_turned": dk_turned}
        described[name] = {
            "reason": reason,
            "layer": layer,
            "config": {"width": width, **config},
            "arrays": sorted(found),
        }
        arrays |= {f"{name}/{key}": t.detach().clone().contiguous() for key, t in found.items()}
        print(f"{name:14} {layer:8} cos {tuple(cos.shape)} {cos.dtype}")
    save_file(arrays, VECTORS / "transformers_rotary.safetensors")
    head = {
        "source": "transformers.models, apply_rotary_pos_emb of llama, gpt_neox and gptj",
        "version": {name: version(name) for name in ("torch", "transformers")},
        "command": "python tests/vectors/generate/transformers_rotary.py",
        "reason": "which features make a pair, which way it turns, and by which angle",
        "cases": described,
    }
    write_json(VECTORS / "transformers_rotary.json", head)


if __name__ == "__main__":
    main()
