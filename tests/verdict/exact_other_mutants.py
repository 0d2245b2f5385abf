"""Right and wrong mixed batches, DoRA layers, embeddings and fused projections."""

import numpy as np

from lora_ref.adapters.fused_qkv import block_rows


def mixed(x, W, b, A, B, s, chosen, dy):
    y, dx = x @ W.T + b, dy @ W
    dA, dB = np.zeros(A.shape, x.dtype), np.zeros(B.shape, x.dtype)
    for t, e in enumerate(chosen):
        if e < 0:
            continue
        u, du = A[e] @ x[t], s[e] * (B[e].T @ dy[t])
        y[t] += s[e] * (B[e] @ u)
        dx[t] += du @ A[e]
        dA[e] += np.outer(du, x[t])
        dB[e] += s[e] * np.outer(dy[t], u)
    return {"y": y, "dx": dx, "dA": dA, "dB": dB}


def choosing(change):
    def mine(x, W, b, A, B, s, chosen, dy):
        return mixed(x, W, b, A, B, s, change(np.array(chosen)), dy)

    return mine


def factors(change):
    def mine(x, W, b, A, B, s, chosen, dy):
        return {"y": mixed(x, W, b, *change(A, B, s), chosen, dy)["y"]}

    return mine


def gradient(change):
    def mine(*arguments):
        found = mixed(*arguments)
        return {**found, **change(found, arguments)}

    return mine


def _one_token(chosen):
    chosen[5] = (chosen[5] + 2) % 4
    return chosen


def _expert_fastest(B):
    """(E, m, r) flattened expert slowest to (m, E r) and read as expert fastest."""
    count, m, r = B.shape
    flat = np.moveaxis(B, 0, 1).reshape(m, count * r)
    return np.moveaxis(flat.reshape(m, r, count), -1, 0)


MIXED_MUTANTS = {
    "adapter": {
        "wrong adapter on one token": choosing(_one_token),
        "none is adapter 0": choosing(lambda c: np.maximum(c, 0)),
        "none is the last adapter": choosing(lambda c: c % 4),
        "the first token's adapter for all": choosing(lambda c: np.full_like(c, c[0])),
        "adapters shifted by one token": choosing(lambda c: np.roll(c, 1)),
        "sorted and not put back": choosing(np.sort),
        "last token without adapter": choosing(lambda c: np.where(np.arange(len(c)) < 18, c, -1)),
        "the last adapter unused": choosing(lambda c: np.where(c == 3, -1, c)),
        "B of the next adapter": factors(lambda A, B, s: (A, np.roll(B, 1, axis=0), s)),
        "scale of adapter 0 for all": factors(lambda A, B, s: (A, B, np.full_like(s, s[0]))),
        "factors of other adapters leak": factors(lambda A, B, s: (A + 0 * A[:1] + A[1:2], B, s)),
        "B with experts fastest": factors(lambda A, B, s: (A, _expert_fastest(B), s)),
        "dA into the wrong adapter": gradient(lambda f, a: {"dA": np.roll(f["dA"], 1, axis=0)}),
        "dB without the last token": gradient(
            lambda f, a: {"dB": mixed(*a[:6], np.append(a[6][:-1], -1), a[7])["dB"]}
        ),
        "dx without adapters": gradient(lambda f, a: {"dx": a[7] @ a[1]}),
    }
}


def dora(x, W, b, A, B, m, s, dy):
    return dora_by(lambda W, V, m: m / _norm(V))(x, W, b, A, B, m, s, dy)


def _norm(V, axis=1):
    return np.sqrt(np.sum(V * V, axis=axis))


def dora_by(gain):
    def mine(x, W, b, A, B, m, s, dy):
        V = W + s * (B @ A)
        return (x @ V.T) * gain(W, V, m) + b

    return mine


