"""Wrong dq and dk, which are 0 in one-hot attention whatever the mistake."""

import numpy as np
from exact_attention_mutants import HEADS, KV_HEADS, causal, of, softmax

_group = HEADS // KV_HEADS


def _weights(q, K, V, do, p, c, D=None):
    """p ∘ (dp − D), scaled."""
    dp = do @ V.mT
    D = (dp * p).sum(-1, keepdims=True) if D is None else D(dp, p)
    return (c * (p * (dp - D))).astype(q.dtype)


def _summed(t):
    n, _, *rest = t.shape
    return t.reshape(n, KV_HEADS, _group, *rest).sum(axis=2)


def _both(dz, q, K):
    return {"dq": dz @ K, "dk": _summed(dz.mT @ q)}


def _mutant(change):
    """`change(found, dz, q, K, V, do, p, c)` gives the wrong gradients."""
    return of(
        causal,
        backward=lambda f, p, q, K, V, do, c: change(
            f, _weights(q, K, V, do, p, c), q, K, V, do, p, c
        ),
    )


def _times(name, factor):
    return _mutant(
        lambda f, dz, q, K, V, do, p, c: {name: f[name] * np.asarray(factor(c, q), q.dtype)}
    )


def _row_dots(D):
    return _mutant(lambda f, dz, q, K, V, do, p, c: _both(_weights(q, K, V, do, p, c, D), q, K))


def _unmasked(f, dz, q, K, V, do, p, c):
    everywhere = softmax(c * (q @ K.mT), True).astype(q.dtype)
    return {"dk": _summed(_weights(q, K, V, do, everywhere, c).mT @ q)}


SIZE_MUTANTS = {
    "dq without the scale": _times("dq", lambda c, q: 1 / c),
    "dk without the scale": _times("dk", lambda c, q: 1 / c),
    "dq with the scale twice": _times("dq", lambda c, q: c),
    "dk with the scale twice": _times("dk", lambda c, q: c),
    "dq scaled by 1/d": _times("dq", lambda c, q: 1 / (q.shape[-1] * c)),
    "dk scaled by 1/d": _times("dk", lambda c, q: 1 / (q.shape[-1] * c)),
    "dq averaged over the keys": _times("dq", lambda c, q: 1 / q.shape[-2]),
    "dq with the wrong sign": _times("dq", lambda c, q: -1),
    "D left out": _row_dots(lambda dp, p: 0 * dp[..., :1]),
    "D of the row before": _row_dots(lambda dp, p: np.roll((dp * p).sum(-1, keepdims=True), 1, 2)),
    "D of the head before": _row_dots(lambda dp, p: np.roll((dp * p).sum(-1, keepdims=True), 1, 1)),
    "D not weighed by p": _row_dots(lambda dp, p: dp.mean(-1, keepdims=True)),
    "not multiplied by p": _mutant(
        lambda f, dz, q, K, V, do, p, c: _both(_weights(q, K, V, do, p**0, c), q, K)
    ),
    "dk of the first head of each group": _mutant(
        lambda f, dz, q, K, V, do, p, c: {"dk": (dz.mT @ q)[:, ::_group]}
    ),
    "dk averaged over the group": _times("dk", lambda c, q: 1 / _group),
    "dq and dk exchanged": _mutant(
        lambda f, dz, q, K, V, do, p, c: {
            "dq": np.repeat(f["dk"], _group, axis=1),
            "dk": f["dq"][:, ::_group],
        }
    ),
    "dz not transposed in dk": _mutant(
        lambda f, dz, q, K, V, do, p, c: {"dk": _summed(dz @ q)}
    ),
    "last query left out of dk": _mutant(
        lambda f, dz, q, K, V, do, p, c: {"dk": _summed(dz[:, :, :-1].mT @ q[:, :, :-1])}
    ),
    "last key left out of dq": _mutant(
        lambda f, dz, q, K, V, do, p, c: {"dq": dz[..., :-1] @ K[:, :, :-1]}
    ),
    "dk of masked keys": _mutant(_unmasked),
    "dk by values instead of queries": _mutant(
        lambda f, dz, q, K, V, do, p, c: {"dk": _summed(dz.mT @ V)}
    ),
}  # fmt: skip
