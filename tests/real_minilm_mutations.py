"""Bugs planted into merges of the real MiniLM: what is done, and the name it must be given.

Each mutation takes the model and the right merge, changes the merge, and is listed with words one
of which must stand in the name or the formula of a diagnosis. The adapter has r = 6, α = 9.
"""

from collections.abc import Callable

import numpy as np

Tensors = dict[str, np.ndarray]
HEADS, WIDTH = 12, 32
# The code book of bitsandbytes 0.50.2, functional.py, get_4bit_type("nf4").
NF4_BELOW = (-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004)
NF4_ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1)
NF4 = np.array((*NF4_BELOW, 0, *NF4_ABOVE))
QUERY = "encoder.layer.{}.attention.self.query.weight"
KEY = "encoder.layer.{}.attention.self.key.weight"
VALUE = "encoder.layer.{}.attention.self.value.weight"
Mutation = Callable[["Model", Tensors], None]  # noqa: F821

MUTATIONS: dict[str, tuple[Mutation, tuple[str, ...]]] = {}


def mutation(*expected: str):
    def register(f: Mutation) -> Mutation:
        MUTATIONS[f.__name__] = (f, expected)
        return f

    return register


def everywhere(change: Callable[..., np.ndarray]) -> Mutation:
    """Replace s B A of every adapted tensor by `change(A, B, s)`."""

    def apply(model, merged):
        for name in model.modules:
            merged[name] = model.add(model.base[name], change(*model.factors(name)))

    return apply


def _scale(t: Callable[[float, float, float], float]) -> Mutation:
    return everywhere(lambda A, B, s: np.float32(t(float(s), A.shape[0], 9.0)) * (B @ A))


def _register(name: str, apply: Mutation, *expected: str) -> None:
    apply.__name__ = name
    mutation(*expected)(apply)


_register("rank_stabilised_scale", _scale(lambda s, r, a: a / r**0.5), "α/√r where")
_register("alpha_undivided", _scale(lambda s, r, a: a), "α not divided")
_register("no_scale", _scale(lambda s, r, a: 1.0), "scale left out")
_register("scale_squared", _scale(lambda s, r, a: s * s), "scale applied twice")
_register("scale_inverted", _scale(lambda s, r, a: 1 / s), "scale inverted")
_register("scale_halved", _scale(lambda s, r, a: s / 2), "halved")
_register("update_doubled", _scale(lambda s, r, a: 2 * s), "applied twice")
_register("update_tripled", _scale(lambda s, r, a: 3 * s), "applied three times")
_register("sign_flipped", _scale(lambda s, r, a: -s), "subtracted")
_register("rank_as_scale", _scale(lambda s, r, a: r), "r in place")
_register("root_rank_as_scale", _scale(lambda s, r, a: r**0.5), "√r in place")
_register("alpha_left_out", _scale(lambda s, r, a: 1 / r), "α left out")
_register("scale_times_rank_root_divided", _scale(lambda s, r, a: s / r**0.5), "divided by √r")
_register("nine_tenths_of_the_scale", _scale(lambda s, r, a: 0.9 * s), "scale")
_register("not_applied", _scale(lambda s, r, a: 0.0), "not applied")
_register("transposed", everywhere(lambda A, B, s: s * (B @ A).T), "transposed")
_register(
    "a_and_b_swapped",
    everywhere(lambda A, B, s: s * (A.reshape(B.shape) @ B.reshape(A.shape))),
    "A and B swapped",
)
_register(
    "both_factors_read_transposed",
    everywhere(lambda A, B, s: s * (B.reshape(A.shape).T @ A.reshape(B.shape).T)),
    "A and B read transposed",
)
_register(
    "a_read_transposed",
    everywhere(lambda A, B, s: s * (B @ A.reshape(A.shape[::-1]).T)),
    "A read transposed",
)
_register(
    "b_read_transposed",
    everywhere(lambda A, B, s: s * (B.reshape(B.shape[::-1]).T @ A)),
    "B read transposed",
)
_register("rank_truncated", everywhere(lambda A, B, s: s * (B[:, :4] @ A[:4])), "rank truncated")
_register("one_rank_left", everywhere(lambda A, B, s: s * (B[:, :1] @ A[:1])), "rank truncated")
_register("rank_order_reversed", everywhere(lambda A, B, s: s * (B @ A[::-1])), "rank order")
_register(
    "heads_reversed",
    everywhere(lambda A, B, s: s * (_heads(B)[::-1].reshape(B.shape) @ A)),
    "rows permuted: 12 heads reversed",
)
_register(
    "heads_permuted",
    everywhere(
        lambda A, B, s: (
            s * (_heads(B)[np.random.default_rng(3).permutation(HEADS)].reshape(B.shape) @ A)
        )
    ),
    "rows permuted: blocks of 32",
)
_register(
    "rotary_halves_to_pairs",
    everywhere(
        lambda A, B, s: (
            s * (_heads(B).reshape(HEADS, 2, 16, -1).swapaxes(1, 2).reshape(B.shape) @ A)
        )
    ),
    "rotary",
)
_register(
    "halves_swapped", everywhere(lambda A, B, s: s * (np.roll(B, 192, 0) @ A)), "halves swapped"
)
_register(
    "columns_permuted_by_head",
    everywhere(lambda A, B, s: s * (B @ np.roll(A, 192, 1))),
    "columns permuted",
)
_register(
    "last_input_column_dropped",
    everywhere(lambda A, B, s: s * (B @ (A * (np.arange(384) < 383)))),
    "columns 383",
)
_register(
    "third_of_the_rows_left_out",
    everywhere(lambda A, B, s: s * ((B * (np.arange(384) < 256)[:, None]) @ A)),
    "rows 256–383",
)