DORA_MUTANTS = {
    "dora": {
        "norm of W": dora_by(lambda W, V, m: m / np.maximum(_norm(W), 0.5)),
        "norm over the outputs if square": dora_by(
            lambda W, V, m: m / (_norm(V, 0) if V.shape[0] == V.shape[1] else _norm(V))
        ),
        "magnitude dropped": dora_by(lambda W, V, m: 1.0),
        "magnitude for m / norm": dora_by(lambda W, V, m: m),
        "magnitude twice": dora_by(lambda W, V, m: m * m / _norm(V)),
        "norm squared": dora_by(lambda W, V, m: m / _norm(V) ** 2),
        "magnitudes off by one": dora_by(lambda W, V, m: np.roll(m, 1) / _norm(V)),
        "scale missing": lambda x, W, b, A, B, m, s, dy: dora(x, W, b, A, B, m, 1.0, dy),
        "bias scaled too": lambda x, W, b, A, B, m, s, dy: (
            dora(x, W, 0 * b, A, B, m, s, dy) + m / _norm(W + s * (B @ A)) * b
        ),
        "base not scaled": lambda x, W, b, A, B, m, s, dy: (
            x @ W.T + m / _norm(W + s * (B @ A)) * (s * (x @ A.T @ B.T)) + b
        ),
        "update not scaled": lambda x, W, b, A, B, m, s, dy: (
            m / _norm(W + s * (B @ A)) * (x @ W.T) + s * (x @ A.T @ B.T) + b
        ),
    }
}


def table(ids, E, A, B, s, dy):
    U = A[:, ids].T
    dA = np.zeros(A.shape, E.dtype)
    np.add.at(dA.T, ids, s * (dy @ B))
    return {"y": E[ids] + s * (U @ B.T), "dA": dA, "dB": s * (dy.T @ U)}


def _overwritten(ids, E, A, B, s, dy):
    dA = np.zeros(A.shape, E.dtype)
    dA.T[ids] = s * (dy @ B)
    return {**table(ids, E, A, B, s, dy), "dA": dA}


def _padded(ids, E, A, B, s, dy):
    y = table(ids, E, A, B, s, dy)["y"]
    return np.where((ids == 0)[:, None], 0, y)


EMBEDDING_MUTANTS = {
    "embedding": {
        "no scale": lambda ids, E, A, B, s, dy: table(ids, E, A, B, 1.0, dy),
        "adapter twice": lambda ids, E, A, B, s, dy: table(ids, E, A, B, 2 * s, dy)["y"],
        "ids off by one in A": lambda ids, E, A, B, s, dy: (
            E[ids] + s * (np.roll(A, 1, axis=1)[:, ids].T @ B.T)
        ),
        "repeated ids overwrite": _overwritten,
        "id 0 is padding": _padded,
        "last id without update": lambda ids, E, A, B, s, dy: np.where(
            (ids == len(E) - 1)[:, None], E[ids], table(ids, E, A, B, s, dy)["y"]
        ),
        "B transposed if square": lambda ids, E, A, B, s, dy: table(
            ids, E, A, B.T if B.shape[0] == B.shape[1] else B, s, dy
        )["y"],
    }
}


def fused(x, W, factors, layout, dy):
    y = x @ W.T
    for factor, runs in zip(factors, layout, strict=True):
        if factor is not None:
            A, B, s = factor
            rows = [row for run in runs for row in run]
            y[:, rows] += s * (x @ A.T @ B.T)
    return y


def _other_parts(order):
    return lambda x, W, f, layout, dy: fused(x, W, tuple(f[i] for i in order), layout, dy)


FUSED_MUTANTS = {
    "layout": {
        "blocks for interleaved": lambda x, W, f, layout, dy: fused(
            x, W, f, block_rows(2, 2, 3), dy
        ),
        "q and v exchanged": _other_parts([2, 1, 0]),
        "v's update on k": _other_parts([0, 2, 1]),
        "q's update on k as well": lambda x, W, f, layout, dy: fused(
            x, W, (f[0], f[0], f[2]), layout, dy
        ),
        "v without update": lambda x, W, f, layout, dy: fused(x, W, (f[0], None, None), layout, dy),
        "parts rolled by one row": lambda x, W, f, layout, dy: (
            x @ W.T + np.roll(fused(x, 0 * W, f, layout, dy), 1, axis=1)
        ),
        "one scale for all": lambda x, W, f, layout, dy: fused(
            x, W, tuple(p and (*p[:2], f[0][2]) for p in f), layout, dy
        ),
    }
}
