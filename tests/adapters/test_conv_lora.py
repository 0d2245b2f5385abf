"""What is special to LoRA on convolutions, PEFT's form and loralib's."""

import numpy as np
import pytest

from lora_ref.adapters import BiasedLoRA, ConvLoRA, LoRA, LoralibConvLoRA
from lora_ref.adapters.conv import peft_grouped
from lora_ref.layers.convolution import Geometry
from lora_ref.layers.padding import pad_circular, pad_reflect, pad_zeros
from lora_ref.shapes import ShapeError
from lora_ref.testing.checks import ADAPTER_CHECKS
from lora_ref.testing.examples import SCALE, Case
from lora_ref.testing.tolerance import assert_close

GEOMETRIES = {
    "1d, three groups": (Geometry((2,), ((1, 2),), (2,), 3, pad_reflect), (4,), (9,)),
    "3d": (Geometry((1, 2, 1), ((0, 1), (1, 0), (2, 2)), (1, 1, 2)), (2, 3, 1), (4, 5, 6)),
    "2d, kernel not square": (Geometry((1, 1), ((1, 1), (2, 0)), (1, 2)), (3, 2), (5, 6)),
    "2d, depthwise": (Geometry.uniform(2, padding=1, groups=6, pad=pad_circular), (3, 2), (4, 5)),
}


