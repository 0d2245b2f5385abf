"""A right attention with grouped queries, with every choice an argument, and wrong ones."""

import numpy as np

from lora_ref.layers import causal_mask

HEADS, KV_HEADS, DIM = 6, 2, 32


def softmax(z, allowed, axis=-1):
    """In float64, as an accumulator would; the caller rounds."""
    z = np.where(allowed, z.astype(float), -np.inf)
    top = z.max(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        p = np.exp(z - np.where(np.isfinite(top), top, 0.0))
        return p / p.sum(axis=axis, keepdims=True)


def of(allowed, scale=None, k_head=None, v_head=None, batch=None, backward=None, **change):
    """mine(q, k, v, do): the heads and the batch entry read are functions, None: the right ones."""
    group = HEADS // KV_HEADS
    kh, vh = ([(f or (lambda h: h // group))(h) for h in range(HEADS)] for f in (k_head, v_head))

    def mine(q, k, v, do):
        entries = [(batch or (lambda n: n))(n) for n in range(len(q))]
        seen = allowed(q.shape[2], k.shape[2]) if callable(allowed) else allowed
        c = q.shape[-1] ** -0.5 if scale is None else scale
        K, V = k[entries][:, kh], change.get("values", lambda t: t)(v)[entries][:, vh]
        z = c * (change.get("queries", lambda t: t)(q) @ K.mT)
        p = change.get("weights", softmax)(z, seen).astype(q.dtype)
        found = {"y": change.get("output", lambda o: o)(p @ V)}
        found |= _gradients(q, K, V, do, p, c, group)
        return found if backward is None else {**found, **backward(found, p, q, K, V, do, c)}

    return mine


def _summed(t, group):
    n, _, *rest = t.shape
    return t.reshape(n, -1, group, *rest).sum(axis=2)


def _gradients(q, K, V, do, p, c, group):
    dp = do @ V.mT
    dz = (c * (p * (dp - (dp * p).sum(axis=-1, keepdims=True)))).astype(q.dtype)
    return {"dq": dz @ K, "dk": _summed(dz.mT @ q, group), "dv": _summed(p.mT @ do, group)}


def causal(T, S):
    return causal_mask(T, S, np.ones(1), offset=S - T)


def top_left(T, S):
    return causal_mask(T, S, np.ones(1))


def window(size):
    def allowed(T, S):
        back = np.arange(T)[:, None] + S - T - np.arange(S)
        return (back >= 0) & (back < size)

    return allowed


def with_cell(mask, cell, value):
    def allowed(T, S):
        t = np.array(mask(T, S))
        t[cell] = value
        return t

    return allowed


def shifted(by):
    return lambda T, S: causal_mask(T, S, np.ones(1), offset=S - T + by)


def _tile_diagonal(T, S, tile=16):
    """Whole tiles on the diagonal are seen."""
    return np.arange(S)[None] // tile <= (np.arange(T)[:, None] + S - T) // tile


def _tile_first_row(T, S, tile=16):
    """The first query of each tile sees one more key."""
    t = np.array(causal(T, S))
    for i in range(0, T, tile):
        if i + S - T + 1 < S:
            t[i, i + S - T + 1] = True
    return t


def _without_keys(keys):
    def allowed(T, S):
        t = np.array(causal(T, S))
        t[:, keys(S)] = False
        return t

    return allowed


def _one_head(mask, head):
    """Head `head` sees everything."""

    def allowed(T, S):
        t = np.repeat(mask(T, S)[None], HEADS, axis=0)
        t[head] = True
        return t

    return allowed


SQUARE, CACHED = (37, 37), (21, 37)
MASK_MUTANTS = {
    "no mask": of(lambda T, S: np.ones((T, S), dtype=bool)),
    "one key ahead": of(shifted(1)),
    "itself excluded": of(lambda T, S: shifted(-1)(T, S) | (np.arange(S) == 0)),
    "the next 16 keys leak": of(shifted(16)),
    "whole diagonal tiles seen": of(_tile_diagonal),
    "first row of each tile sees one more": of(_tile_first_row),
    "one masked cell leaks": of(with_cell(causal, (5, 33), True)),
    "the corner cell leaks": of(with_cell(causal, (0, -1), True)),
    "a tile of masked cells leaks": of(with_cell(causal, (slice(0, 4), slice(32, 36)), True)),
    "one allowed cell dropped": of(with_cell(causal, (18, 4), False)),
    "last key dropped": of(_without_keys(lambda S: S - 1)),
    "first key dropped": of(
        lambda T, S: _without_keys(lambda S: 0)(T, S) | np.eye(T, S, dtype=bool)
    ),
    "last part of a tile dropped": of(_without_keys(lambda S: slice(32, None))),
    "a key at a tile's edge dropped": of(_without_keys(lambda S: 16)),
    "one head without mask": of(_one_head(causal, 3)),
    "last head without mask": of(_one_head(causal, HEADS - 1)),
    "mask transposed": of(lambda T, S: causal(T, S).T if T == S else top_left(T, S)),
    "padding counted as a key": of(
        causal,
        weights=lambda z, seen: softmax(
            np.concatenate([z, 0 * z[..., :1]], axis=-1),
            np.concatenate([np.broadcast_to(seen, z.shape), z[..., :1] == z[..., :1]], axis=-1),
        )[..., :-1],
    ),
    "not divided by the sum": of(
        causal,
        weights=lambda z, seen: np.exp(
            np.where(seen, (z - np.where(seen, z, -np.inf).max(-1, keepdims=True)), -np.inf)
        ),
    ),
    "softmax over the queries": of(causal, weights=lambda z, seen: softmax(z, seen, axis=-2)),
    "one more in the denominator": of(
        causal,
        weights=lambda z, seen: (lambda p: p / (1 + p.max(-1, keepdims=True)))(softmax(z, seen)),
    ),
    "last query stale": of(
        causal, output=lambda o: np.concatenate([o[:, :, :-1], o[:, :, -2:-1]], 2)
    ),
}
CACHED_MUTANTS = {
    "triangle at the top left": of(top_left),
    "triangle one key short": of(shifted(-1)),
    "no mask in decoding": of(lambda T, S: np.ones((T, S), dtype=bool)),
    "last key of the cache dropped": of(_without_keys(lambda S: S - 1)),
    "first key of the cache dropped": of(_without_keys(lambda S: 0)),
}
WINDOW_MUTANTS = {
    "window one key too long": of(window(8)),
    "window one key too short": of(window(6)),
    "window ignored": of(causal),
    "window without the causal edge": of(lambda T, S: window(7)(T, S) | ~causal(T, S)),
    "one cell before the window leaks": of(with_cell(window(7), (20, 13), True)),
}
_group = HEADS // KV_HEADS
HEAD_MUTANTS = {
    "h % K for h // (H/K)": of(
        causal, k_head=lambda h: h % KV_HEADS, v_head=lambda h: h % KV_HEADS
    ),
    "h % K for v only": of(causal, v_head=lambda h: h % KV_HEADS),
    "h % K for k only": of(causal, k_head=lambda h: h % KV_HEADS),
    "last head reads head 0": of(
        causal,
        k_head=lambda h: 0 if h == HEADS - 1 else h // _group,
        v_head=lambda h: 0 if h == HEADS - 1 else h // _group,
    ),
    "all heads read head 0": of(causal, k_head=lambda h: 0, v_head=lambda h: 0),
    "key heads reversed": of(
        causal, k_head=lambda h: 1 - h // _group, v_head=lambda h: 1 - h // _group
    ),
    "k heads swapped": of(causal, k_head=lambda h: 1 - h // _group),
    "v heads swapped": of(causal, v_head=lambda h: 1 - h // _group),
    "batch entry 0 for all": of(causal, batch=lambda n: 0),
    "output heads off by one": of(causal, output=lambda o: np.roll(o, 1, axis=1)),
    "query heads off by one": of(causal, queries=lambda q: np.roll(q, 1, axis=1)),
    "last column of q dropped": of(
        causal, queries=lambda q: q * (np.arange(q.shape[-1]) < DIM - 1)
    ),
    "columns of v off by one": of(causal, values=lambda v: np.roll(v, 1, axis=-1)),
    "last column of v zero": of(causal, values=lambda v: v * (np.arange(v.shape[-1]) < DIM - 1)),
    "value of the next key": of(causal, values=lambda v: np.roll(v, 1, axis=-2)),
}
_c = DIM**-0.5
SCALE_MUTANTS = {
    f"scale {name}": of(causal, scale=value)
    for name, value in {
        "missing": 1.0, "root d": DIM**0.5, "1/d": 1 / DIM, "twice applied": _c * _c,
        "doubled": 2 * _c, "halved": _c / 2, "of the model's width": (HEADS * DIM) ** -0.5,
        "times log2 e": _c * np.log2(np.e), "over log2 e": _c * np.log(2), "10 % off": 1.1 * _c,
    }.items()
}  # fmt: skip


def _backward(change):
    return of(causal, backward=change)


def _dz(p, V, do, c, with_mean=True):
    dp = do @ V.mT
    return c * p * (dp - (dp * p).sum(-1, keepdims=True) * with_mean)


GRADIENT_MUTANTS = {
    "dv of each group's first head only": _backward(
        lambda f, p, q, K, V, do, c: {"dv": (p.mT @ do)[:, ::_group]}
    ),
    "dv of each group's last head only": _backward(
        lambda f, p, q, K, V, do, c: {"dv": (p.mT @ do)[:, _group - 1 :: _group]}
    ),
    "dv averaged over the group": _backward(
        lambda f, p, q, K, V, do, c: {"dv": f["dv"] / np.asarray(_group, q.dtype)}
    ),
    "dv summed by h % K": _backward(
        lambda f, p, q, K, V, do, c: {
            "dv": np.stack([(p.mT @ do)[:, i::KV_HEADS].sum(axis=1) for i in range(KV_HEADS)], 1)
        }
    ),
    "p not transposed in dv": _backward(
        lambda f, p, q, K, V, do, c: {"dv": _summed(p @ do, _group)}
    ),
    "dv without the last query": _backward(
        lambda f, p, q, K, V, do, c: {"dv": _summed(p.mT[..., :-1] @ do[:, :, :-1], _group)}
    ),
    "dz without the mean": _backward(
        lambda f, p, q, K, V, do, c: {"dq": _dz(p, V, do, c, False).astype(q.dtype) @ K}
    ),
    "dz without p": _backward(
        lambda f, p, q, K, V, do, c: {"dq": (c * (do @ V.mT)).astype(q.dtype) @ K}
    ),
    "mask left out of the weights recomputed": _backward(
        lambda f, p, q, K, V, do, c: {
            "dv": _summed(softmax(c * (q @ K.mT), True).astype(q.dtype).mT @ do, _group)
        }
    ),
    "weights not recomputed but scores": _backward(
        lambda f, p, q, K, V, do, c: {"dv": _summed((c * (q @ K.mT)).mT @ do, _group)}
    ),
}
