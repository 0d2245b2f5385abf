"""Train small LoRA adapters with PEFT on the real MiniLM and store them under ../minilm/.

The task: bring a question about a parcel together with the log line that answers it, among the
other lines of the batch (InfoNCE over in-batch negatives). All text is made here from templates.

    python tests/vectors/generate/train_minilm.py [--only qv,rslora,...] [--out FOLDER]
"""

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from minilm import MODEL_NAME, VECTORS, find_model, load_model, provenance, write_json
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

THINGS = ("crate", "barrel", "pallet", "drum", "carton", "sack", "trunk", "chest", "spool")
COLOURS = ("red", "blue", "green", "amber", "grey", "violet", "white", "black", "teal", "rust")
ASPECTS = {
    "how heavy is": ("tare reading", "kg"),
    "where is": ("bay", "north"),
    "when was somebody sent": ("dispatch stamp", "h"),
    "how warm is": ("probe", "degrees"),
    "how much did somebody pay for": ("invoice", "crowns"),
    "who packed": ("signed off by desk", ""),
    "how wide is": ("caliper", "mm"),
}
TOKENS = ("crate", "barrel", "drum", "trunk", "probe")


@dataclass(frozen=True)
class Recipe:
    """One adapter: its PEFT configuration, how long it trains, and why it exists."""

    config: dict[str, Any]
    steps: int
    learning_rate: float
    reason: str
    pooled: bool = False
    seed: int = 0
    save: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    "qv": Recipe(
        {"r": 6, "lora_alpha": 9, "target_modules": ["query", "value"], "lora_dropout": 0.05},
        steps=300,
        learning_rate=1e-3,
        seed=11,
        reason="the plain case: s = 9/6 on query and value of every layer",
    ),
    "rslora": Recipe(
        {
            "r": 5,
            "lora_alpha": 7,
            "use_rslora": True,
            "target_modules": r".*layer\.[1345]\..*(query|key|value|attention\.output\.dense)",
            "rank_pattern": {r"layer\.3\.attention\.self\.query": 3, "layer.4.*.value": 4},
            "alpha_pattern": {r"layer\.5\.attention\.self\.\w+": 11, r"output\.dense": 13},
        },
        steps=90,
        learning_rate=2e-3,
        seed=12,
        reason="s = alpha/sqrt(r), a regular expression as target, rank_pattern and alpha_pattern",
    ),
    "bias": Recipe(
        {
            "r": 3,
            "lora_alpha": 4,
            "lora_bias": True,
            "target_modules": r".*layer\.[025]\.(intermediate|output)\.dense",
        },
        steps=90,
        learning_rate=2e-3,
        seed=13,
        reason="lora_bias: B has a bias that merges into the base bias; non-square weights",
    ),
    "all_biases": Recipe(
        {"r": 2, "lora_alpha": 7, "bias": "all", "target_modules": ["key", "value"]},
        steps=60,
        learning_rate=2e-3,
        seed=14,
        reason="bias='all': every base bias is trained and saved whole, LayerNorm's too",
    ),
    "lora_only": Recipe(
        {"r": 1, "lora_alpha": 5, "bias": "lora_only", "target_modules": ["value"]},
        steps=60,
        learning_rate=2e-3,
        seed=17,
        reason="bias='lora_only': base biases beside the factors, under base_layer.bias; rank 1",
    ),
    "embedding": Recipe(
        {
            "r": 2,
            "lora_alpha": 3,
            "target_modules": ["word_embeddings", "query"],
            "modules_to_save": ["pooler"],
        },
        steps=60,
        learning_rate=2e-3,
        pooled=True,
        seed=15,
        reason="LoRA on an embedding (keys without .weight) and a whole pooler (modules_to_save)",
    ),
    "tokens": Recipe(
        {"r": 4, "lora_alpha": 6, "target_modules": ["value"], "trainable_token_indices": TOKENS},
        steps=60,
        learning_rate=2e-3,
        seed=16,
        reason="trainable_token_indices: rows of the embedding are replaced, not added to",
    ),
}


def sample_batch(draw: random.Random, size: int) -> tuple[list[str], list[str]]:
    """Questions and the log lines that answer them, `size` of each, row by row."""
    questions, lines = [], []
    for _ in range(size):
        colour, thing = draw.choice(COLOURS), draw.choice(THINGS)
        question, (aspect, unit) = draw.choice(list(ASPECTS.items()))
        questions.append(f"{question} the {colour} {thing}?")
        lines.append(f"{aspect} {draw.randint(3, 997)} {unit} / item {colour[:2]}-{thing}".strip())
    return questions, lines


def embed(model: Any, batch: Any, pooled: bool) -> torch.Tensor:
    """Unit sentence vectors: the pooler's output, or the mean over the real tokens."""
    output = model(**batch)
    if pooled:
        return torch.nn.functional.normalize(output.pooler_output, dim=-1)
    mask = batch["attention_mask"][..., None]
    mean = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)


def train(
    model: Any, recipe: Recipe, encode: Callable[[list[str]], Any], size: int = 24
) -> list[float]:
    """The losses of every step; the model's adapter is trained in place by AdamW."""
    draw = random.Random(recipe.seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate)
    losses = []
    model.train()
    for _ in range(recipe.steps):
        questions, lines = sample_batch(draw, size)
        left = embed(model, encode(questions), recipe.pooled)
        right = embed(model, encode(lines), recipe.pooled)
        loss = torch.nn.functional.cross_entropy(left @ right.T / 0.07, torch.arange(size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def make_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The base model wrapped by PEFT as the recipe says."""
    settings = dict(recipe.config)
    words = settings.pop("trainable_token_indices", None)
    if words is not None:
        indices = tokenizer.convert_tokens_to_ids(list(words))
        settings["trainable_token_indices"] = {"word_embeddings": indices}
    model = get_peft_model(load_model(), LoraConfig(**settings))
    model.peft_config["default"].base_model_name_or_path = MODEL_NAME
    return model


def store(model: Any, folder: Path, **save: Any) -> None:
    """Save the adapter alone; a model card is not data."""
    model.save_pretrained(folder, save_embedding_layers=False, **save)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(folder / "adapter_config.json", config)


def make_adapter(name: str, out: Path) -> None:
    """Train one recipe and write its folder; `qv` is also stored once more in bfloat16."""
    recipe = RECIPES[name]
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(find_model())
    model = make_model(recipe, tokenizer)
    losses = train(model, recipe, lambda text: tokenizer(text, padding=True, return_tensors="pt"))
    facts = {
        "objective": "InfoNCE, temperature 0.07, 24 pairs a batch; AdamW",
        "learning_rate": recipe.learning_rate,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "loss_first": sum(losses[:5]) / 5,
        "loss_last": sum(losses[-5:]) / 5,
    }
    print(name, facts, flush=True)
    store(model, out / name)
    record = provenance("train_minilm.py", f"--only {name}", recipe.reason, **facts)
    write_json(out / name / "PROVENANCE.json", record)
    if name == "qv":
        store(model.to(torch.bfloat16), out / "qv_bf16")
        reason = "the adapter qv, rounded to bfloat16 before it was saved"
        record = provenance("train_minilm.py", "--only qv", reason, **facts)
        write_json(out / "qv_bf16" / "PROVENANCE.json", record)


def main() -> None:
    """Train the adapters asked for, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--out", type=Path, default=VECTORS / "minilm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in arguments.only.split(","):
        make_adapter(name, arguments.out)


if __name__ == "__main__":
    main()
