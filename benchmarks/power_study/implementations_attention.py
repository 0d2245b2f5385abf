"""Attention by PyTorch: eager, as transformers writes it, SDPA's kernels, and tiled by hand.

Grouped heads, masks and rotary embedding are those of the case. Masks are boolean, True for what
may be attended to; every query has a key.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .cases import Case
from .dtypes import to_torch
from .implementation import Implementation, Outputs, registry, wide
from .torch_tools import DEVICE, Leaves, by_autograd, outputs, tensors

LEAVES = "q k v"
found, add = registry("attention")


def factor(case: Case) -> float:
    """The scale of the scores, 1/√d unless the case has its own."""
    given = case.static["scale"]
    return case["q"].shape[-1] ** -0.5 if given is None else float(given)


def mask_of(case: Case) -> Tensor | None:
    """The case's mask as a tensor."""
    seen = case.visible
    return None if seen is None else to_torch(seen, case.dtype, DEVICE)


def rotated(t: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    """Pairs of columns turned by their angle: (j, j + d/2), or (2j, 2j + 1)."""
    if halves:
        a, b = t.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    a, b = t[..., 0::2], t[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


def queries_and_keys(case: Case, t: Leaves) -> tuple[Tensor, Tensor]:
    """q and k as the scores take them: rotated, where the case says so."""
    rope = case.static["rope"]
    if rope is None:
        return t.q, t.k
    q = rotated(t.q, t.q_cos, t.q_sin, rope.halves)
    return q, rotated(t.k, t.k_cos, t.k_sin, rope.halves)


def repeated(t: Tensor, q: Tensor) -> Tensor:
    """(K, S, d) as (H, S, d): one head for each group of heads of q."""
    return t.repeat_interleave(q.shape[0] // t.shape[0], dim=0)


def masked(z: Tensor, mask: Tensor | None) -> Tensor:
    """Scores with −inf where nothing may be attended to."""
    return z if mask is None else z.masked_fill(~mask, float("-inf"))


def _adder(name: str, **fields: object):
    """Decorator: a forward of q, k, v (repeated to all heads), with autograd's backward."""

    def decorate(forward: Callable[..., Tensor]):
        def whole(case: Case, t: Leaves) -> Tensor:
            q, k = queries_and_keys(case, t)
            return forward(case, q, repeated(k, q), repeated(t.v, q))

        add(name, **fields)(by_autograd(whole, LEAVES))
        return forward

    return decorate


@_adder("eager, autograd")
def _eager(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(masked(q @ k.mT * factor(case), mask_of(case)), dim=-1) @ v


@_adder("scale on q, autograd")
def _scale_on_q(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(masked((factor(case) * q) @ k.mT, mask_of(case)), dim=-1) @ v


@_adder("softmax in float32, as transformers")
def _softmax_in_float32(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    z = masked(torch.matmul(q, k.transpose(2, 1)) * factor(case), mask_of(case))
    return functional.softmax(z, dim=-1, dtype=torch.float32).to(q.dtype) @ v


@_adder("SDPA")
def _sdpa(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    attend = functional.scaled_dot_product_attention
    return attend(q[None], k[None], v[None], mask_of(case), scale=factor(case))[0]


@_adder("SDPA, math backend", every=2)
def _sdpa_math(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel([SDPBackend.MATH]):
        return _sdpa(case, q, k, v)


@add("SDPA, its own groups and rotation", every=2)
def sdpa_grouped(case: Case) -> Outputs:
    """PyTorch repeats the heads itself."""

    def forward(case: Case, t: Leaves) -> Tensor:
        (q, k), attend = queries_and_keys(case, t), functional.scaled_dot_product_attention
        mask = mask_of(case)
        many = (q[None], k[None], t.v[None])
        return attend(*many, mask, scale=factor(case), enable_gqa=True)[0]

    return by_autograd(forward, LEAVES)(case)


def unrotated(case: Case) -> bool:
    """Backwards by hand leave rotation to autograd."""
    return case.static["rope"] is None


def summed(t: Tensor, like: Tensor) -> Tensor:
    """(H, S, d) summed over each group of heads."""
    return t.reshape(like.shape[0], -1, *t.shape[1:]).sum(1)


@add("eager, backward by hand", applies=unrotated)
def by_hand(case: Case) -> Outputs:
    """The formulas of the layer's page, with D from dp and p."""
    return _by_hand(case, tensors(case), lambda dp, p, do, o: (dp * p).sum(-1, keepdim=True))


@add("eager, D from do and o", applies=unrotated, every=2)
def by_hand_from_output(case: Case) -> Outputs:
    """The same with flash-attention's D."""
    return _by_hand(case, tensors(case), lambda dp, p, do, o: (do * o).sum(-1, keepdim=True))


@add("float32 inside, one rounding at the end", applies=unrotated, contract=wide)
def inside(case: Case) -> Outputs:
    """The same from the exact inputs in float32."""
    t = tensors(case, "float32")
    return _by_hand(case, t, lambda dp, p, do, o: (dp * p).sum(-1, keepdim=True))


def _by_hand(case: Case, t: Leaves, row_dot: Callable[..., Tensor]) -> Outputs:
    c, k, v = factor(case), repeated(t.k, t.q), repeated(t.v, t.q)
    p = torch.softmax(masked(c * (t.q @ k.mT), mask_of(case)), dim=-1)
    o, dp = p @ v, t.dy @ v.mT
    dz = c * (p * (dp - row_dot(dp, p, t.dy, o)))
    dk, dv = summed(dz.mT @ t.q, t.k), summed(p.mT @ t.dy, t.v)
    return outputs(case, y=o, dq=dz @ k, dk=dk, dv=dv)


@add("tiled: online softmax, weights again in the backward", applies=unrotated)
def tiled(case: Case) -> Outputs:
    """Sixteen keys at a time; scores and sums in float32, weights rounded for the products."""
    t, c, dtype = tensors(case), factor(case), getattr(torch, case.dtype)
    q, k, v, do = t.q.float(), repeated(t.k, t.q).float(), repeated(t.v, t.q).float(), t.dy.float()
    tiles = [slice(j, j + 16) for j in range(0, k.shape[1], 16)]
    mask = mask_of(case)

    def scores(tile: slice) -> Tensor:
        return masked(c * (q @ k[:, tile].mT), None if mask is None else mask[:, tile])

    o, log_sum = _online(scores, tiles, v, dtype)
    o = o.to(dtype).float()
    D = (do * o).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for tile in tiles:
        p = torch.exp(scores(tile) - log_sum)
        dv[:, tile] = p.to(dtype).float().mT @ do
        dz = (p * (do @ v[:, tile].mT - D)).to(dtype).float()
        dk[:, tile] = c * (dz.mT @ q)
        dq += c * (dz @ k[:, tile])
    dk, dv = (summed(d.to(dtype), like) for d, like in ((dk, t.k), (dv, t.v)))
    return outputs(case, y=o, dq=dq, dk=dk, dv=dv)


def _online(
    scores: Callable[[slice], Tensor], tiles: list[slice], v: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """o in float32 and the logsumexp of each row, from running maxima and sums."""
    first = scores(tiles[0])
    shape = (*first.shape[:-1], 1)
    top, total = first.new_full(shape, float("-inf")), first.new_zeros(shape)
    o = first.new_zeros((*first.shape[:-1], v.shape[-1]))
    for tile in tiles:
        z = scores(tile)
        higher = torch.maximum(top, z.amax(-1, keepdim=True))
        safe = torch.where(higher == float("-inf"), 0.0, higher)
        p, shrink = torch.exp(z - safe), torch.exp(top - safe)
        total = shrink * total + p.sum(-1, keepdim=True)
        o = shrink * o + p.to(dtype).float() @ v[:, tile]
        top = higher
    return o / total, top + torch.log(total)


IMPLEMENTATIONS: tuple[Implementation, ...] = tuple(found)