def conv_case(name, rng):
    geometry, kernel, space = GEOMETRIES[name]
    groups, m, rank = geometry.groups, 12, 6
    A = rng.standard_normal((rank, 6 // groups, *kernel))
    B = rng.standard_normal((m, rank // groups, *(1 for _ in kernel)))
    x = rng.standard_normal((2, 6, *space))
    return Case(
        ConvLoRA(A, B, SCALE, geometry), (x, rng.standard_normal((m, 6 // groups, *kernel)))
    )


def loralib_case(groups, size, rng):
    m, n, rank = 2 * groups, 3 * groups, 4
    A = rng.standard_normal((rank * size, n * size))
    B = rng.standard_normal((m // groups * size, rank * size))
    geometry = Geometry((2, 1), ((1, 0), (2, 1)), (1, 2), groups, pad_zeros)
    W = rng.standard_normal((m, n // groups, size, size))
    x = rng.standard_normal((2, n, 2 * size + 1, 2 * size))
    return Case(LoralibConvLoRA(A, B, SCALE, geometry), (x, W))


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_conv_lora_passes(name, check, rng):
    check(lambda rng: conv_case(name, rng), rng)


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda f: f.__name__)
def test_a_bias_on_a_convolution_passes(check, rng):
    def make(rng):
        case = conv_case("2d, kernel not square", rng)
        return Case(BiasedLoRA(case.target, rng.standard_normal(12)), case.args)

    check(make, rng)


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("groups", "size"), [(1, 3), (2, 2), (4, 2), (2, 4), (3, 2), (6, 4)])
def test_loralibs_form_passes(groups, size, check, rng):
    check(lambda rng: loralib_case(groups, size, rng), rng)


def test_with_a_kernel_of_one_both_forms_are_lora_on_every_position(rng):
    x, W = rng.standard_normal((2, 7, 5, 4)), rng.standard_normal((11, 7, 1, 1))
    A, B = rng.standard_normal((3, 7)), rng.standard_normal((11, 3))
    plain = LoRA(A, B, SCALE)
    expected = np.moveaxis(plain.apply(np.moveaxis(x, 1, -1), W[:, :, 0, 0])[0], -1, 1)
    geometry = Geometry.uniform(2)
    conv = ConvLoRA(A[:, :, None, None], B[:, :, None, None], SCALE, geometry)
    assert_close(conv.apply(x, W)[0], expected, "routes", "ConvLoRA")
    loralib = LoralibConvLoRA(A, B, SCALE, geometry)
    assert_close(loralib.apply(x, W)[0], expected, "routes", "LoralibConvLoRA")


def test_a_group_reads_its_own_channels_and_its_own_share_of_the_rank(rng):
    case = conv_case("1d, three groups", rng)
    lora, W = case.target, case.args[1]
    delta = lora.merge(W) - W
    for o in range(12):
        group = o // 4
        own = lora.A[2 * group : 2 * group + 2]
        expected = SCALE * sum(lora.B[o, i, 0] * own[i] for i in range(2))
        assert_close(delta[o], expected, "routes", f"channel {o}")


@pytest.mark.parametrize("cls", [ConvLoRA, LoralibConvLoRA])
def test_training_starts_at_the_base_model(cls, rng):
    W = rng.standard_normal((10, 2, 3, 3))
    geometry = Geometry.uniform(2, groups=2)
    adapter = cls.init(W, rank=4, alpha=5, geometry=geometry, rng=rng)
    assert np.array_equal(adapter.merge(W), W)
    assert np.any(adapter.A != 0)
    assert adapter.scale == 5 / 4


def test_kaimings_bound_counts_the_kernel(rng):
    W = np.zeros((10, 5, 4, 5))
    A = ConvLoRA.init(W, 200, 5, Geometry.uniform(2), rng).A
    assert 0.0999 < np.max(np.abs(A)) <= 0.1  # 1/√(5·4·5)


def test_a_rank_that_the_groups_do_not_divide_is_refused(rng):
    with pytest.raises(ValueError, match=r"rank must be a multiple of groups = 2 .* got 3"):
        ConvLoRA.init(np.zeros((4, 2, 3)), 3, 5, Geometry.uniform(1, groups=2), rng)


def test_a_B_without_groups_is_named():
    A, B = np.ones((4, 3, 2)), np.ones((6, 4, 1))
    expected = r"ConvLoRA.B must be \(m, r / groups, 1\) with r = 4 .* got \(6, 4, 1\)"
    with pytest.raises(ShapeError, match=expected):
        ConvLoRA(A, B, 1.0, Geometry.uniform(1, groups=2))


def test_a_B_whose_outputs_the_groups_do_not_divide_is_named():
    A, B = np.ones((4, 3, 2)), np.ones((7, 2, 1))
    with pytest.raises(ShapeError, match=r"groups = 2, which must divide m, got \(7, 2, 1\)"):
        ConvLoRA(A, B, 1.0, Geometry.uniform(1, groups=2))


def test_an_A_whose_rank_the_groups_do_not_divide_is_refused():
    A, B = np.ones((5, 3, 2)), np.ones((6, 2, 1))
    with pytest.raises(ValueError, match=r"rank must be a multiple of groups = 2 .* got 5"):
        ConvLoRA(A, B, 1.0, Geometry.uniform(1, groups=2))


def test_a_grouped_adapter_of_peft_with_such_a_rank_is_refused():
    with pytest.raises(ValueError, match=r"rank must be a multiple of groups = 2 .* got 5"):
        peft_grouped(np.ones((5, 6, 2)), np.ones((6, 2, 1)), 1.0, Geometry.uniform(1, groups=2))


def test_an_A_of_other_dimensions_is_named():
    A, B = np.ones((4, 3, 2, 2)), np.ones((6, 4, 1))
    expected = r"ConvLoRA.A must be \(r, c, \*kernel\) with 1 kernel axes .* got \(4, 3, 2, 2\)"
    with pytest.raises(ShapeError, match=expected):
        ConvLoRA(A, B, 1.0, Geometry.uniform(1))


def test_a_weight_that_is_not_grouped_is_named():
    lora = ConvLoRA(np.ones((4, 3, 2)), np.ones((6, 2, 1)), 1.0, Geometry.uniform(1, groups=2))
    with pytest.raises(ShapeError, match=r"ConvLoRA: W must be .* \(6, 3, 2\).* got \(6, 6, 2\)"):
        lora.merge(np.ones((6, 6, 2)))


def test_loralibs_form_refuses_a_kernel_that_is_not_square():
    lora = LoralibConvLoRA(np.ones((6, 9)), np.ones((12, 6)), 1.0, Geometry.uniform(2))
    with pytest.raises(ShapeError, match=r"W must be \(m, c, k, k\).* got \(4, 3, 3, 2\)"):
        lora.merge(np.ones((4, 3, 3, 2)))


@pytest.mark.peers
@pytest.mark.parametrize("groups", [1, 2])
def test_loralibs_form_is_loralibs(groups, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    loralib = pytest.importorskip("loralib", reason="loralib is in no extra")
    theirs = loralib.Conv2d(
        4, 6, 3, r=2, lora_alpha=5, stride=2, padding=1, groups=groups, bias=False
    ).double()
    torch.nn.init.normal_(theirs.lora_B)
    x = torch.tensor(rng.standard_normal((2, 4, 7, 6)), requires_grad=True)
    y = theirs(x)
    dy = torch.tensor(rng.standard_normal(y.shape))
    y.backward(dy)
    A, B = theirs.lora_A.detach().numpy(), theirs.lora_B.detach().numpy()
    lora = LoralibConvLoRA(A, B, 5 / 2, Geometry.uniform(2, stride=2, padding=1, groups=groups))
    mine, backward = lora.apply(x.detach().numpy(), theirs.conv.weight.detach().numpy())
    dx, d = backward(dy.numpy())
    assert_close(mine, y, "golden", "y")
    assert_close(dx, x.grad, "golden", "dx")
    assert_close(d.A, theirs.lora_A.grad, "golden", "dA")
    assert_close(d.B, theirs.lora_B.grad, "golden", "dB")
