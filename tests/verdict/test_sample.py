"""A large LoRA layer is diagnosed from a sample of its tokens where that leaves no doubt."""

import numpy as np
import pytest
from mistake_cases import as_rounded, half_ulp_variance

from lora_ref.verdict.contract import BFLOAT16_FLOAT32_INTERMEDIATES
from lora_ref.verdict.findings import State
from lora_ref.verdict.grids import BFLOAT16
from lora_ref.verdict.matched_filter import diagnose
from lora_ref.verdict.mistakes import names
from lora_ref.verdict.mistakes.mutation import changed
from lora_ref.verdict.oracles import lora_linear
from lora_ref.verdict.sample import in_parts, sample_of
from lora_ref.verdict.view import view


def judged(oracle, outputs):
    """The diagnoses of `outputs` after honest rounding."""
    actual = as_rounded(outputs, BFLOAT16, np.random.default_rng(1))
    variance = half_ulp_variance(oracle, BFLOAT16)
    return diagnose(view(oracle, BFLOAT16_FLOAT32_INTERMEDIATES, variance, actual))


def present(diagnoses):
    return [d.name for d in diagnoses if d.state is State.PRESENT]


def wide_case(*, update: float, tokens=1200, inputs=30, outputs=22):
    """A LoRA layer of so many tokens that diagnoses begin with a sample of them."""
    rng = np.random.default_rng(3)

    def draw(*shape: int, size: float = 1.0) -> np.ndarray:
        return BFLOAT16.round(size * rng.standard_normal(shape))

    W, A, B = draw(outputs, inputs), draw(5, inputs), draw(outputs, 5, size=update * 0.3)
    x, b, dy = draw(4, tokens, inputs), draw(outputs), draw(4, tokens, outputs)
    return lora_linear(x, W, A, B, scale=1.25, b=b, dy=dy)


def test_a_layer_in_its_parts_is_the_kernel_for_all_tokens_and_for_some():
    oracle = wide_case(update=1.0)
    values = {"A": oracle.inputs["adapter"].A[::-1], "W": 2 * oracle.static["W"], "scale": 0.5}
    for changes in ({}, values):
        right = changed(oracle, **changes)
        whole, some = changed(in_parts(oracle), **changes), sample_of(in_parts(oracle))
        few = changed(some.oracle, **changes)
        for name, expected in some.of(right).items():
            assert len(few["y"]) < right["y"].size / right["y"].shape[-1] / 4
            assert np.allclose(few[name], expected, rtol=1e-11, atol=1e-11)
            assert np.allclose(whole[name], right[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("update", [1.0, 0.04])
def test_a_sample_of_the_tokens_excludes_what_all_of_them_exclude(update, monkeypatch):
    oracle = wide_case(update=update)
    sampled = judged(oracle, oracle.reference())
    monkeypatch.setattr("lora_ref.verdict.view.sample_of", lambda oracle: None)
    full = judged(oracle, oracle.reference())
    assert [(d.name, d.state) for d in sampled] == [(d.name, d.state) for d in full]
    signals = {d.name: d.signal for d in full}
    assert any(d.signal < 0.6 * signals[d.name] for d in sampled)


PLANTED = (
    names.NOT_APPLIED,
    names.A_TRANSPOSED,
    names.LAST_INPUT_OF_BASE,
    names.LAST_OUTPUT,
    names.LAST_TOKEN,
    names.BIAS_TWICE,
    names.DB_UNSCALED,
    names.GRADIENTS_LAST_TOKEN,
)


@pytest.mark.parametrize("name", PLANTED)
def test_what_a_sample_does_not_exclude_is_found_in_all_tokens(name):
    oracle = wide_case(update=1.0)
    (mistake,) = (m for m in oracle.mistakes if m.name == name)
    assert present(judged(oracle, oracle.reference() | mistake.outputs(oracle))) == [name]


def test_two_mistakes_in_different_outputs_are_both_found():
    oracle = wide_case(update=1.0)
    right = oracle.reference()
    outputs = right | {"dB": right["dB"] / 1.25} | changed(oracle, ("dx",), scale=0.0)
    found = present(judged(oracle, outputs))
    assert set(found) == {names.DB_UNSCALED, names.DX_WITHOUT_UPDATE}


def test_an_error_outside_the_sample_gives_no_name():
    oracle = wide_case(update=1.0)
    outputs = oracle.reference()
    rows = {*range(4800)} - {*sample_of(in_parts(oracle)).rows.tolist()}
    outputs["y"].reshape(4800, -1)[sorted(rows)[7]] *= 3
    assert not present(judged(oracle, outputs))


def test_gradients_of_zeros_are_not_called_averaged():
    oracle = wide_case(update=1.0)
    outputs = {n: t if n in ("y", "dx") else 0 * t for n, t in oracle.reference().items()}
    assert not present(judged(oracle, outputs))
