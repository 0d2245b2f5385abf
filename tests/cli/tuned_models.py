"""Models before and after tuning for the tests of `lora-ref extract`, and what it wrote of them."""

import numpy as np
from small_models import save_model, status_of

from lora_ref.checkpoint.peft import PeftAdapter

SIZES = {"l.0.q": (11, 7), "l.1.q": (7, 13), "l.0.k": (9, 9), "l.1.k": (9, 9)}


def extract(models, out, *more):
    base, tuned = models
    return status_of("extract", "--base", base, "--tuned", tuned, "--out", out, *more)


def base_tensors(dtype="float64"):
    rng = np.random.default_rng(1)
    named = {f"{name}.weight": rng.normal(size=size) for name, size in SIZES.items()}
    named |= {"l.0.q.bias": rng.normal(size=11), "norm.weight": rng.normal(size=7)}
    named |= {"embed_tokens.weight": rng.normal(size=(5, 7))}
    return {name: t.astype(dtype) for name, t in named.items()} | {"ids": np.arange(4)}


def tuned_tensors(before, names=("l.0.q", "l.1.q", "l.0.k")):
    """The base with full-rank changes of the named weights."""
    rng = np.random.default_rng(2)
    after = dict(before)
    for name in names:
        W = before[f"{name}.weight"]
        decay = (0.8 if name == "l.0.k" else 0.5) ** np.arange(W.shape[1])
        after[f"{name}.weight"] = (W + rng.normal(size=W.shape) * decay).astype(W.dtype)
    return after


def saved(folder, before, after=None, **config):
    after = tuned_tensors(before) if after is None else after
    return save_model(folder / "base", before, **config), save_model(folder / "tuned", after)


def deltas(before, after):
    return {
        name.removesuffix(".weight"): after[name].astype("float64") - W.astype("float64")
        for name, W in before.items()
        if not np.array_equal(after[name], W)
    }


def updates(directory):
    adapter = PeftAdapter.open(directory)
    return {
        m.path: m.scale * m.B.astype("float64") @ m.A.astype("float64") for m in adapter.modules
    }


def rows(text):
    table = text.split("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in table}
