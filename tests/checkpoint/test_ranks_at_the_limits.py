"""Updates that no number holds: one line that names the file and the module."""

import numpy as np
import pytest
from peft_files import P, linear, save, values

from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.peft import PeftAdapter
from lora_ref.checkpoint.reranked import reranked
from lora_ref.checkpoint.spectra import spectra


def named(path, A, B):
    return {f"{P}{path}.lora_A.weight": A, f"{P}{path}.lora_B.weight": B}


def of_size(a, b, dtype="float64"):
    return {**linear("l.k", rank=5), **named("l.q", *(
        np.full(shape, size, dtype) for shape, size in (((5, 7), a), ((11, 5), b))
    ))}  # fmt: skip


# Finite factors of an update beyond float64, and of one below.
BEYOND = {
    "large": (of_size(1e200, 1e200), {}),
    "one large element": (
        named("l.q", *(np.where(np.eye(m, n) > 0, 1e200, 0.0) for m, n in ((5, 7), (11, 5)))),
        {},
    ),
    "a large scale": (of_size(1e10, 1e10), {"lora_alpha": 1e308}),
    "small": (of_size(1e-200, 1e-200), {}),
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("what", [spectra, lambda adapter: reranked(adapter, 2)])
def test_an_update_that_float64_cannot_hold_is_refused_by_module_and_file(name, what, tmp_path):
    tensors, fields = BEYOND[name]
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, r=5, **fields))
    with pytest.raises(CheckpointError, match=r"module 'l\.q' has an update that") as error:
        what(adapter)
    at = tmp_path / "a" / "adapter_model.safetensors"
    assert str(error.value).startswith(f"{at}: module")
    assert "\n" not in str(error.value)


def test_large_factors_of_an_update_that_float64_holds_have_their_ranks(tmp_path):
    tensors = named("l.q", 1e200 * values(5, 7, dtype="float64"), values(11, 5, dtype="float64"))
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, r=5))
    [layer] = spectra(adapter)
    assert np.isfinite(layer.spectrum).all()
    [change] = reranked(adapter, 1).changes
    squares = (layer.spectrum / layer.spectrum[0]) ** 2
    assert change.retained == pytest.approx(squares[0] / squares.sum())
    assert change.error == pytest.approx((1 - change.retained) ** 0.5)


def test_factors_that_leave_the_range_of_their_type_are_refused(tmp_path):
    tensors = named("l.q", *(np.full(s, 6e4, "float16") for s in ((4, 64), (64, 4))))
    fields = {"r": 4, "lora_alpha": 8, "use_rslora": True}
    adapter = PeftAdapter.open(save(tmp_path / "a", tensors, **fields))
    with pytest.raises(CheckpointError, match=r"module 'l\.q' at rank 1 leaves the range of F16"):
        reranked(adapter, 1)


def test_what_cannot_be_cut_is_refused_with_the_path_of_its_file(tmp_path):
    conv = named("c", values(6, 4, 3, 2), values(8, 3, 1, 1))
    grouped = PeftAdapter.open(save(tmp_path / "a", conv, r=6))
    changed = PeftAdapter.open(save(tmp_path / "b", linear(), init_lora_weights="olora"))
    for adapter, at in ((grouped, "a"), (changed, "b")):
        with pytest.raises(CheckpointError) as error:
            reranked(adapter, 2)
        assert str(error.value).startswith(str(tmp_path / at / "adapter_model.safetensors"))
