"""A grid takes the numbers of any array and rounds them as the dtype's own cast does."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ref.verdict.grids import BFLOAT16, FLOAT8_E4M3, FLOAT16, FLOAT32, FLOAT64, TF32

GRIDS = [BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TF32, FLOAT8_E4M3]
AS_GIVEN = [
    np.float32([[1.1, 2.2, 3.3], [-4.4, 5.5, 1e30]]),
    np.float16([0.1, 3.0, 65504]),
    np.array([1, 2, 257]),
    np.float32(0.1),
    np.linspace(-1, 1, 12).reshape(3, 4).T,
    np.float32([0.1, 0.2, 0.3, 0.4])[::-2],
    np.broadcast_to(np.float32(0.1), (2, 3)),
    [0.1, 0.2],
]


@pytest.mark.parametrize("given_as", AS_GIVEN, ids=lambda t: f"{np.asarray(t).dtype}")
@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
@pytest.mark.parametrize("operation", ["round", "truncate", "holds", "ulp"])
def test_an_array_of_any_dtype_and_layout_is_taken_by_its_values(operation, grid, given_as):
    f = getattr(grid, operation)
    plain = np.array(given_as, dtype=np.float64, order="C")
    assert np.shape(f(given_as)) == plain.shape
    assert np.array_equal(f(given_as), f(plain))


@given(st.floats(width=32))
@pytest.mark.parametrize(
    ("grid", "dtype"), [(BFLOAT16, ml_dtypes.bfloat16), (FLOAT16, np.float16)], ids=["bf16", "fp16"]
)
def test_a_float32_is_rounded_as_its_cast_does(grid, dtype, value):
    """ml_dtypes rounds a float32 once; only from float64 it rounds twice."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.float32(value).astype(dtype).astype(np.float64)
    assert np.array_equal(grid.round(np.float32(value)), cast, equal_nan=True)
