"""What every initialisation promises: the adapter on the residual is the weight, in any library."""

import importlib
import pkgutil

import ml_dtypes
import numpy as np
import pytest

import lora_ref.init
from lora_ref.adapters import LoRA
from lora_ref.adapters.lora import stabilised_scaling
from lora_ref.init import (
    around,
    corda_instruction,
    corda_knowledge,
    eva,
    eva_from_covariance,
    inputs_first,
    lora_ga,
    lora_ga_peft,
    mica,
    moments,
    olora,
    orthogonal,
    pissa,
    pissa_randomized,
    plain_lora,
    weight_gain,
)
from lora_ref.shapes import ShapeError
from lora_ref.testing.tolerance import assert_close, relative_error, to_numpy

S = stabilised_scaling(5, 3)
SHAPES = [(11, 7), (7, 11), (6, 6)]


def given(rng, shape):
    """A weight, its gradient, activations, and a covariance, all generic."""
    m, n = shape
    W, G = rng.standard_normal((m, n)), rng.standard_normal((m, n))
    x = rng.standard_normal((2, 13, n)) @ rng.standard_normal((n, n)) + rng.standard_normal(n)
    return W, G, x, moments(x).correlation()


def seeded():
    return np.random.default_rng(3)


INITS = {
    "pissa": lambda W, G, x, C, r: pissa(W, r, S),
    "pissa_randomized": lambda W, G, x, C, r: pissa_randomized(W, r, S, seeded()),
    "olora": lambda W, G, x, C, r: olora(W, r, S),
    "corda_instruction": lambda W, G, x, C, r: corda_instruction(W, C, r, S),
    "corda_knowledge": lambda W, G, x, C, r: corda_knowledge(W, C, r, S),
    "eva": lambda W, G, x, C, r: eva(W, x, r, S),
    "eva_from_covariance": lambda W, G, x, C, r: eva_from_covariance(W, C, r, S),
    "lora_ga": lambda W, G, x, C, r: lora_ga(W, G, r, S, gain=0.7),
    "lora_ga_peft": lambda W, G, x, C, r: lora_ga_peft(W, G, r, S, gain_A=0.3, gain_B=0.7),
    "orthogonal": lambda W, G, x, C, r: orthogonal(W, r, S, seeded()),
    "mica": lambda W, G, x, C, r: mica(W, r, S),
}
EVERY = pytest.mark.parametrize("start", INITS.values(), ids=INITS)
ANY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)
DECOMPOSED = [  # what each of them decomposes, or takes its product out of
    *((name, "W") for name in INITS if name not in ("eva", "eva_from_covariance", "orthogonal")),
    *((name, "G") for name in ("lora_ga", "lora_ga_peft")),
    *((name, "C") for name in ("corda_instruction", "corda_knowledge", "eva_from_covariance")),
    ("eva", "x"),
]
CHANGES_W = (
    "pissa",
    "pissa_randomized",
    "olora",
    "corda_instruction",
    "corda_knowledge",
    "lora_ga",
)
KEEPS_W = ("eva", "eva_from_covariance", "orthogonal", "mica")


def rank_of(start):
    return 2 if start is INITS["orthogonal"] else 3


@EVERY
@ANY_SHAPE
def test_the_adapter_on_the_residual_is_the_weight(start, shape, rng):
    arrays = given(rng, shape)
    lora, W_res = start(*arrays, rank_of(start))
    assert lora.A.shape == (rank_of(start), shape[1])
    assert lora.scale == S
    assert_close(lora.merge(W_res), arrays[0], "routes", "W")


@EVERY
def test_every_library_gives_the_same_factors(start, library, rng):
    """Signs included, which LAPACK leaves open."""
    arrays = given(rng, (11, 7))
    expected, W_res = start(*arrays, rank_of(start))
    found, W_res_found = start(*map(library.convert, arrays), rank_of(start))
    assert_close(found.A, expected.A, "routes", "A")
    assert_close(found.B, expected.B, "routes", "B")
    assert_close(W_res_found, W_res, "routes", "W_res")


@pytest.mark.parametrize("name", CHANGES_W)
def test_it_takes_something_out_of_the_weight(name, rng):
    arrays = given(rng, (11, 7))
    lora, W_res = INITS[name](*arrays, 3)
    assert relative_error(W_res, arrays[0]) > 0.01
    assert relative_error(lora.delta(), np.zeros((11, 7))) == np.inf