def _heads(B):
    return B.reshape(HEADS, WIDTH, -1)


@mutation("applied twice")
def merged_twice_in_a_row(model, merged):
    for name in model.modules:
        merged[name] = model.add(merged[name], model.delta(name))


@mutation("not applied")
def later_layers_left_out(model, merged):
    for i in (3, 4, 5):
        for name in (QUERY.format(i), VALUE.format(i)):
            merged[name] = model.base[name]


@mutation("another module's update")
def query_and_value_exchanged(model, merged):
    for i in range(6):
        q, v = QUERY.format(i), VALUE.format(i)
        merged[q] = model.add(model.base[q], model.delta(v))
        merged[v] = model.add(model.base[v], model.delta(q))


@mutation("another module's update")
def layers_shifted_by_one(model, merged):
    for i in range(6):
        for t in (QUERY, VALUE):
            name = t.format(i)
            merged[name] = model.add(model.base[name], model.delta(t.format((i + 1) % 6)))


@mutation("another module's B")
def b_of_the_wrong_module(model, merged):
    for i in range(6):
        q, v = QUERY.format(i), VALUE.format(i)
        (A, _, s), (_, B, _) = model.factors(q), model.factors(v)
        merged[q] = model.add(model.base[q], s * (B @ A))


@mutation("adapted by mistake")
def key_adapted_with_the_query_update(model, merged):
    for i in range(6):
        merged[KEY.format(i)] = model.add(model.base[KEY.format(i)], model.delta(QUERY.format(i)))


@mutation("another module's update as well")
def value_update_added_to_the_query_too(model, merged):
    name, other = QUERY.format(2), VALUE.format(2)
    merged[name] = model.add(model.base[name], model.delta(name) + model.delta(other))


@mutation("another tensor's base")
def base_of_the_next_layer(model, merged):
    for i in range(6):
        name, other = QUERY.format(i), QUERY.format((i + 1) % 6)
        merged[name] = model.add(model.base[other], model.delta(name))


@mutation("tensors exchanged", "another tensor")
def tensors_exchanged(model, merged):
    one, two = QUERY.format(1), QUERY.format(4)
    merged[one], merged[two] = merged[two], merged[one]


def _on_quantized(quantize):
    def apply(model, merged):
        for name in model.modules:
            W = quantize(model.base[name].astype(np.float32))
            merged[name] = model.add(model.cast(W), model.delta(name))

    return apply


