"""Input that cannot be judged ends in one line that says why."""

import numpy as np
import pytest
from layouts import llama
from models import save

from lora_ref.checkpoint import CheckpointError
from lora_ref.verify import verify

Q0 = "model.layers.0.self_attn.q_proj.weight"


def refused(tmp_path, case, *, merged=None, paths=None) -> str:
    written = case.write(tmp_path, case.merged() if merged is None else merged)
    with pytest.raises(CheckpointError) as caught:
        verify(*(paths(*written) if paths else written))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def case():
    return llama(np.random.default_rng(1), layers=1)


def test_an_adapter_for_a_model_with_other_names(tmp_path, case):
    right = case.merged()
    case.tensors = {n.replace("self_attn", "attention"): t for n, t in case.tensors.items()}
    assert "is not the adapter's model" in refused(tmp_path, case, merged=right)


def test_an_adapter_for_a_model_of_other_sizes(tmp_path, case):
    case.tensors[Q0] = case.tensors[Q0][:, :-1]
    assert "must fit A and B" in refused(tmp_path, case, merged=case.tensors)


def test_a_base_with_NaN_where_it_is_adapted(tmp_path, case):
    case.tensors[Q0][1, 1] = np.nan
    assert "must be finite" in refused(tmp_path, case)


def test_rank_zero(tmp_path, case):
    case.fields["r"] = 0
    assert "rank" in refused(tmp_path, case)


def test_a_base_of_codes(tmp_path, case):
    right = case.merged()
    case.tensors[Q0] = (case.tensors[Q0] * 100).astype(np.int8)
    assert "quantized" in refused(tmp_path, case, merged=right)


def test_an_adapter_whose_initialisation_changed_the_base(tmp_path, case):
    case.fields["init_lora_weights"] = "pissa"
    assert "pissa" in refused(tmp_path, case)


def test_an_adapter_in_place_of_the_base(tmp_path, case):
    assert "adapter" in refused(tmp_path, case, paths=lambda b, a, m: (a, a, m))


def test_a_model_in_place_of_the_adapter(tmp_path, case):
    assert "adapter_config.json" in refused(tmp_path, case, paths=lambda b, a, m: (b, b, m))


def test_an_empty_merged_directory(tmp_path, case):
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path, case, paths=lambda b, a, m: (b, a, str(tmp_path / "empty")))


def test_factors_of_NaN(tmp_path, case):
    key = next(k for k in case.adapter if k.endswith("lora_B.weight"))
    right = case.merged()
    case.adapter[key][0, 0] = np.nan
    assert "finite" in refused(tmp_path, case, merged=right)


def test_a_pickle_is_not_read(tmp_path, case):
    save(tmp_path / "x", case.tensors)
    (tmp_path / "x" / "model.safetensors").rename(tmp_path / "x" / "pytorch_model.bin")
    assert "pickle" in refused(tmp_path, case, paths=lambda b, a, m: (b, a, str(tmp_path / "x")))


@pytest.mark.parametrize("companion", ["_scale_inv", ".absmax", ".SCB"])
def test_a_weight_with_a_scale_beside_it(tmp_path, case, companion):
    right = case.merged()
    case.tensors[f"{Q0}{companion}"] = np.ones(1, dtype=np.float32)
    assert "codes" in refused(tmp_path, case, merged=right)


def test_an_update_too_large_for_its_dtype_is_a_bug_and_no_fault(tmp_path, case):
    right = case.merged()
    case.fields["lora_alpha"] = 1.7e308
    report = verify(*case.write(tmp_path, right))
    assert report.has_bug
