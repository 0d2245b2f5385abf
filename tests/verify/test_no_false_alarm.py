"""No honest merge is called a bug, and one in an order that the table has is explained by it."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layouts import KINDS, LAYOUTS, llama, of_random_sizes
from models import save
from orders import KNOWN, UNKNOWN, accumulated_in_float32, delta_first, low_product
from sweep import judged

from lora_ref.verify import Status, verify

DTYPES = ("bfloat16", "float16", "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_merged_in_a_known_order_is_explained_by_a_recipe(layout, dtype):
    case = LAYOUTS[layout](np.random.default_rng(5), 0.02).cast(dtype)
    for order in (accumulated_in_float32, delta_first, low_product):
        for verdict in judged(case, order, None):
            assert verdict.status in (Status.EXACT, Status.ROUNDING), verdict.text
            assert verdict.status == Status.EXACT or "bit for bit" in verdict.recipe


@pytest.mark.parametrize("order", [*KNOWN, *UNKNOWN], ids=lambda order: order.__name__)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from((5e-4, 2e-3, 1e-2, 5e-2, 0.5)),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    to=st.sampled_from((None, *DTYPES)),
)
@settings(max_examples=8)
# Sums kept in float16 where the factors and the product are below its normal numbers.
@example(seed=10, size=5e-4, kind="zeros", dtype="float16", to=None)
@example(seed=100, size=0.5, kind="small numbers", dtype="float16", to=None)
def test_no_order_of_rounding_is_a_bug(order, seed, size, kind, dtype, to):
    case = of_random_sizes(np.random.default_rng(seed), size, kind).cast(dtype)
    [verdict] = judged(case, order, to if dtype == "float32" else None)
    assert verdict.status != Status.BUG, verdict.text
    if order in KNOWN:
        assert (
            verdict.status in (Status.EXACT, Status.UNDECIDABLE) or "bit for bit" in verdict.recipe
        )


def test_a_scale_rounded_to_sixteen_bits_is_no_other_scale():
    case = llama(np.random.default_rng(1), 0.02, stabilised=True, layers=1).cast("bfloat16")
    bf16 = UNKNOWN[-1]
    assert bf16.__name__ == "twice_rounded_scale"
    assert all(v.status != Status.BUG for v in judged(case, bf16, None))


@pytest.mark.parametrize("order", [accumulated_in_float32, delta_first])
def test_a_merge_into_float8_is_explained(order):
    case = llama(np.random.default_rng(1), 0.3, layers=1).cast("float8")
    assert all(v.status in (Status.EXACT, Status.ROUNDING) for v in judged(case, order, None))


def test_a_float64_merge_is_exact():
    case = llama(np.random.default_rng(1), 0.02, layers=1).cast("float64")
    verdicts = judged(case, lambda W, t, to: (W + t.s * t.place(
        t.B.astype(float), t.A.astype(float), np.matmul)), None)  # fmt: skip
    assert all(v.status in (Status.EXACT, Status.ROUNDING) for v in verdicts)


def test_an_untrained_adapter_leaves_everything_exact():
    case = llama(np.random.default_rng(1), 0.02, layers=1).cast("bfloat16")
    for key in [k for k in case.adapter if "lora_B" in k]:
        case.adapter[key] = case.adapter[key] * 0
    assert all(
        v.status == Status.EXACT for v in judged(replaced_B(case), accumulated_in_float32, None)
    )


def replaced_B(case):
    for name, t in case.targets.items():
        case.targets[name] = type(t)(t.A, t.B * 0, t.s, t.place)
    return case


@pytest.mark.parametrize(("in_base", "in_merged"), [("", "model."), ("model.", ""), ("", "")])
def test_a_prefix_more_or_less_is_the_same_model(tmp_path, in_base, in_merged):
    case = llama(np.random.default_rng(1), 0.02, layers=1).cast("bfloat16")
    base, adapter, merged = case.write(tmp_path, None)
    for directory, tensors, prefix in ((base, case.tensors, in_base),
                                       (merged, case.merged(), in_merged)):  # fmt: skip
        renamed = {prefix + n.removeprefix("model."): t for n, t in tensors.items()}
        save(type(tmp_path)(directory), renamed, case.config)
    assert not verify(base, adapter, merged).has_bug


def test_shards_and_one_file_are_the_same_checkpoint(tmp_path):
    case = llama(np.random.default_rng(1), 0.02, layers=1).cast("bfloat16")
    base, adapter, merged = case.write(tmp_path, None)
    (tmp_path / "base" / "model.safetensors").unlink()
    save(tmp_path / "base", case.tensors, case.config, shards=3)
    save(tmp_path / "merged", case.merged(), case.config, shards=2)
    assert all(
        v.status in (Status.EXACT, Status.ROUNDING) for v in verify(base, adapter, merged).verdicts
    )