@pytest.mark.parametrize("name", KEEPS_W)
def test_it_leaves_the_weight_as_it_is(name, rng):
    arrays = given(rng, (11, 7))
    lora, W_res = INITS[name](*arrays, 2)
    assert W_res is arrays[0]
    assert np.max(np.abs(lora.delta())) < 1e-15


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_factors_have_the_type_of_the_weight(start, dtype, rng):
    lora, W_res = start(*(t.astype(dtype) for t in given(rng, (11, 7))), 2)
    assert {lora.A.dtype, lora.B.dtype, W_res.dtype} == {np.dtype(dtype)}


@EVERY
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_in_16_bits_the_residual_is_rounded_once_and_the_factors_are_float32(start, dtype, rng):
    arrays = [t.astype(dtype) for t in given(rng, (11, 7))]
    lora, W_res = start(*arrays, 2)
    assert {lora.A.dtype, lora.B.dtype} == {np.dtype(np.float32)}
    assert W_res.dtype == dtype
    apart = np.abs(lora.merge(W_res.astype(np.float64)) - arrays[0].astype(np.float64))
    half_ulp = float(ml_dtypes.finfo(dtype).eps) / 2
    exact = np.max(np.abs(W_res.astype(np.float64)))
    assert np.max(apart) <= half_ulp * 2 ** np.ceil(np.log2(exact))
    in_full = start(*(t.astype(np.float32) for t in arrays), 2)
    assert np.array_equal(W_res, in_full[1].astype(dtype))


@EVERY
@pytest.mark.parametrize("rank", [0, 8, -2])
def test_a_rank_that_the_weight_does_not_have_is_refused(start, rank, rng):
    with pytest.raises(ValueError, match=rf"\w+: rank must be .* from 1 to .*, got {rank}"):
        start(*given(rng, (11, 7)), rank)


@EVERY
@pytest.mark.parametrize("rank", [2.0, True, "2", None], ids=repr)
def test_a_rank_that_is_no_integer_is_refused(start, rank, rng):
    with pytest.raises(ValueError, match=rf"\w+: rank must be an integer .*, got {rank!r}"):
        start(*given(rng, (11, 7)), rank)


@pytest.mark.parametrize(("name", "argument"), DECOMPOSED, ids=map("-".join, DECOMPOSED))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_decomposed_must_be_finite(name, argument, value, library, rng):
    """An infinity keeps some of LAPACK's SVDs from returning, NaN from saying why they fail."""
    arrays = dict(zip("WGxC", given(rng, (11, 7)), strict=True))
    arrays[argument][..., 3, 2] = value
    with pytest.raises(ValueError, match=f"{name}: {argument} must be finite, has NaN or infin"):
        INITS[name](*map(library.convert, arrays.values()), 2)


@EVERY
def test_the_largest_rank_is_allowed(start, rng):
    rank = 3 if start in (INITS["lora_ga"], INITS["lora_ga_peft"]) else 7
    rank = 6 if start is INITS["orthogonal"] else rank
    arrays = given(rng, (11, 7))
    lora, W_res = start(*arrays, rank)
    assert lora.B.shape == (11, rank)
    assert_close(lora.merge(W_res), arrays[0], "routes", "W")


@EVERY
def test_a_weight_that_is_no_matrix_is_refused(start, rng):
    arrays = given(rng, (11, 7))
    with pytest.raises(ShapeError, match=r"W must be \(m, n\).*, got \(2, 11, 7\)"):
        start(np.stack([arrays[0]] * 2), *arrays[1:], 2)


@pytest.mark.parametrize("name", ["pissa", "pissa_randomized", "corda_instruction"])
@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_without_a_root_is_refused(name, scale, rng):
    W, _, _, C = given(rng, (11, 7))
    calls = {
        "pissa": lambda: pissa(W, 3, scale),
        "pissa_randomized": lambda: pissa_randomized(W, 3, scale, rng),
        "corda_instruction": lambda: corda_instruction(W, C, 3, scale),
    }
    with pytest.raises(ValueError, match=f"{name}: scale must be positive.*, got {scale}"):
        calls[name]()


@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan, "1", True, None], ids=repr)
def test_a_scale_that_is_no_finite_number_is_refused(scale, rng):
    W, G, x, C = given(rng, (11, 7))
    calls = {
        "pissa": lambda: pissa(W, 2, scale),
        "pissa_randomized": lambda: pissa_randomized(W, 2, scale, rng),
        "olora": lambda: olora(W, 2, scale),
        "corda_instruction": lambda: corda_instruction(W, C, 2, scale),
        "corda_knowledge": lambda: corda_knowledge(W, C, 2, scale),
        "eva": lambda: eva(W, x, 2, scale),
        "eva_from_covariance": lambda: eva_from_covariance(W, C, 2, scale),
        "around": lambda: around(W, C[:2], scale),
        "lora_ga": lambda: lora_ga(W, G, 2, scale, gain=0.7),
        "lora_ga_peft": lambda: lora_ga_peft(W, G, 2, scale),
        "weight_gain": lambda: weight_gain(W, 2, scale),
        "orthogonal": lambda: orthogonal(W, 2, scale, rng),
        "mica": lambda: mica(W, 2, scale),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name}: scale must be a finite .*, got {scale!r}"):
            call()


