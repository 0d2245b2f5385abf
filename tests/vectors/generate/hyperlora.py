"""Golden vectors of five hypernetworks for LoRA: ../hyperlora.json + .safetensors.

None of the five is a package. Each case is a torch module written for this script, which computes
what the named file of the named repository computes at the named commit, in float64, small, with
dropout left out. Two of the five are JAX there. Values and all gradients are torch's autograd.

    python tests/vectors/generate/hyperlora.py
"""

from importlib.metadata import version
from typing import Any

import torch
from minilm import VECTORS, write_json
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


class Dialect(nn.Module):
    """The condition with the layer's number behind it, a ReLU network for each factor."""

    def __init__(self, k: int, h: int, n: int, m: int, r: int, index: int) -> None:
        super().__init__()
        self.n, self.m, self.r, self.index = n, m, r, index
        self.pre_down, self.down = nn.Linear(k + 1, h), nn.Linear(h, n * r)
        self.pre_up, self.up = nn.Linear(k + 1, h), nn.Linear(h, r * m)

    def forward(self, c: Tensor, x: Tensor, W: Tensor) -> Tensor:
        z = functional.pad(c, (0, 1), value=self.index)
        A = self.down(functional.relu(self.pre_down(z))).reshape(self.n, self.r)
        B = self.up(functional.relu(self.pre_up(z))).reshape(self.r, self.m) / self.r**0.5
        return x @ W.T + x @ A @ B


