"""Arrays of any library come in exactly, and what cannot come in is refused by its reason."""

import importlib

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from float8_names import FLOAT8

from lora_ref.verdict.grids import grid_of
from lora_ref.verdict.incoming import received, received_any

EDGES = np.array([0.0, -0.0, 1.5, -3.0, 2.0**-140, 3.0e38, np.inf, np.nan])


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def same(a, b):
    """Equal bit for bit, but for the bits of NaN."""
    a, b = np.asarray(a), np.asarray(b)
    signs = np.isnan(a) | (np.signbit(a) == np.signbit(b))
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) and bool(signs.all())


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_code_of_a_16_bit_dtype_comes_in_exactly(name):
    codes = np.arange(2**16, dtype=np.uint16)
    found = received(codes.view(numpy_dtype(name)), "y")
    by_bits = codes.astype(np.uint32) << 16
    with np.errstate(invalid="ignore"):
        expected = by_bits.view(np.float32) if name == "bfloat16" else codes.view(np.float16)
        assert same(found.values, expected.astype(np.float64))
    assert found.grid == grid_of(numpy_dtype(name))
    assert found.library == "numpy"


@pytest.mark.parametrize("name", FLOAT8)
def test_every_finite_code_of_float8_is_a_number_of_its_grid(name):
    found = received(np.arange(256, dtype=np.uint8).view(numpy_dtype(name)), "y")
    finite = found.values[np.isfinite(found.values)]
    assert found.grid.name == name
    assert found.grid.holds(finite).all()
    assert np.abs(finite).max() == found.grid.largest
    assert np.abs(finite[finite != 0]).min() == found.grid.smallest


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", ">f2"])
def test_floats_of_either_byte_order_come_in_exactly(dtype):
    with np.errstate(over="ignore"):
        given = EDGES.astype(dtype)
    assert same(received(given, "y").values, given.astype(np.float64))


def test_float64_is_not_copied_and_cannot_be_written():
    given = np.ones((3, 4))
    found = received(given, "y")
    assert np.shares_memory(found.values, given)
    with pytest.raises(ValueError, match="read-only"):
        found.values[0, 0] = 2.0
    given[0, 0] = 3.0


VIEWS = {
    "transposed": (
        lambda t: t.T,
        ("y is not contiguous: strides (4, 28) bytes; read as its values say",),
    ),
    "every other column": (
        lambda t: t[:, ::2],
        ("y is not contiguous: strides (28, 8) bytes; read as its values say",),
    ),
    "transposed pair": (
        lambda t: t[:2, :2].T,
        ("y is not contiguous: strides (4, 28) bytes; read as its values say",),
    ),
    "backwards": (
        lambda t: t[::-1],
        ("y is not contiguous: strides (-28, 4) bytes; read as its values say",),
    ),
    "expanded rows": (
        lambda t: np.broadcast_to(t[0], (11, 7)),
        ("y has zero stride along axis 0: 11 rows share one memory",),
    ),
    "expanded columns": (
        lambda t: np.broadcast_to(t[:, :1], (11, 7)),
        ("y has zero stride along axis 1: 7 columns share one memory",),
    ),
    "expanded number": (
        lambda t: np.broadcast_to(t[0, 0], (3,)),
        ("y has zero stride along axis 0: 3 elements share one memory",),
    ),
    "expanded batch": (
        lambda t: np.broadcast_to(t, (2, 11, 7)),
        ("y has zero stride along axis 0: 2 slices share one memory",),
    ),
    "a row": (lambda t: t[:1], ()),
    "a column of one": (lambda t: np.broadcast_to(t[:1, :1], (1, 1)), ()),
    "a number": (lambda t: t[2, 3], ()),
    "no rows": (lambda t: t[:0], ("y is empty (0, 7): nothing to compare",)),
    "no columns, backwards": (lambda t: t[::-1, :0], ("y is empty (11, 0): nothing to compare",)),
}


