"""Tensors of PyTorch and arrays of JAX come in exactly, or are refused by the reason."""

import warnings

import ml_dtypes
import numpy as np
import pytest
from float8_names import FLOAT8

from lora_ref.layers.normalization import rms_norm
from lora_ref.verdict.contract import BFLOAT16_CONTRACT
from lora_ref.verdict.grids import BFLOAT16
from lora_ref.verdict.incoming import received, received_any
from lora_ref.verdict.judge import judge
from lora_ref.verdict.oracles import attention, lora_linear, oracle_of

pytestmark = pytest.mark.peers


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax", reason="JAX is in the [peers] extra")


def same(a, b):
    """Equal bit for bit, but for the bits of NaN."""
    a, b = np.asarray(a), np.asarray(b)
    signs = np.isnan(a) | (np.signbit(a) == np.signbit(b))
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) and bool(signs.all())


TORCH_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@pytest.mark.parametrize("name", TORCH_FLOAT8)
def test_every_float8_code_of_pytorch_comes_in_as_ml_dtypes_reads_it(torch, name):
    codes = np.arange(256, dtype=np.uint8)
    found = received(torch.from_numpy(codes).view(getattr(torch, name)), "y")
    expected = received(codes.view(numpy_dtype(name)), "y")
    assert same(found.values, expected.values)
    assert found.grid == expected.grid


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_every_16_bit_code_of_pytorch_comes_in_as_numpy_reads_it(torch, name):
    codes = np.arange(2**16, dtype=np.uint16)
    found = received(torch.from_numpy(codes).view(getattr(torch, name)), "y")
    expected = received(codes.view(numpy_dtype(name)), "y")
    assert same(found.values, expected.values)
    assert (found.grid, found.library) == (expected.grid, "torch")


PYTORCH_VIEWS = {
    "leaf": (lambda torch: torch.ones(2, 3, requires_grad=True), ()),
    "parameter": (lambda torch: torch.nn.Parameter(torch.ones(2, 3)), ()),
    "result": (lambda torch: torch.ones(2, 3, requires_grad=True) * 0.3, ()),
    "transposed": (
        lambda torch: torch.arange(6.0, dtype=torch.bfloat16).reshape(2, 3).T,
        ("y is not contiguous: strides (2, 6) bytes; read as its values say",),
    ),
    "expanded": (
        lambda torch: torch.arange(3.0).expand(11, 3),
        ("y has zero stride along axis 0: 11 rows share one memory",),
    ),
    "negated view": (
        lambda torch: torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128).conj().imag,
        ("y is not contiguous: strides (16,) bytes; read as its values say",),
    ),
    "number": (lambda torch: torch.tensor(0.1, dtype=torch.float64), ()),
    "empty": (lambda torch: torch.zeros(0, 7), ("y is empty (0, 7): nothing to compare",)),
}


@pytest.mark.parametrize(("make", "notes"), PYTORCH_VIEWS.values(), ids=PYTORCH_VIEWS)
def test_a_pytorch_tensor_comes_in_as_it_is(torch, make, notes):
    given = make(torch)
    found = received(given, "y")
    assert found.values.tolist() == given.tolist()
    assert found.values.shape == tuple(given.shape)
    assert found.notes == notes
    assert found.grid.name == str(given.dtype).removeprefix("torch.")


