"""Correct implementations of PyTorch, PEFT and JAX, as an author would hand them in."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
F = torch.nn.functional


def to(dtype):
    return lambda t: torch.tensor(t).to(dtype)


def _with_gradients(forward):
    """mine(x, W, b, A, B, s, dy), with gradients by torch.autograd."""

    def mine(x, W, b, A, B, s, dy):
        x, b, A, B = (t.detach().requires_grad_() for t in (x, b, A, B))
        y = forward(x, W, b, A, B, s)
        found = torch.autograd.grad(y, (x, A, B, b), dy)
        return {"y": y, **dict(zip(("dx", "dA", "dB", "db"), found, strict=True))}

    return mine


def _chunked(x, W, b, A, B, s):
    parts = x.split(3)
    return torch.cat([F.linear(t, W, b) + s * F.linear(F.linear(t, A), B) for t in parts])


def _split_k(x, W, b, A, B, s):
    """The inner products in two halves, each stored."""
    half = x.shape[1] // 2
    base = x[:, :half] @ W[:, :half].T + x[:, half:] @ W[:, half:].T
    return base + b + s * ((x[:, :half] @ A[:, :half].T + x[:, half:] @ A[:, half:].T) @ B.T)


def _peft(x, W, b, A, B, s):
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    r, (m, n) = A.shape[0], W.shape
    model = torch.nn.Sequential(torch.nn.Linear(n, m)).to(x.dtype)
    config = peft.LoraConfig(r=r, lora_alpha=s * r, target_modules=["0"])
    layer = peft.get_peft_model(model, config, autocast_adapter_dtype=False).base_model.model[0]
    values = {
        "base_layer.weight": W,
        "base_layer.bias": b,
        "lora_A.default.weight": A,
        "lora_B.default.weight": B,
    }
    return torch.func.functional_call(layer, values, (x,))


LINEAR = {
    name: _with_gradients(forward)
    for name, forward in {
        "eager": lambda x, W, b, A, B, s: F.linear(x, W, b) + s * F.linear(F.linear(x, A), B),
        "scale on x": lambda x, W, b, A, B, s: F.linear(x, W, b) + (s * x) @ A.T @ B.T,
        "scale on B": lambda x, W, b, A, B, s: x @ W.T + (x @ A.T) @ (s * B).T + b,
        "addmm": lambda x, W, b, A, B, s: torch.addmm(F.linear(x, W, b), x @ A.T, B.T, alpha=s),
        "merged": lambda x, W, b, A, B, s: F.linear(x, W + s * (B @ A), b),
        "concatenated": lambda x, W, b, A, B, s: F.linear(
            torch.cat([x, x @ A.T], 1), torch.cat([W, s * B], 1), b
        ),
        "chunked": _chunked,
        "split k": _split_k,
        "PEFT": _peft,
    }.items()
}


def _sdpa(mask, **how):
    def forward(q, k, v):
        given = {"is_causal": True} if mask is None else {"attn_mask": torch.tensor(mask)}
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **given)

    return forward


def _math(mask):
    def forward(q, k, v):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return _sdpa(mask)(q, k, v)

    return forward


def _shared(q, k, v):
    return (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))


def _eager(mask):
    def forward(q, k, v):
        k, v = _shared(q, k, v)
        z = (q @ k.mT) * q.shape[-1] ** -0.5
        return z.masked_fill(~torch.tensor(mask), -torch.inf).softmax(-1) @ v

    return forward


def _additive(mask):
    """As transformers does: the mask is the least number, softmax in float32."""

    def forward(q, k, v):
        k, v = _shared(q, k, v)
        least = torch.finfo(q.dtype).min
        added = torch.where(torch.tensor(mask), 0.0, least).to(q.dtype)
        z = (q @ k.mT) * q.shape[-1] ** -0.5 + added
        return z.softmax(-1, dtype=torch.float32).to(q.dtype) @ v

    return forward


def _scaled_queries(mask):
    def forward(q, k, v):
        k, v = _shared(q, k, v)
        z = (q * q.shape[-1] ** -0.5) @ k.mT
        return z.masked_fill(~torch.tensor(mask), -torch.inf).softmax(-1) @ v

    return forward


def _tiled(mask, tile=16):
    """Online softmax over tiles of keys in base 2, with a running maximum, as flash-attention."""

    def forward(q, k, v):
        k, v = _shared(q, k, v)
        seen, factor = torch.tensor(mask), q.shape[-1] ** -0.5 * 1.4426950408889634
        top = torch.full((*q.shape[:-1], 1), -torch.inf)
        total, o = torch.zeros_like(top), torch.zeros((*q.shape[:-1], v.shape[-1]))
        for first in range(0, k.shape[2], tile):
            cut = slice(first, first + tile)
            z = (q.float() @ k[:, :, cut].float().mT).masked_fill(~seen[:, cut], -torch.inf)
            new = torch.maximum(top, z.amax(-1, keepdim=True))
            safe = torch.where(new == -torch.inf, 0.0, new)
            p, old = torch.exp2(z * factor - safe * factor), torch.exp2((top - safe) * factor)
            total = total * old + p.sum(-1, keepdim=True)
            o, top = o * old + (p.to(q.dtype) @ v[:, :, cut]).float(), new
        return (o / total).to(q.dtype)

    return forward


ATTENTION = {
    "eager": _eager,
    "additive mask": _additive,
    "scaled queries": _scaled_queries,
    "SDPA": _sdpa,
    "SDPA math": _math,
    "tiled": _tiled,
}


def attention(forward, gradients=True):
    """mine(q, k, v, do), with gradients by torch.autograd."""

    def mine(q, k, v, do):
        q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
        o = forward(q, k, v)
        dq, dk, dv = torch.autograd.grad(o, (q, k, v), do)
        return {"y": o, "dq": dq, "dk": dk, "dv": dv} if gradients else o

    return mine
