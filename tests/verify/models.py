"""Small models, adapters in PEFT's layout, and their merges by code that shares nothing with ours.

A `Case` holds what a base and an adapter directory hold, and how each adapted tensor follows from
its factors. `merged` computes the merge in one of the orders of `orders`; `write` makes the three
directories.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import ml_dtypes
import numpy as np
from orders import Order, accumulated_in_float32, matmul

from lora_ref.checkpoint import TensorSpec, dtype_name, write_safetensors

P = "base_model.model."
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "bfloat16": BFLOAT16,
    "float16": np.dtype("float16"),
    "float32": np.dtype("float32"),
    "float64": np.dtype("float64"),
    "float8": np.dtype(ml_dtypes.float8_e4m3fn),
}
Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]


def linear(B: np.ndarray, A: np.ndarray, multiply: Multiply) -> np.ndarray:
    return multiply(B, A)


def turned(B: np.ndarray, A: np.ndarray, multiply: Multiply) -> np.ndarray:
    return multiply(B, A).T


def convolution(B: np.ndarray, A: np.ndarray, multiply: Multiply) -> np.ndarray:
    return multiply(B.reshape(len(B), -1), A.reshape(len(A), -1)).reshape(len(B), *A.shape[1:])


def bias(B: np.ndarray, A: np.ndarray, multiply: Multiply) -> np.ndarray:
    return multiply(B[:, None], A)[:, 0]


def experts(count: int, *, inputs_first: bool) -> Callable[..., np.ndarray]:
    """PEFT's target_parameters: A (E·r, n) expert slowest, B (m, r·E) expert fastest."""

    def product(B: np.ndarray, A: np.ndarray, multiply: Multiply) -> np.ndarray:
        r = len(A) // count
        each = [multiply(B[:, e::count], A[e * r : (e + 1) * r]) for e in range(count)]
        return np.stack([t.T for t in each] if inputs_first else each)

    return product


@dataclass(frozen=True)
class Target:
    """One adapted tensor: the factors as saved, the scale, and where their product goes."""

    A: np.ndarray
    B: np.ndarray
    s: float
    place: Callable[..., np.ndarray] = linear

    def delta(self, s: float | None = None) -> np.ndarray:
        """s B A in float32, in the stored layout."""
        A, B = self.A.astype(np.float32), self.B.astype(np.float32)
        return np.float32(self.s if s is None else s) * self.place(B, A, matmul)


@dataclass
class Case:
    """What the files hold; `replaced` and `rows` are what the adapter carries whole."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    adapter: dict[str, np.ndarray] = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    replaced: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, tuple[list[int], np.ndarray]] = field(default_factory=dict)
    ranks: dict[str, tuple[int, float]] = field(default_factory=dict)  # r and α of each target
    size: float = 0.05  # ‖s BA‖ / ‖W‖

    def weight(self, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
        """A Gaussian base tensor in float32; `cast` gives it its dtype."""
        self.tensors[name] = (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)

    def scale(self, r: int, alpha: float) -> float:
        return alpha / r**0.5 if self.fields.get("use_rslora") else alpha / r

    def adapt(
        self,
        rng: np.random.Generator,
        path: str,
        r: int,
        alpha: float,
        place: Callable[..., np.ndarray] = linear,
        name: str = "",
        keys: tuple[str, str] = (".lora_A.weight", ".lora_B.weight"),
        shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    ) -> None:
        """Factors for `path`, of the case's size relative to the base tensor."""
        name = name or f"{path}.weight"
        W = self.tensors[name]
        if shapes is None:
            m, n = W.shape if place is linear else W.shape[::-1]
            shapes = (r, n), (m, r)
        a, b = shapes
        A, B = rng.normal(size=a) / a[-1] ** 0.5, rng.normal(size=b)
        s = self.scale(r, alpha)
        B *= self.size * np.std(W) / np.std(s * place(B, A, matmul))
        A, B = A.astype(np.float32), B.astype(np.float32)
        self.adapter[f"{P}{path}{keys[0]}"], self.adapter[f"{P}{path}{keys[1]}"] = A, B
        self.targets[name], self.ranks[name] = Target(A, B, s, place), (r, alpha)

    def cast(self, dtype: str) -> "Case":
        """The same with every base tensor in `dtype`."""
        stored = {n: t.astype(DTYPES[dtype]) for n, t in self.tensors.items()}
        return replace(self, tensors=stored)

    def merged(
        self, order: Order = accumulated_in_float32, dtype: str | None = None
    ) -> dict[str, np.ndarray]:
        """The honest merge, in the order and the dtype that are asked for."""
        out = {}
        for name in dict.fromkeys((*self.tensors, *self.replaced)):
            W = self.replaced.get(name, self.tensors.get(name))
            to = DTYPES[dtype] if dtype else self.tensors.get(name, W).dtype
            if name in self.targets:
                out[name] = order(W, self.targets[name], to)
                continue
            out[name] = W.astype(to)
            if name in self.rows:
                at, values = self.rows[name]
                out[name][at] = values.astype(to)
        return out

    def write(
        self, directory: Path, merged: dict[str, np.ndarray] | None = None
    ) -> tuple[str, str, str]:
        """The three paths; without `merged`, its directory is not made."""
        base, adapter, out = (directory / name for name in ("base", "adapter", "merged"))
        if not base.exists():
            save(base, self.tensors, self.config)
            adapter.mkdir()
            fields = {"peft_type": "LORA", **self.fields}
            (adapter / "adapter_config.json").write_text(json.dumps(fields))
            save_file(adapter / "adapter_model.safetensors", self.adapter)
        if merged is not None:
            save(out, merged, self.config)
        return str(base), str(adapter), str(out)


def save(
    directory: Path, tensors: dict[str, np.ndarray], config: dict | None = None, shards: int = 1
) -> None:
    """A directory in Hugging Face's layout, in one file or in several with an index."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config or {}))
    if shards == 1:
        save_file(directory / "model.safetensors", tensors)
        return
    place = {n: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, n in
             enumerate(tensors)}  # fmt: skip
    for shard in dict.fromkeys(place.values()):
        save_file(directory / shard, {n: t for n, t in tensors.items() if place[n] == shard})
    index = {"metadata": {}, "weight_map": place}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def save_file(path: Path, tensors: dict[str, np.ndarray]) -> None:
    given = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in tensors.items()]
    write_safetensors(path, given, {"format": "pt"}, overwrite=True)
