"""DoRA of convolutions and embeddings, and dropout, against what PEFT gave."""

import numpy as np
import pytest
from test_golden import adapted, geometry_of, recorded

from lora_ref.adapters import ConvDoRA, ConvLoRA, DoRA, EmbeddingDoRA, EmbeddingLoRA
from lora_ref.compose.dropout import dropped, dropped_apply, dropped_lora
from lora_ref.trees import with_leaves

CONVOLUTIONS = recorded("peft_dora", "Conv1d", "Conv2d", "Conv3d")


def is_dropped(param):
    return param.values[0].has("mask")


def conv_adapter(case):
    W = case["base/weight"]
    geometry = geometry_of(case.geometry, W.shape[2:])
    lora = ConvLoRA(case["adapter/A"], case["adapter/B"], case.scale, geometry)
    if not case.has("adapter/m"):
        return lora
    return ConvDoRA(lora, case["adapter/m"].reshape(-1), detach_norm=True)


def bias_of(case, W):
    b = case["base/bias"] if case.has("base/bias") else np.zeros(W.shape[0])
    return b.reshape(-1, *[1] * (W.ndim - 2))


def expect_gradients(case, dadapter):
    lora = getattr(dadapter, "lora", dadapter)
    case.expect_gradients(lora.A, lora.B)
    if case.has("adapter/m"):
        case.expect("d_adapter/m", dadapter.m.reshape(case["adapter/m"].shape))


@pytest.mark.parametrize("case", [p for p in CONVOLUTIONS if not is_dropped(p)])
def test_a_convolution_with_dora_gives_the_recorded_numbers(case):
    W, adapter = case["base/weight"], conv_adapter(case)
    y, backward = adapter.apply(case["input/0"], W)
    dx, dadapter = backward(case["dy"])
    case.expect("y", y + bias_of(case, W))
    case.expect("d_input/0", dx)
    expect_gradients(case, dadapter)
    case.expect("merged/weight", adapter.merge(W))


@pytest.mark.parametrize("case", recorded("peft_dora", "Embedding"))
def test_an_embedding_with_dora_gives_the_recorded_numbers(case):
    ids, E = case["input/0"], case["base/weight"]
    lora = EmbeddingLoRA(case["adapter/A"], case["adapter/B"], case.scale)
    adapter = EmbeddingDoRA(lora, case["adapter/m"], detach_norm=True)
    y, backward = adapter.apply(ids, E)
    case.expect("y", y)
    case.expect("merged/weight", adapter.merge(E))
    d = backward(case["dy"])[1]
    case.expect("d_adapter/B", d.lora.B)
    case.expect("d_adapter/m", d.m)
    if "padding_idx" in case.geometry:  # PyTorch gives the padding row's column no gradient
        A = d.lora.A.copy()
        A[:, case.geometry["padding_idx"]] = 0
        d = with_leaves(d, lora=with_leaves(d.lora, A=A))
    case.expect("d_adapter/A", d.lora.A)


@pytest.mark.parametrize("route", [dropped, dropped_apply, dropped_lora])
@pytest.mark.parametrize("case", recorded("peft_dora", "Linear") + CONVOLUTIONS)
def test_dropout_gives_the_recorded_numbers(case, route):
    if not case.has("mask"):
        pytest.skip("recorded without dropout")
    W = case["base/weight"]
    adapter = adapted(case, case.lora) if W.ndim == 2 else conv_adapter(case)
    if route is dropped_lora and (W.ndim > 2 or isinstance(adapter, DoRA)):
        pytest.skip("dropped_lora takes LoRA of a linear layer")
    y, backward = route(adapter, case["input/0"], W, case["mask"])
    dx, dadapter = backward(case["dy"])
    case.expect("y", y + bias_of(case, W))
    case.expect("d_input/0", dx)
    expect_gradients(case, dadapter)
