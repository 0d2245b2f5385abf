"""The other half of the table: bugs of the base, of extent, of experts, copies, and of the file."""

import ml_dtypes
import numpy as np
from models import BFLOAT16, P
from mutations import (
    DOWN,
    EMBED,
    NORM,
    Q0,
    Q1,
    UP,
    V0,
    Bench,
    F,
    mutation,
)  # fmt: skip
from quantizers import QUANTIZERS

EXPERT = "layers.0.experts.gate_up_proj"


def _quantized(name: str, row: str) -> None:
    def apply(b: Bench) -> None:
        for n in (Q0, DOWN):
            b.store(n, QUANTIZERS[name](b.W(n)) + b.delta(n))

    named = f"base quantized and dequantized ({name})"
    mutation(f"merged onto the base through {name}", named, row)(apply)


for _name in QUANTIZERS:
    _quantized(_name, "Q5" if "double" not in _name else "Q5, Q7")


@mutation("base through float8 e4m3", "base quantized and dequantized (float8 e4m3)", "Q5")
def _(b: Bench) -> None:
    W = b.W(Q0).astype(ml_dtypes.float8_e4m3fn).astype(F)
    b.store(Q0, W + b.delta(Q0))


@mutation("saved the dequantized base without the update", "not applied, and base quantized…",
          "Q5, Q11")  # fmt: skip
def _(b: Bench) -> None:
    b.store(Q0, QUANTIZERS["NF4, blocks of 64"](b.W(Q0)))


@mutation("base of another layer", "another tensor's base", "Q11")
def _(b: Bench) -> None:
    b.store(Q0, b.W(Q1) + b.delta(Q0))


@mutation("another model as the base", "another base", "Q11")
def _(b: Bench) -> None:
    for n in b.some():
        W = b.W(n)
        b.store(n, b.rng.normal(size=W.shape).astype(F) * W.std() + b.delta(n))


@mutation("a base that was trained on", "another base", "Q11")
def _(b: Bench) -> None:
    for n in b.some():
        W = b.W(n)
        b.store(n, W + b.rng.normal(size=W.shape).astype(F) * W.std() * F(0.1) + b.delta(n))


@mutation("base left out", "base left out", "Q11")
def _(b: Bench) -> None:
    b.store(Q0, b.delta(Q0))


@mutation("base twice", "base scaled", "Q11")
def _(b: Bench) -> None:
    b.store(Q0, 2 * b.W(Q0) + b.delta(Q0))


@mutation("zeros", "zeros", "Q11")
def _(b: Bench) -> None:
    b.store(Q0, 0 * b.W(Q0))


@mutation("another adapter of the same rank", "another adapter", "S16")
def _(b: Bench) -> None:
    for n in (Q0, DOWN):
        A, B, s = b.factors(n)
        A, B = (b.rng.permutation(t.reshape(-1)).reshape(t.shape) for t in (A, B))
        b.store(n, b.W(n) + F(s) * (B @ A))


@mutation("an earlier checkpoint of the adapter", "another adapter", "Q17")
def _(b: Bench) -> None:
    for n in b.some():
        A, B, s = b.factors(n)
        B = B * F(0.6) + b.rng.normal(size=B.shape).astype(F) * B.std() * F(0.5)
        b.store(n, b.W(n) + F(s) * (B @ A))


@mutation("a second adapter merged besides", "another update besides", "S16")
def _(b: Bench) -> None:
    for n in (Q0, DOWN):
        A, B, s = b.factors(n)
        A, B = (b.rng.permutation(t.reshape(-1)).reshape(t.shape) for t in (A, B))
        b.store(n, b.W(n) + b.delta(n) + F(s) * (B @ A))


# Extent