def test_a_scale_that_is_not_divided_by_may_be_negative(rng):
    W = rng.standard_normal((11, 7))
    lora, W_res = olora(W, 3, -S)
    assert lora.scale == -S
    assert_close(lora.merge(W_res), W, "routes", "W")


def test_an_integer_beyond_all_floats_is_no_scale(rng):
    with pytest.raises(ValueError, match="mica: scale must be a finite number"):
        mica(rng.standard_normal((11, 7)), 3, 10**400)


@pytest.mark.parametrize("scale", [np.float32(1.5), np.int64(2), 2], ids=repr)
@pytest.mark.parametrize("start", [pissa, olora, mica])
def test_a_scale_becomes_a_python_float_whatever_number_it_was(start, scale, rng):
    """One of NumPy's would promote the factors of 16 and 32 bits."""
    assert type(start(rng.standard_normal((11, 7)), 3, scale)[0].scale) is float


@EVERY
def test_a_weight_stored_inputs_first_starts_as_the_transposed_one(start, rng):
    W, G, x, C = given(rng, (11, 7))
    adapter, W_res = inputs_first(W.T, lambda W: start(W, G, x, C, 2))
    lora, expected = start(W, G, x, C, 2)
    assert_close(adapter.inner.A, lora.A, "identical", "A")
    assert_close(W_res, expected.T, "identical", "W_res")
    assert_close(adapter.merge(W_res), W.T, "routes", "W")


@pytest.mark.parametrize("name", CHANGES_W)
def test_a_trained_adapter_on_the_residual_is_a_plain_lora_on_the_weight(name, library, rng):
    arrays = given(rng, (11, 7))
    start, W_res = INITS[name](*map(library.convert, arrays), 3)
    A, B = (library.convert(rng.standard_normal(shape)) for shape in ((3, 7), (11, 3)))
    trained = LoRA(start.A + A, start.B + B, S)
    plain = plain_lora(trained, start)
    assert plain.A.shape == (6, 7)
    assert plain.scale == S
    merged = plain.merge(library.convert(arrays[0]))
    assert_close(merged, to_numpy(trained.merge(W_res)), "routes", "W'")


def test_untrained_a_plain_lora_is_nothing(rng):
    start, _ = pissa(rng.standard_normal((11, 7)), 3, S)
    assert np.max(np.abs(plain_lora(start, start).delta())) < 1e-15


def test_a_plain_lora_may_start_at_another_rank(rng):
    W = rng.standard_normal((11, 7))
    (start, W_res), trained = pissa(W, 2, S), LoRA(*(pissa(W, 3, S)[0].A, np.ones((11, 3))), S)
    plain = plain_lora(trained, start)
    assert plain.B.shape == (11, 5)
    assert_close(plain.merge(W), trained.merge(W_res), "routes", "W'")


def test_a_start_of_another_scale_or_weight_is_refused(rng):
    lora, _ = pissa(rng.standard_normal((11, 7)), 3, S)
    with pytest.raises(ValueError, match=r"plain_lora: start must have the scale of trained"):
        plain_lora(lora, LoRA(lora.A, lora.B, 2 * S))
    other, _ = pissa(rng.standard_normal((11, 6)), 3, S)
    with pytest.raises(ShapeError, match=r"fit W \(m, n\) = \(11, 7\) from trained, got \(11, 6\)"):
        plain_lora(lora, other)


MODULES = [
    importlib.import_module(f"lora_ref.init.{found.name}")
    for found in pkgutil.iter_modules(lora_ref.init.__path__)
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_initialisation_states_its_mathematics_its_shapes_and_its_source(module):
    missing = [s for s in ("Math:", "Shapes:", "Source:") if f"\n{s}\n" not in module.__doc__]
    assert missing == []


def test_what_is_exported_is_what_is_listed():
    names = {name for name in dir(lora_ref.init) if name.isidentifier() and name[0] != "_"}
    rooms = {module.__name__.rpartition(".")[2] for module in MODULES}
    assert names - rooms == {*lora_ref.init.__all__} - rooms