def _nf4(W):
    blocks = W.reshape(-1, 64)
    top = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs(blocks[..., None] / top[..., None] - NF4).argmin(axis=-1)
    return (NF4[nearest] * top).astype(np.float32).reshape(W.shape)


def _int8(W):
    top = np.abs(W).max(axis=1, keepdims=True)
    return np.rint(W * (127 / top)) * (top / 127)


_register("base_quantized_to_nf4", _on_quantized(_nf4), "NF4")
_register("base_quantized_to_int8", _on_quantized(_int8), "int8")


@mutation("another base")
def another_base(model, merged):
    rng = np.random.default_rng(5)
    for name in model.modules:
        W = model.base[name].astype(np.float32)
        other = W + (0.1 * W.std() * rng.standard_normal(W.shape)).astype(np.float32)
        merged[name] = model.add(model.cast(other), model.delta(name))


@mutation("another adapter", "another base or adapter")
def another_adapter(model, merged):
    rng = np.random.default_rng(6)
    for name in model.modules:
        A, B, s = model.factors(name)
        A2, B2 = (rng.permutation(t.reshape(-1)).reshape(t.shape) for t in (A, B))
        merged[name] = model.add(model.base[name], s * (B2 @ A2))


@mutation("base transposed")
def base_transposed(model, merged):
    for name in model.modules:
        merged[name] = model.add(model.base[name].T, model.delta(name))


@mutation("whole tensor transposed")
def saved_transposed(model, merged):
    for name in model.modules:
        merged[name] = np.ascontiguousarray(merged[name].T)


@mutation("whole rows permuted")
def converted_to_rotary_pairs(model, merged):
    for name in model.modules:
        by_head = merged[name].reshape(HEADS, 2, 16, -1).swapaxes(1, 2)
        merged[name] = np.ascontiguousarray(by_head.reshape(384, -1))


@mutation("base left out")
def only_the_update_saved(model, merged):
    for name in model.modules:
        merged[name] = model.cast(model.delta(name))


@mutation("zeros")
def tensor_of_zeros(model, merged):
    merged[QUERY.format(3)] = np.zeros_like(merged[QUERY.format(3)])


@mutation("some elements overwritten")
def one_element_overwritten(model, merged):
    merged[QUERY.format(0)] = merged[QUERY.format(0)].copy()
    merged[QUERY.format(0)][3, 5] = 1


@mutation("some elements overwritten")
def ten_rows_zeroed(model, merged):
    merged[VALUE.format(0)] = merged[VALUE.format(0)].copy()
    merged[VALUE.format(0)][10:20] = 0


@mutation("not finite")
def nan_in_one_element(model, merged):
    merged[VALUE.format(1)] = merged[VALUE.format(1)].copy()
    merged[VALUE.format(1)][0, 0] = np.nan


@mutation("missing")
def tensor_missing(model, merged):
    del merged[VALUE.format(5)]


@mutation("extra")
def tensor_extra(model, merged):
    merged["classifier.weight"] = np.ones((2, 384), dtype=model.dtype)


@mutation("not merged")
def saved_unmerged(model, merged):
    for name in model.modules:
        path = name.removesuffix("weight")
        merged[f"{path}base_layer.weight"] = model.base[name]
        A, B, _ = model.factors(name)
        merged[f"{path}lora_A.weight"], merged[f"{path}lora_B.weight"] = A, B
        del merged[name]


@mutation("wrong dtype")
def one_tensor_in_another_dtype(model, merged):
    merged[QUERY.format(2)] = merged[QUERY.format(2)].astype(np.float16)


@mutation("wrong shape")
def one_tensor_cut(model, merged):
    merged[QUERY.format(2)] = merged[QUERY.format(2)][:, :383].copy()


@mutation("changed that should not")
def layer_norm_changed(model, merged):
    name = "encoder.layer.4.output.LayerNorm.weight"
    noise = np.random.default_rng(7).standard_normal(384).astype(np.float32)
    merged[name] = model.cast(merged[name].astype(np.float32) + noise)


@mutation("another tensor")
def untouched_tensor_of_another_layer(model, merged):
    merged[KEY.format(2)] = model.base[KEY.format(3)]