@mutation("first third of the rows left out", "not applied to some rows", "Q17")
def _(b: Bench) -> None:
    D = b.delta(UP)
    D[: len(D) // 3] = 0
    b.store(UP, b.W(UP) + D)


@mutation("last column left out", "not applied to some columns")
def _(b: Bench) -> None:
    D = b.delta(UP)
    D[:, -1] = 0
    b.store(UP, b.W(UP) + D)


@mutation("last row left out", "not applied to some rows")
def _(b: Bench) -> None:
    D = b.delta(UP)
    D[-1] = 0
    b.store(UP, b.W(UP) + D)


@mutation("half of the rows twice", "other multiple in some rows", "C14")
def _(b: Bench) -> None:
    D = b.delta(UP)
    D[: len(D) // 2] *= 2
    b.store(UP, b.W(UP) + D)


@mutation("last rank component missing", "rank truncated")
def _(b: Bench) -> None:
    A, B, s = b.factors(UP)
    b.store(UP, b.W(UP) + F(s) * (B[:, :-1] @ A[:-1]))


@mutation("only the first rank component", "rank truncated")
def _(b: Bench) -> None:
    A, B, s = b.factors(UP)
    b.store(UP, b.W(UP) + F(s) * (B[:, :1] @ A[:1]))


@mutation("one element overwritten", "some elements overwritten")
def _(b: Bench) -> None:
    M = b.again(UP)
    M[3, 5] += 1
    b.store(UP, M)


@mutation("one row overwritten", "some elements overwritten")
def _(b: Bench) -> None:
    M = b.again(UP)
    M[7] = M[8]
    b.store(UP, M)


@mutation("a block of rows zero", "some elements overwritten")
def _(b: Bench) -> None:
    M = b.again(UP)
    M[8:16] = 0
    b.store(UP, M)


@mutation("rows moved on by one", "whole rows permuted…")
def _(b: Bench) -> None:
    b.store(UP, np.roll(b.again(UP), 1, axis=0))


@mutation("NaN in one element", "not finite")
def _(b: Bench) -> None:
    M = b.again(UP)
    M[2, 2] = np.nan
    b.store(UP, M)


@mutation("inf in one element", "not finite")
def _(b: Bench) -> None:
    M = b.again(UP)
    M[2, 2] = np.inf
    b.store(UP, M)


# Tensors that the adapter leaves alone, and the file


@mutation("an update where none belongs", "adapted by mistake")
def _(b: Bench) -> None:
    del b.case.targets[Q1]
    for key in [k for k in b.case.adapter if "layers.1.self_attn.q_proj" in k]:
        del b.case.adapter[key]
    b.store(Q1, b.W(Q1) + b.delta(Q0))


@mutation("the embedding trained and saved", "changed that should not")
def _(b: Bench) -> None:
    W = b.W(EMBED)
    b.store(EMBED, W + b.rng.normal(size=W.shape).astype(F) * W.std() * F(0.1))


@mutation("norms saved as 1 + w", "changed that should not", "Q10")
def _(b: Bench) -> None:
    b.store(NORM, 1 + b.W(NORM))


@mutation("a tensor missing", "missing")
def _(b: Bench) -> None:
    b.put(V0, None)


@mutation("a tensor too many", "extra")
def _(b: Bench) -> None:
    b.put("model.layers.2.self_attn.q_proj.weight", b.right[Q0])


@mutation("a tensor renamed", ("missing", "extra", "renamed"))
def _(b: Bench) -> None:
    b.put("model.layers.0.self_attn.query.weight", b.out[Q0])
    b.put(Q0, None)


@mutation("one tensor in another dtype", "wrong dtype")
def _(b: Bench) -> None:
    other = np.float16 if b.right[Q0].dtype == BFLOAT16 else BFLOAT16
    b.put(Q0, b.right[Q0].astype(F).astype(other))


@mutation("one tensor transposed with its shape", "wrong shape", "L16")
def _(b: Bench) -> None:
    b.put(DOWN, b.right[DOWN].T.copy())


@mutation("a tensor cut short", "wrong shape", "L7")
def _(b: Bench) -> None:
    b.put(DOWN, b.right[DOWN][:-1])


@mutation("the adapter's keys left in the file", "not merged", "Q11, Q19")
def _(b: Bench) -> None:
    for key, t in b.case.adapter.items():
        b.put(key.removeprefix(P), t)


@mutation("saved as base_layer, unmerged", ("not merged", "missing"), "Q11")
def _(b: Bench) -> None:
    for n in list(b.case.targets):
        b.put(n, None)
        b.put(n.replace(".weight", ".base_layer.weight"), b.case.tensors[n])


# Ties, copies, biases, tokens


@mutation("tied embedding: updated through one use only", "not applied", "C8", "tied embeddings")
def _(b: Bench) -> None:
    b.store(EMBED, b.W(EMBED))


@mutation("tied embedding: updated through both uses", "applied twice…", "C8", "tied embeddings")
def _(b: Bench) -> None:
    b.store(EMBED, b.W(EMBED) + 2 * b.delta(EMBED))


@mutation("output layer gets the embedding's update as well", "another module's update as well",
          "C8", "embeddings")  # fmt: skip
def _(b: Bench) -> None:
    b.store("lm_head.weight", b.W("lm_head.weight") + b.delta("lm_head.weight") + b.delta(EMBED))


@mutation("untied output layer saved as the embedding", ("tensors exchanged", "another tensor"),
          "C8", "embeddings")  # fmt: skip
def _(b: Bench) -> None:
    b.store("lm_head.weight", b.again(EMBED))


@mutation("embedding's update not applied", "not applied", "C14", "embeddings")
def _(b: Bench) -> None:
    b.store(EMBED, b.W(EMBED))


@mutation("modules_to_save ignored", "adapter's copy ignored", "", "copies")
def _(b: Bench) -> None:
    b.store("model.norm.weight", b.W("model.norm.weight"))


@mutation("saved classifier left out", "missing", "", "copies")
def _(b: Bench) -> None:
    b.put("classifier.weight", None)


@mutation("saved classifier still at its initial values", "not the adapter's copy", "", "copies")
def _(b: Bench) -> None:
    W = b.again("classifier.weight")
    b.store("classifier.weight", b.rng.normal(size=W.shape).astype(F) * W.std())


@mutation("trained bias ignored", "adapter's copy ignored", "Q19", "copies")
def _(b: Bench) -> None:
    b.store("model.dense.bias", b.W("model.dense.bias"))


@mutation("bias of B not merged", "not applied", "Q19", "biases")
def _(b: Bench) -> None:
    b.store("encoder.dense.bias", b.W("encoder.dense.bias"))


@mutation("bias of B without the scale", "scale left out", "Q19", "biases")
def _(b: Bench) -> None:
    n = "encoder.dense.bias"
    b.store(n, b.W(n) + b.delta(n, 1.0))


@mutation("trained tokens ignored", "adapter's copy ignored", "C8", "copies")
def _(b: Bench) -> None:
    b.store(EMBED, b.W(EMBED))


@mutation("trained tokens added to the base's", "copy added to the base", "C8", "copies")
def _(b: Bench) -> None:
    M, (at, rows) = b.W(EMBED), b.case.rows[EMBED]
    M[at] += rows
    b.store(EMBED, M)


@mutation("trained tokens in the wrong rows", "copy in other rows", "C8", "copies")
def _(b: Bench) -> None:
    M, (at, rows) = b.W(EMBED), b.case.rows[EMBED]
    M[[t + 1 for t in at]] = rows
    b.store(EMBED, M)


@mutation("trained tokens in another order", "copy in other rows", "C8", "copies")
def _(b: Bench) -> None:
    M, (at, rows) = b.W(EMBED), b.case.rows[EMBED]
    M[at] = rows[[1, 2, 0]]
    b.store(EMBED, M)


# Convolutions and experts


@mutation("convolution: kernel axes exchanged in the update", "columns permuted…", "C6",
          "convolutions")  # fmt: skip
def _(b: Bench) -> None:
    D = b.delta("conv_in.weight")
    b.store("conv_in.weight", b.W("conv_in.weight") + D.swapaxes(2, 3).reshape(D.shape))


@mutation("convolution: kernel flipped in the update", "columns permuted…", "C6", "convolutions")
def _(b: Bench) -> None:
    b.store("conv1d.weight", b.W("conv1d.weight") + b.delta("conv1d.weight")[..., ::-1])


@mutation("convolution not updated", "not applied", "C12", "convolutions")
def _(b: Bench) -> None:
    b.store("conv_in.weight", b.W("conv_in.weight"))


@mutation("convolution: only the first input channels", "not applied to some columns", "C3",
          "convolutions")  # fmt: skip
def _(b: Bench) -> None:
    D = b.delta("conv_in.weight")
    D[:, 6:] = 0
    b.store("conv_in.weight", b.W("conv_in.weight") + D)


def _expert_factors(b: Bench) -> tuple[np.ndarray, np.ndarray, float]:
    A, B, s = b.factors(EXPERT)
    r = len(A) // 4
    return A.reshape(4, r, -1), B.reshape(len(B), r, 4).transpose(2, 0, 1), s


def _store_experts(b: Bench, A: np.ndarray, B: np.ndarray, s: float) -> None:
    b.store(EXPERT, b.W(EXPERT) + F(s) * (B @ A))


@mutation("experts: B read with the expert slowest", "expert order of B", "L11, L13", "experts")
def _(b: Bench) -> None:
    A, _, s = _expert_factors(b)
    B = b.factors(EXPERT)[1]
    _store_experts(b, A, B.reshape(len(B), 4, -1).transpose(1, 0, 2), s)


@mutation("experts: A read with the expert fastest", "expert order of A", "L11, L13", "experts")
def _(b: Bench) -> None:
    _, B, s = _expert_factors(b)
    A = b.factors(EXPERT)[0]
    _store_experts(b, A.reshape(-1, 4, A.shape[1]).transpose(1, 0, 2), B, s)


@mutation("experts in another order", "experts permuted", "L13", "experts")
def _(b: Bench) -> None:
    A, B, s = _expert_factors(b)
    _store_experts(b, A[[2, 0, 3, 1]], B[[2, 0, 3, 1]], s)


@mutation("experts moved on by one", ("experts shifted", "experts permuted"), "L13", "experts")
def _(b: Bench) -> None:
    A, B, s = _expert_factors(b)
    _store_experts(b, np.roll(A, 1, 0), np.roll(B, 1, 0), s)


@mutation("first expert's update everywhere", "first expert everywhere", "L11", "experts")
def _(b: Bench) -> None:
    A, B, s = _expert_factors(b)
    _store_experts(b, A[[0] * 4], B[[0] * 4], s)


@mutation("only the first expert", "not applied to some experts", "L11", "experts")
def _(b: Bench) -> None:
    A, B, s = _expert_factors(b)
    _store_experts(b, A, B * np.array([1, 0, 0, 0], F)[:, None, None], s)


@mutation("experts: gate and up swapped in the update", "rows permuted…", "L14", "experts")
def _(b: Bench) -> None:
    D = b.delta(EXPERT)
    b.store(EXPERT, b.W(EXPERT) + np.roll(D, D.shape[1] // 2, axis=1))


@mutation("experts: last rank component missing", "rank truncated", "L11", "experts")
def _(b: Bench) -> None:
    A, B, s = _expert_factors(b)
    _store_experts(b, A[:, :-1], B[:, :, :-1], s)


@mutation("square experts: updates transposed", "transposed", "L11", "experts, square")
def _(b: Bench) -> None:
    b.store(EXPERT, b.W(EXPERT) + b.delta(EXPERT).swapaxes(1, 2))


@mutation("experts: scale left out", "scale left out", "S13", "experts")
def _(b: Bench) -> None:
    b.store(EXPERT, b.W(EXPERT) + b.delta(EXPERT, 1.0))


# Precision


@mutation("update rounded to 8-bit float before it is added", "update rounded to float8 e4m3", "Q2")
def _(b: Bench) -> None:
    for n in (Q0, DOWN):
        b.store(n, b.W(n) + b.delta(n).astype(ml_dtypes.float8_e4m3fn).astype(F))


@mutation("merge stored through 8-bit float", "stored through float8 e4m3", "Q2")
def _(b: Bench) -> None:
    for n in (Q0, DOWN):
        b.store(n, (b.W(n) + b.delta(n)).astype(ml_dtypes.float8_e4m3fn).astype(F))


@mutation("cut off instead of rounded", "cut off instead of rounded", "Q2", "llama, in bfloat16")
def _(b: Bench) -> None:
    for n in b.some():
        bits = (b.W(n) + b.delta(n)).view(np.uint32) & np.uint32(0xFFFF0000)
        b.store(n, bits.view(F))


@mutation("negative weight of a sum lost: |s| for −s", "subtracted", "S17", "llama, negative")
def _(b: Bench) -> None:
    for n in b.some():
        b.store(n, b.W(n) + b.delta(n, -b.case.targets[n].s))


@mutation("two adapters: cross terms of the sums of A and of B", "another adapter", "S16, Q17")
def _(b: Bench) -> None:
    for n in (Q0, DOWN):
        A, B, s = b.factors(n)
        A2, B2 = (b.rng.permutation(t.reshape(-1)).reshape(t.shape) for t in (A, B))
        b.store(n, b.W(n) + F(s) * ((B + B2) @ (A + A2)))