class Portrait(nn.Module):
    """Tokens of several references, their mean at length one, mixing a layer's two bases."""

    def __init__(self, k: int, n: int, m: int, r: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.down_basis = nn.Parameter(torch.empty(k, n, r))
        self.up_basis = nn.Parameter(torch.empty(k, r, m))

    def forward(self, c: Tensor, x: Tensor, W: Tensor) -> Tensor:
        tokens = torch.mean(c, dim=0, keepdim=True)
        tokens = tokens * (tokens.pow(2.0).sum(dim=-1, keepdim=True) + 1e-8).rsqrt()
        own = tokens[:, 2 * self.layer : 2 * self.layer + 2]
        down = torch.einsum("bi,ijk->bjk", own[:, 0], self.down_basis)[0].T
        up = torch.einsum("bi,ijk->bjk", own[:, 1], self.up_basis)[0].T
        alpha = 0.5 * down.shape[0]
        return x @ W.T + (alpha / down.shape[0]) * (x @ down.T @ up.T)


class Description(nn.Module):
    """A vector for each rank component of each layer; per-example kernels, inputs first."""

    def __init__(self, k: int, h: int, n: int, m: int, r: int, layer: int, alpha: float) -> None:
        super().__init__()
        self.n, self.m, self.r, self.layer, self.alpha = n, m, r, layer, alpha
        self.a_wi, self.a_wo = nn.Linear(k, h, bias=False), nn.Linear(h, n, bias=False)
        self.b_wi, self.b_wo = nn.Linear(k, h, bias=False), nn.Linear(h, m, bias=False)

    def forward(self, c: Tensor, x: Tensor, W: Tensor) -> Tensor:
        own, width, examples = c[:, self.layer], c.shape[-1] ** 0.5, c.shape[0]
        A = self.a_wo(functional.gelu(self.a_wi(own[:, : self.r]), approximate="tanh"))
        B = self.b_wo(functional.gelu(self.b_wi(own[:, self.r :]), approximate="tanh"))
        A = A.reshape(examples, self.n, self.r) / width
        B = B.reshape(examples, self.r, self.m) / width
        return torch.bmm(x, W.T + torch.bmm(A, B) * (self.alpha / self.r))


class Agents(nn.Module):
    """Dense heads, both factors scaled and clipped, one adapter for each agent."""

    def __init__(self, k: int, n: int, m: int, r: int, scale: float, bound: float) -> None:
        super().__init__()
        self.n, self.m, self.r, self.scale, self.bound = n, m, r, scale, bound
        self.A, self.B = nn.Linear(k, r * n), nn.Linear(k, m * r)

    def forward(self, c: Tensor, x: Tensor, W: Tensor) -> Tensor:
        limits = (-self.bound, self.bound)
        A = torch.clip(self.A(c).reshape(-1, self.r, self.n) * self.scale, *limits)
        B = torch.clip(self.B(c).reshape(-1, self.m, self.r) * self.scale, *limits)
        return x @ W.T + torch.einsum("btr,bor->bto", torch.einsum("bti,bri->btr", x, A), B)


def _maps(inner: int, hidden: int, outer: int) -> list[nn.Module]:
    return [nn.Linear(inner, hidden), nn.SiLU(), nn.Linear(hidden, outer), nn.SiLU()]


class Text(nn.Module):
    """A text's vector, a depth and a kind of module through four small networks and a head."""

    def __init__(self, sizes: dict[str, int], layer: tuple[int, int], alpha: float) -> None:
        super().__init__()
        self.sizes, self.layer, self.alpha = sizes, layer, alpha
        k, e, f = sizes["k"], sizes["e"], sizes["f"]
        self.task = nn.Sequential(nn.Linear(sizes["d"], k), nn.LayerNorm(k))
        self.depth = nn.Sequential(nn.Embedding(sizes["layers"], e), nn.LayerNorm(e))
        self.kind = nn.Sequential(nn.Embedding(sizes["kinds"], f), nn.LayerNorm(f))
        z, h = k + e + f, sizes["h"]
        self.mixer = nn.Sequential(*_maps(z, h, z))
        self.mlp1 = nn.Sequential(nn.LayerNorm(z), *_maps(z, h, z))
        self.mlp2 = nn.Sequential(nn.LayerNorm(z), *_maps(z, h, z))
        self.mlp3 = nn.Sequential(nn.LayerNorm(z), *_maps(z, h, sizes["head"]))
        self.head = nn.Linear(sizes["head"], sizes["r"] * (sizes["n"] + sizes["m"]))

    def forward(self, c: Tensor, x: Tensor, W: Tensor) -> Tensor:
        r, n, m, examples = *(self.sizes[t] for t in "rnm"), c.shape[0]
        depth = self.depth(torch.tensor([self.layer[0]])).expand(examples, -1)
        kind = self.kind(torch.tensor([self.layer[1]])).expand(examples, -1)
        h = self.mixer(torch.cat([self.task(c), depth, kind], dim=-1))
        h = h + self.mlp1(h)
        h = self.mlp3(h + self.mlp2(h))
        flat_A, flat_B = torch.split(self.head(h), [r * n, r * m], dim=-1)
        A, B = flat_A.reshape(examples, r, n), flat_B.reshape(examples, r, m)
        return x @ W.T + torch.bmm(torch.bmm(x, A.mT), B) * (self.alpha / r)


SIZES = {"d": 5, "k": 4, "e": 3, "f": 3, "h": 8, "head": 6, "r": 2, "n": 7, "m": 5}
TEXT = {"sizes": SIZES | {"layers": 3, "kinds": 2}, "layer": (2, 1), "alpha": 5.0}
# module, its options, the shapes of c, x and W, repository, commit, files, reason
CASES: dict[str, tuple[type[nn.Module], dict[str, Any], list[tuple[int, ...]], list[str], str]] = {
    "dialect": (
        Dialect,
        {"k": 4, "h": 6, "n": 7, "m": 5, "r": 3, "index": 3},
        [(4,), (2, 3, 7), (5, 7)],
        [
            "zedian/hyperlora",
            "82924793f6d665bdafb85a3c2c9f79440228f68d",
            "src/model_utils.py, src/hypernet_utils.py, src/hyperlora.py",
        ],
        "the layer's number as a feature, A read as (n, r), B divided by √r, no α",
    ),
    "portrait": (
        Portrait,
        {"k": 4, "n": 7, "m": 5, "r": 2, "layer": 1},
        [(3, 6, 4), (2, 3, 7), (5, 7)],
        [
            "bytedance/ComfyUI-HyperLoRA",
            "feb11bedcb5f965085dd8e52862dadd9fe456df9",
            "hyperlora/modules.py, hyperlora/nodes.py",
        ],
        "bases for each layer, the mean of three references at length one, s = 1/2",
    ),
    "description": (
        Description,
        {"k": 4, "h": 6, "n": 7, "m": 5, "r": 3, "layer": 1, "alpha": 2.0},
        [(4, 2, 6, 4), (4, 3, 7), (5, 7)],
        [
            "allenai/hyper-task-descriptions",
            "fd86a43ac2131582548130d86d57ea977c804ab6",
            "hyper_task_descriptions/modeling/hyper_network.py, layers.py, lora.py",
        ],
        "a vector for each component, rows read as columns for A, kernels per example",
    ),
    "agents": (
        Agents,
        {"k": 4, "n": 7, "m": 5, "r": 3, "scale": 0.75, "bound": 1.0},
        [(4, 4), (4, 3, 7), (5, 7)],
        [
            "Svar7769/HyperLoRA",
            "dc8d1aa129104219da68db1a19a8cde249eb673f",
            "hypernetwork.py, lora_policy.py",
        ],
        "the scale on both factors and clipping; the bound, 1000 there, such that it is met",
    ),
    "text": (
        Text,
        TEXT,
        [(4, 5), (4, 3, 7), (5, 7)],
        [
            "SakanaAI/text-to-lora",
            "8ba77493eb8c732bac41c22ca76117dcacfcf2a4",
            "src/hyper_llm_modulator/hyper_modulator.py, hooks.py",
        ],
        "encoder, tables with norms, four networks, a head with rank before outputs, per example",
    ),
}


def run_case(
    build: type[nn.Module], options: dict[str, Any], shapes: list[Any], draw: torch.Generator
) -> dict[str, Tensor]:
    """Every array of one case by name."""
    module = build(**options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    c, x, W = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    c.requires_grad_()
    x.requires_grad_()
    y = module(c, x, W)
    dy = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    y.backward(dy)
    arrays = {"c": c, "x": x, "W": W, "y": y, "dy": dy, "d_c": c.grad, "d_x": x.grad}
    for name, parameter in module.named_parameters():
        arrays |= {f"theta/{name}": parameter, f"d_theta/{name}": parameter.grad}
    return {name: t.detach().clone() for name, t in arrays.items()}


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    arrays: dict[str, Tensor] = {}
    described = {}
    for seed, (name, (build, options, shapes, source, reason)) in enumerate(CASES.items()):
        found = run_case(build, options, shapes, torch.Generator().manual_seed(3000 + seed))
        described[name] = {
            "reason": reason,
            "follows": dict(zip(("repository", "commit", "files"), source, strict=True)),
            "config": options,
            "arrays": sorted(found),
        }
        arrays |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
    save_file(arrays, VECTORS / "hyperlora.safetensors")
    head = {
        "source": "modules of this script, equivalent to the files that each case follows",
        "version": {"torch": version("torch")},
        "command": "python tests/vectors/generate/hyperlora.py",
        "reason": "our reading of five public hypernetworks for LoRA, values and gradients",
        "cases": described,
    }
    write_json(VECTORS / "hyperlora.json", head)


if __name__ == "__main__":
    main()