@pytest.mark.parametrize(("view", "notes"), VIEWS.values(), ids=VIEWS)
def test_any_layout_is_read_as_its_values_say_and_noted(view, notes):
    given = view(np.arange(77, dtype=np.float32).reshape(11, 7))
    found = received(given, "y")
    assert same(found.values, np.array(given, dtype=np.float64))
    assert found.values.flags.c_contiguous
    assert found.notes == notes


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], r"y must be an array .*, got list, which has no dtype; give np\.asarray\(y"),
        (1.5, "y must be an array .*, got float, which has no dtype"),
        ((np.ones(2), np.ones(2)), "y must be an array .*, got tuple"),
        (None, "y must be an array .*, got NoneType"),
        (np.ndarray, "y must be an array .*, got ndarray"),
        (np.arange(3), r"y must hold floating-point numbers, got integers \(int64\): give y in"),
        (np.arange(3).astype(ml_dtypes.int4), r"got integers \(int4\): .* decoded if it is packed"),
        (np.ones(3, dtype=bool), r"got booleans \(bool\): only a mask may be"),
        (np.ones(3) * 1j, r"got complex numbers \(complex128\): judge y\.real and y\.imag"),
        (np.array(["a"]), r"got values \(<U1\): which are no numbers"),
        (np.array([None]), r"got values \(object\): which are no numbers"),
        (np.zeros(2, dtype="f4,f4"), "which are no numbers"),
        (np.ma.masked_less(np.arange(3.0), 1), r"y is masked at 1 elements; give y\.filled\(\)"),
        (scipy.sparse.csr_array(np.eye(3)), r"which is sparse; give y\.toarray\(\)"),
        (scipy.sparse.csr_matrix(np.eye(3)), r"which is sparse; give y\.toarray\(\)"),
        (scipy.sparse.csr_matrix(np.eye(3)).todense(), r"got np\.matrix, .*give np\.asarray\(y\)"),
    ],
)
def test_what_holds_no_floats_is_refused_by_its_reason(value, message):
    with pytest.raises(TypeError, match=f"^received: .*{message}"):
        received(value, "y")


@pytest.mark.skipif(np.finfo(np.longdouble).nmant == 52, reason="long double is float64 here")
def test_more_bits_than_float64_has_are_refused():
    with pytest.raises(TypeError, match=r"float64 cannot hold; give y\.astype\(np\.float64\)"):
        received(np.ones(2, dtype=np.longdouble), "y")


def test_inputs_may_be_integers_or_booleans():
    ids, mask = np.array([3, 1], dtype=np.int32), np.array([True, False])
    assert received_any(ids, "ids") is ids
    assert received_any(mask, "mask") is mask
    assert received_any(ids.astype(ml_dtypes.int4), "codes").tolist() == [3, 1]
    assert received_any(np.ones(2, dtype=np.float16), "x").dtype == np.float64


def test_every_library_gives_the_same_numbers(library):
    given = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    found = received(library.convert(given), "y")
    assert same(found.values, given.astype(np.float64))
    assert found.grid.name == "float32"
    assert found.library == library.name.removesuffix("_read_only")


def test_an_array_on_another_device_comes_in_by_dlpack():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    found = received(strict.asarray([1.0, 2.0], device=strict.Device("device1")), "y")
    assert found.values.tolist() == [1.0, 2.0]


class OnlyDLPack:
    """An array that NumPy can read through DLPack alone."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def test_dlpack_alone_suffices():
    assert received(OnlyDLPack(np.ones(2, dtype=np.float32)), "y").grid.name == "float32"


def test_an_array_that_nothing_can_read_is_refused_with_what_its_library_said():
    with pytest.raises(TypeError, match=r"y \(.*OnlyDLPack\) cannot be read .* __dlpack__: .*only"):
        received(OnlyDLPack(np.ones(2, dtype=ml_dtypes.bfloat16)), "y")


def test_a_cupy_array_is_fetched_by_its_own_method():
    class Device:
        strides = (8, 4)

        def __array__(self):
            raise TypeError("Implicit conversion to a NumPy array is not allowed")

        def get(self):
            return np.ones((2, 2), dtype=np.float32)

    Device.__module__ = "cupy"
    found = received(Device(), "y")
    assert (found.library, found.notes) == ("cupy", ())
    assert found.values.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_no_library_is_imported_to_read_an_array():
    module = importlib.import_module("lora_ref.verdict.incoming")
    assert {"torch", "jax", "cupy"} & {*vars(module)} == set()
