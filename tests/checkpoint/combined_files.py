"""Adapters to combine, and their combination by its definition on dense arrays of NumPy."""

import numpy as np
from peft_files import P, save

from lora_ref.checkpoint.combination import OF_FACTORS, rules
from lora_ref.checkpoint.combined import combined
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.compose.ties import by_count, by_total

RNG = np.random.default_rng(5)
WEIGHTS = (0.7, -0.4, 1.3)
SHAPES = {"a.q": (11, 7), "b.q": (8, 8), "a.v": (7, 13)}
DENSITY = 0.6


def random(*shape, dtype="float64"):
    return RNG.normal(size=shape).astype(dtype)


def linear(path, rank, shape, dtype="float64"):
    m, n = shape
    return {
        f"{P}{path}.lora_A.weight": random(rank, n, dtype=dtype),
        f"{P}{path}.lora_B.weight": random(m, rank, dtype=dtype),
    }


def adapter(folder, ranks, dtype="float64", **fields):
    tensors = {}
    for path, rank in ranks.items():
        tensors |= linear(path, rank, SHAPES[path], dtype)
    return save(folder, tensors, target_modules=["q", "v"], **fields)


def three(folder, dtype="float64"):
    """Equal ranks in every module, and every way of saying a scale."""
    ranks = {"a.q": 3, "b.q": 2, "a.v": 3}
    both = {"r": 3, "rank_pattern": {"b.q": 2}, "dtype": dtype}
    return [
        adapter(folder / "one", ranks, lora_alpha=5, **both),
        adapter(folder / "two", ranks, lora_alpha=7, use_rslora=True, **both),
        adapter(folder / "three", ranks, lora_alpha=2, alpha_pattern={"a.v": -11}, **both),
    ]


def dense(directory):
    """s B A of every module, and its factors with the root of the scale in each, by hand."""
    read = PeftAdapter.open(directory)
    raw, found = read.config.raw, {}
    for path in SHAPES:
        if f"{P}{path}.lora_A.weight" not in read.stored:
            continue
        A, B = (read.stored[f"{P}{path}.lora_{x}.weight"].astype("float64") for x in "AB")
        alpha = raw.get("alpha_pattern", {}).get(path, raw["lora_alpha"])
        s = alpha / (len(A) ** 0.5 if raw.get("use_rslora") else len(A))
        found[path] = s, A, B
    return found


def made(directories, method, rank=None, weights=WEIGHTS, density=DENSITY, elect=by_total, **more):
    rule = rules(density, elect, np.random.default_rng(9))[method]
    return combined(directories, weights, rule, rank, **more)


def updates(adapter, folder):
    """What is read back of what was written."""
    write_adapter(folder, adapter)
    return {path: s * B @ A for path, (s, A, B) in dense(folder).items()}


def largest(t, density):
    size = np.sort(np.abs(t).ravel())[::-1][: int(density * t.size)]
    return np.where(np.abs(t) >= size[-1], t, 0)


def dropped(rng):
    return lambda t: np.where(rng.random(t.shape) < DENSITY, t, 0) / DENSITY


def agreeing(tensors, weights, elect):
    votes = sum(np.sign(t) if elect is by_count else t for t in tensors)
    sign = np.where(votes >= 0, 1, -1)
    agrees = [np.sign(t) == sign for t in tensors]
    total = sum(w * t * a for w, t, a in zip(weights, tensors, agrees, strict=True))
    return total / np.maximum(sum(a.astype(int) for a in agrees), 1)


def by_hand(parts, weights, method, rank, rng, elect=by_total):
    """The combination of one weight as the definition has it."""
    kind = method.removesuffix("_svd")
    prune = {"t": lambda t: largest(t, DENSITY), "m": lambda t: largest(t, DENSITY)}.get(
        kind[0], dropped(rng) if kind.startswith("dare") else lambda t: t
    )

    def combine(tensors, weights):
        if kind.endswith("ties"):
            return agreeing(tensors, weights, elect)
        return sum(w * t for w, t in zip(weights, tensors, strict=True))

    if method in OF_FACTORS:
        c = np.array([w * s for w, (s, _, _) in zip(weights, parts, strict=True)])
        A = combine([prune(A) for _, A, _ in parts], np.sign(c) * np.sqrt(np.abs(c)))
        return combine([prune(B) for _, _, B in parts], np.sqrt(np.abs(c))) @ A
    deltas = [s * B @ A for s, A, B in parts]
    if method == "cat":
        return combine(deltas, weights)
    U, S, Vt = np.linalg.svd(combine([prune(t) for t in deltas], weights), full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]
