"""Plans against figures that others have published, each with its source."""

import pytest
from model_configs import PARAMETERS, PUBLISHED, written

from lora_ref.plan import (
    ALL_LINEAR,
    Linear,
    LowRank,
    Quantized,
    base_bytes,
    gpt3,
    plan,
    read_model,
)


@pytest.mark.parametrize(("rank", "millions"), [(1, 4.7), (2, 9.4), (4, 18.9), (8, 37.7)])
def test_gpt3_with_lora_on_queries_and_values_as_the_paper_has_it(rank, millions):
    """Hu et al. 2021, section 5.5 and table 4: 4.7 M and 37.7 M; |Θ| = 2 L d r, section 5.1."""
    trained = plan(gpt3(), LowRank(rank)).trained
    assert trained == 2 * (2 * 96) * 12288 * rank
    assert round(trained / 1e6, 1) == millions


def test_gpt3_has_175_billion_parameters_350_gb_in_16_bits():
    """Brown et al. 2020, table 2.1; Hu et al. 2021, section 4.2."""
    assert gpt3().parameters == 174_604_259_328
    assert round(base_bytes(gpt3(), 2) / 1e9) == 349


def test_a_checkpoint_of_rank_4_is_about_ten_thousand_times_smaller():
    """Hu et al. 2021, section 4.2, has 350 GB and 35 MB: 36.0 MiB, and 9,251 times."""
    memory = plan(gpt3(), LowRank(4), dtype="float16", adapter_dtype="float16").memory
    assert memory.checkpoint == 37_748_736 == 36 * 2**20
    assert round(plan(gpt3(), LowRank(4), dtype="float16").full.checkpoint / 37_748_736) == 9251


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("sgd", 0),
        ("momentum", 1 / 2),
        ("adam", 2 / 3),
        ("adamw", 2 / 3),
        ("adam8bit", 65 / 129),  # (1 + 4/256) · 2 bytes beside 2 of the weight
        ("adamw8bit", 65 / 129),
    ],
)
def test_the_optimizers_saving_is_its_share_of_weights_and_states(name, share):
    """Hu et al. 2021, section 4.2: up to 2/3 for Adam. Nothing for an optimizer without states."""
    done = plan(gpt3(), LowRank(1), optimizer=name, adapter_dtype="bfloat16")
    assert share - 1e-3 < done.optimizer_saving < share + 1e-8


@pytest.mark.parametrize(
    ("double", "constants", "total"), [(False, 0.5, 4.5), (True, 8 / 64 + 32 / (64 * 256), 4.12695)]
)
def test_qloras_bits_of_a_parameter(double, constants, total):
    """Dettmers et al. 2023, section 3: 0.5 bits for constants, 0.127 doubly quantized."""
    quantized = Quantized(double=double)
    assert quantized.constant_bits == constants
    linear = Linear("q", 8192, 8192)
    assert round(8 * quantized.bytes(linear) / 8192**2, 5) == total
    assert round(0.5 - Quantized().constant_bits, 3) == 0.373


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_sizes(tmp_path, name):
    """tests/plan/test_plan_peers.py has the same numbers from transformers."""
    fields = {"model_type": name, **PUBLISHED[name]}
    assert read_model(written(tmp_path, fields).parent).parameters == PARAMETERS[name]


def test_llama_7b_with_rank_16_on_queries_and_values(tmp_path):
    """8,388,608: as PEFT prints for it."""
    fields = {"model_type": "llama", **PUBLISHED["llama"]}
    model = read_model(written(tmp_path, fields))
    assert plan(model, LowRank(16)).trained == 8_388_608
    everywhere = plan(model, LowRank(16), targets=(ALL_LINEAR,))
    assert everywhere.trained == 39_976_960
    assert sum(x.count for x in everywhere.adapted) == 224


def test_gpt3_trains_a_third_faster_in_theory_as_its_authors_measured():
    """Hu et al. 2021, footnote 5: 32.5 and 43.1 tokens/s; a bound of products is 1.49."""
    flops = plan(gpt3(), LowRank(8), tokens=2048).flops
    full = flops.merged_forward + flops.full_backward
    assert 43.1 / 32.5 < full / (flops.factored_forward + flops.factored_backward) < 1.5
