"""No exact test flags PyTorch's, PEFT's or JAX's own implementations."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")

from exact_peers import ATTENTION, LINEAR, attention, to  # noqa: E402

from lora_ref.layers import causal_mask  # noqa: E402
from lora_ref.verdict import exact  # noqa: E402
from lora_ref.verdict.exact.uniform_gradients import equal_score_gradients  # noqa: E402
from lora_ref.verdict.grids import BFLOAT16, FLOAT16, FLOAT32  # noqa: E402

pytestmark = pytest.mark.peers
DTYPES = {"bfloat16": BFLOAT16, "float16": FLOAT16, "float32": FLOAT32}
SHAPES = ((37, 24, 80, 5), (1, 33, 48, 9), (8, 8, 8, 8))


def window(T, S, size):
    back = np.arange(T)[:, None] + S - T - np.arange(S)
    return (back >= 0) & (back < size)


MASKS = {
    "causal": causal_mask(35, 35, np.ones(1)),
    "decoding": causal_mask(3, 35, np.ones(1), offset=32),
    "window": window(35, 35, 7),
    "none": np.ones((5, 19), dtype=bool),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_pass(name, dtype):
    adapt = to(getattr(torch, dtype))
    exact.assert_none(
        exact.lora_linear_tests(LINEAR[name], DTYPES[dtype], shapes=SHAPES, adapt=adapt)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_passes(name, mask, dtype):
    adapt, allowed = to(getattr(torch, dtype)), MASKS[mask]
    mine = attention(ATTENTION[name](allowed))
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 32}
    exact.assert_none(exact.attention_tests(mine, DTYPES[dtype], allowed, **sizes, adapt=adapt))


@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_sdpa_without_a_mask_passes(dtype):
    mine = attention(ATTENTION["SDPA"](None))
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 32, "value_dim": 32}
    adapt = to(getattr(torch, dtype))
    exact.assert_none(
        exact.attention_tests(mine, DTYPES[dtype], MASKS["causal"], **sizes, adapt=adapt)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ATTENTION)
def test_gradients_pass_where_the_scale_is_a_power_of_four(name, dtype):
    """Nothing is admitted for the scale there, and SDPA takes its root on q and on k."""
    adapt, allowed = to(getattr(torch, dtype)), MASKS["causal"]
    mine = attention(ATTENTION[name](allowed))
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16}
    tests = (equal_score_gradients,)
    exact.assert_none(
        exact.attention_tests(mine, DTYPES[dtype], allowed, **sizes, adapt=adapt, tests=tests)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_jax_under_jit_passes(dtype):
    jax = pytest.importorskip("jax", reason="JAX is in the [peers] extra")
    jnp = jax.numpy

    @jax.jit
    def mine(x, W, b, A, B, s, dy):
        def forward(x, A, B, b):
            return x @ W.T + s.astype(x.dtype) * (x @ A.T @ B.T) + b

        y, pullback = jax.vjp(forward, x, A, B, b)
        return {"y": y, **dict(zip(("dx", "dA", "dB", "db"), pullback(dy), strict=True))}

    def called(x, W, b, A, B, s, dy):
        return mine(x, W, b, A, B, jnp.float32(s), dy)

    adapt = lambda t: jnp.asarray(t, dtype=dtype)  # noqa: E731
    exact.assert_none(exact.lora_linear_tests(called, DTYPES[dtype], adapt=adapt))


def test_batch_invariance_is_told_apart_from_the_tests():
    """It holds for some libraries and shapes only, so it is in no tuple of tests."""
    assert not {*exact.LINEAR_PROPERTIES} & {*exact.LORA_LINEAR_TESTS}
    assert not {*exact.ATTENTION_PROPERTIES} & {*exact.ATTENTION_TESTS}
