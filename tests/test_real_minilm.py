"""The main job on a real model: merges of the whole MiniLM, right ones and wrong ones."""

import pytest
import real_minilm
from real_minilm_mutations import MUTATIONS

from lora_ref.verify import Status, verify

pytestmark = pytest.mark.peers
TRAINED = sorted(p.name for p in real_minilm.ADAPTERS.iterdir())


def judged(merged, adapter="qv"):
    return verify(str(real_minilm.base_path()), str(real_minilm.ADAPTERS / adapter), str(merged))


@pytest.mark.parametrize("safe", [False, True], ids=["unsafe", "safe"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("adapter", TRAINED)
def test_a_merge_by_peft_is_explained_bit_by_bit_for_every_tensor(adapter, dtype, safe, tmp_path):
    real_minilm.base_path()
    real_minilm.peft_merge()(real_minilm.ADAPTERS / adapter, tmp_path, dtype=dtype, safe_merge=safe)
    report = judged(tmp_path, adapter)
    assert {v.status for v in report.verdicts} <= {Status.EXACT, Status.ROUNDING}
    recipes = [v.recipe for v in report.verdicts if v.status == Status.ROUNDING]
    assert all("bit for bit" in recipe for recipe in recipes)
    assert not [r for r in recipes if "but" in r]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_found_and_named(name, dtype, models, tmp_path):
    model, right = models(dtype)
    change, expected = MUTATIONS[name]
    merged = dict(right)
    change(model, merged)
    report = judged(real_minilm.write(tmp_path, merged))
    bugs = [v for v in report.verdicts if v.status == Status.BUG]
    said = [f"{d.name} {d.formula}" for v in bugs for d in v.diagnoses]
    assert bugs
    assert any(word in text for word in expected for text in said), said


@pytest.fixture(scope="module")
def models():
    """The base and its right merge in one dtype, made once."""
    made = {}

    def get(dtype):
        if dtype not in made:
            model = real_minilm.Model(dtype)
            made[dtype] = model, model.merged()
        return made[dtype]

    return get