def made_quietly(make, torch):
    """PyTorch warns that these kinds of tensors are prototypes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(torch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.arange(3), r"got integers \(int64\)"),
        (lambda t: t.ones(3, dtype=t.bool), r"got booleans \(bool\)"),
        (lambda t: t.ones(3, dtype=t.complex64).conj(), r"got complex numbers \(complex64\)"),
        (lambda t: t.eye(3).to_sparse(), r"sparse_coo.*; give y\.to_dense\(\)"),
        (lambda t: t.eye(3).to_sparse_csr(), r"sparse_csr.*; give y\.to_dense\(\)"),
        (lambda t: t.empty(3, device="meta"), "is on the meta device, which keeps shapes and no"),
        (
            lambda t: t.quantize_per_tensor(t.ones(3), 0.1, 0, t.qint8),
            r"is quantized \(torch\.qint8\); give y\.dequantize\(\)",
        ),
        (
            lambda t: t.nested.nested_tensor([t.ones(2), t.ones(3)]),
            r"is nested .*; give y\.unbind\(\)",
        ),
        (
            lambda t: t.nested.nested_tensor([t.ones(2), t.ones(3)], layout=t.jagged),
            r"is nested .*; give y\.unbind\(\)",
        ),
        (
            lambda t: t.zeros(3, dtype=t.uint8).view(t.float4_e2m1fn_x2),
            "one number an element, got torch.float4_e2m1fn_x2; decode it first",
        ),
    ],
)
def test_a_tensor_without_plain_floats_is_refused_by_its_reason(torch, make, message):
    with pytest.raises(TypeError, match=f"^received: y .*{message}"):
        received(made_quietly(make, torch), "y")


EYE, FACTORS = np.eye(3), (np.ones((1, 3)), np.ones((3, 1)))
ENTRANCES = {
    "lora_linear": lambda t: lora_linear(t, EYE, *FACTORS, scale=1.0),
    "attention": lambda t: attention(t, EYE, EYE),
    "mask": lambda t: attention(EYE, EYE, EYE, mask=t),
    "oracle_of": lambda t: oracle_of(rms_norm, {"x": t, "weight": np.ones(3)}, {"eps": 1e-5}),
    "judge": lambda t: judge(
        {"y": t}, lora_linear(EYE, EYE, *FACTORS, scale=1.0), BFLOAT16_CONTRACT
    ),
}


@pytest.mark.parametrize("enter", ENTRANCES.values(), ids=ENTRANCES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.eye(3).to_sparse_csr(), r"sparse_csr.*; give \w+\.to_dense\(\)"),
        (lambda t: t.eye(3).to_sparse_bsr((1, 1)), r"sparse_bsr.*; give \w+\.to_dense\(\)"),
        (lambda t: t.quantize_per_tensor(t.eye(3), 0.1, 0, t.qint8), r"give \w+\.dequantize\(\)"),
        (lambda t: t.nested.nested_tensor([t.ones(2, 3), t.ones(3, 3)]), r"give \w+\.unbind\(\)"),
    ],
)
def test_every_entrance_refuses_what_has_no_plain_floats(torch, enter, make, message):
    with pytest.raises(TypeError, match=f"^received: .*{message}"):
        enter(made_quietly(make, torch))


@pytest.mark.parametrize("enter", ENTRANCES.values(), ids=ENTRANCES)
def test_every_entrance_refuses_what_is_sparse_in_jax(jax, enter):
    sparse = pytest.importorskip("jax.experimental.sparse", reason="JAX has no sparse arrays")
    with pytest.raises(TypeError, match=r"^received: .* got BCOO, which is sparse; .*todense\(\)"):
        enter(sparse.BCOO.fromdense(jax.numpy.eye(3)))


def test_a_pytorch_subclass_from_elsewhere_is_still_pytorch(torch):
    class Mine(torch.Tensor):
        pass

    assert received(torch.ones(2).as_subclass(Mine), "y").library == "torch"


def test_pytorch_integers_and_masks_come_in_as_numpy_has_them(torch):
    assert received_any(torch.tensor([3, 1]), "ids").dtype == np.int64
    assert received_any(torch.tensor([True]), "mask").dtype == bool


def test_a_cuda_tensor_is_fetched(torch):
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    given = torch.ones(2, 3, dtype=torch.bfloat16, device="cuda")
    assert received(given.T, "y").grid == BFLOAT16


@pytest.mark.parametrize("name", ["bfloat16", "float16", *FLOAT8])
def test_low_precision_of_jax_comes_in_exactly(jax, name):
    given = np.array([0.5, -1.0, 3.0, 0.25]).astype(numpy_dtype(name))
    found = received(jax.numpy.asarray(given), "y")
    assert found.values.tolist() == [0.5, -1.0, 3.0, 0.25]
    assert (found.grid.name, found.library) == (name, "jax")


def test_a_traced_jax_array_has_no_numbers_yet(jax):
    def judged(x):
        return received(x, "y").values

    with pytest.raises(TypeError, match="y is being traced by JAX and has no numbers yet"):
        jax.jit(judged)(jax.numpy.ones(2))


def test_a_deleted_jax_array_is_refused(jax):
    given = jax.numpy.ones(2)
    given.delete()
    with pytest.raises(TypeError, match="y was deleted, as donated JAX arrays are; give a copy"):
        received(given, "y")
