"""The matched filter: what is planted is named, what is right or unknown is not."""

import numpy as np
import pytest
from mistake_cases import as_rounded, half_ulp_variance, linear_case, oracles

from lora_ref.adapters import LoRA
from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    BFLOAT16_FLOAT32_INTERMEDIATES,
    FLOAT32_CONTRACT,
    Contract,
    Forms,
)
from lora_ref.verdict.findings import State
from lora_ref.verdict.grids import BFLOAT16, FLOAT32
from lora_ref.verdict.matched_filter import diagnose
from lora_ref.verdict.mistakes import names
from lora_ref.verdict.mistakes.mutation import changed, value_of
from lora_ref.verdict.oracles import lora_linear, lora_merged
from lora_ref.verdict.path_gains import path_gains
from lora_ref.verdict.power import blind_spots, power
from lora_ref.verdict.view import view

CONTRACTS = {BFLOAT16: BFLOAT16_FLOAT32_INTERMEDIATES, FLOAT32: FLOAT32_CONTRACT}
KINDS = ("linear", "square", "merged", "dora", "dora square", "attention", "cross", "rotary")


def judged(oracle, outputs, grid, contract: Contract | None = None, seed=1):
    """The diagnoses of `outputs` after honest rounding."""
    actual = as_rounded(outputs, grid, np.random.default_rng(seed))
    variance = half_ulp_variance(oracle, grid)
    return diagnose(view(oracle, contract or CONTRACTS[grid], variance, actual))


def present(diagnoses):
    return [d.name for d in diagnoses if d.state is State.PRESENT]


@pytest.mark.parametrize("grid", CONTRACTS, ids=lambda grid: grid.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_kernel_has_no_known_mistake(kind, grid):
    oracle = oracles(grid)[kind]
    for seed in range(3):
        assert not present(judged(oracle, oracle.reference(), grid, seed=seed))


@pytest.mark.parametrize("grid", CONTRACTS, ids=lambda grid: grid.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_mistake_is_named_and_the_others_are_not(kind, grid):
    oracle = oracles(grid)[kind]
    right = oracle.reference()
    for mistake in oracle.mistakes:
        outputs = mistake.outputs(oracle)
        if outputs is None:
            continue
        diagnoses = judged(oracle, right | outputs, grid)
        own = next((d for d in diagnoses if d.name == mistake.name), None)
        blind = own is not None and own.signal < 8 and own.state is State.UNDECIDABLE
        assert blind or present(diagnoses) == [mistake.name]


def test_mistakes_that_are_equal_by_chance_are_named_together():
    oracle = linear_case(np.random.default_rng(0), BFLOAT16, scale=2.0)
    (found,) = present(judged(oracle, changed(oracle, scale=4.0), BFLOAT16))
    assert set(found.split(" or ")) == {names.APPLIED_TWICE, names.SCALE_TWICE}  # s = 2


def test_mistakes_that_are_equal_by_chance_have_their_formulas_one_by_one_and_inputs_to_tell_them():
    oracle = linear_case(np.random.default_rng(0), BFLOAT16, scale=3.0)  # r = 3, so s² = s r = α
    (found,) = (
        d for d in judged(oracle, changed(oracle, scale=9.0), BFLOAT16) if d.state == "PRESENT"
    )
    assert found.formula == (
        "one of these, which these inputs do not tell apart: t = α = s·r where s; t = s² where s; "
        "α, r and s pairwise different would"
    )


def advice_of(oracle, name):
    diagnoses = judged(oracle, oracle.reference(), BFLOAT16)
    return next(d for d in diagnoses if d.name == name).advice


def test_an_adapter_as_training_starts_is_blind_because_its_b_is_zero():
    right = linear_case(np.random.default_rng(0), BFLOAT16)
    oracle = lora_linear(*(value_of(right, n) for n in "xWA"), np.zeros((11, 3)), scale=1.25)
    assert advice_of(oracle, names.HALVED) == "another B: this one is all zero (LoRA's start)"


def test_no_inputs_are_advised_that_these_are_already():
    t = linear_case(np.random.default_rng(0), BFLOAT16)
    x, W, A, B = (value_of(t, n) for n in "xWAB")
    rank_one = lora_linear(x, W, A[:1], B[:, :1], scale=1.25)
    assert advice_of(rank_one, names.A_TRANSPOSED) == "r > 1"
    assert advice_of(rank_one, names.ROOT_FOR_RANK) == "r > 1"
    assert advice_of(lora_linear(x, W, A, B, scale=1.0), names.SCALE_LEFT_OUT) == "s not 1"
    tiny = lora_linear(x, W, A, 2.0**-20 * B, scale=1.25)
    for name in (names.SCALE_LEFT_OUT, names.ROOT_FOR_RANK):
        assert advice_of(tiny, name) == "a larger update: larger B, or α larger"


def test_a_mistake_in_the_forward_alone_is_said_to_be_there():
    oracle = linear_case(np.random.default_rng(0), BFLOAT16)
    outputs = oracle.reference() | changed(oracle, ("y",), scale=0.0)
    assert present(judged(oracle, outputs, BFLOAT16)) == ["not applied, in the forward alone"]


def test_two_mistakes_in_different_outputs_are_both_named():
    oracle = linear_case(np.random.default_rng(0), BFLOAT16)
    right = oracle.reference()
    outputs = right | {"dB": right["dB"] / 1.25} | changed(oracle, ("dx",), scale=0.0)
    found = present(judged(oracle, outputs, BFLOAT16))
    assert set(found) == {names.DB_UNSCALED, names.DX_WITHOUT_UPDATE}


UNKNOWN = {
    "zeros": lambda t, rng: 0 * t,
    "noise": lambda t, rng: t * (1 + 0.1 * rng.standard_normal(t.shape)),
    "garbage": lambda t, rng: rng.standard_normal(t.shape),
    "rows moved": lambda t, rng: np.roll(t, 1, 0) if t.ndim == 1 else np.roll(t, 1, -2),
    "not a number": lambda t, rng: t * np.nan,
    "one element": lambda t, rng: t + 3 * (np.arange(t.size).reshape(t.shape) == 5),
}


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_bug_gets_no_name(kind, unknown):
    oracle = oracles(BFLOAT16)[kind]
    rng = np.random.default_rng(7)
    outputs = {n: UNKNOWN[unknown](t, rng) for n, t in oracle.reference().items()}
    assert not present(judged(oracle, outputs, BFLOAT16))


def test_a_weaker_form_of_a_mistake_is_neither_present_nor_excluded():
    oracle = linear_case(np.random.default_rng(0), BFLOAT16)
    diagnoses = judged(oracle, changed(oracle, scale=0.35 * 1.25), BFLOAT16)
    found = next(d for d in diagnoses if d.name == names.NOT_APPLIED)
    assert not present(diagnoses)
    assert found.state is State.UNDECIDABLE
    assert "0.65 of it" in found.reason


def test_what_stands_out_by_too_little_is_undecidable():
    oracle = linear_case(np.random.default_rng(0), BFLOAT16, update=1e-5)
    forward = type(oracle)(oracle.kernel, oracle.inputs, oracle.static, mistakes=oracle.mistakes)
    for outputs in (forward.reference(), changed(forward, scale=0.0)):
        diagnoses = judged(forward, outputs, BFLOAT16)
        found = next(d for d in diagnoses if d.name == names.NOT_APPLIED)
        assert not present(diagnoses)
        assert found.state is State.UNDECIDABLE


def test_a_merge_that_eats_the_update_is_not_called_unadapted():
    """A right merge rounds to W wherever the update is below half an ulp of it."""
    rng = np.random.default_rng(0)
    W = BFLOAT16.round(rng.uniform(1, 2, (64, 48)))  # ulp 2^-7: no small weight keeps it
    A, B = rng.standard_normal((4, 48)), 5e-4 * rng.standard_normal((64, 4))
    oracle = lora_merged(W, A, B, scale=1.0)
    right = {"y": BFLOAT16.round(oracle.reference()["y"])}
    variance = half_ulp_variance(oracle, BFLOAT16, rest=0.0)
    diagnoses = diagnose(view(oracle, BFLOAT16_CONTRACT, variance, right))
    found = next(d for d in diagnoses if d.name == names.NOT_APPLIED)
    assert found.signal > 8
    assert found.share > 0.85
    assert found.state is State.UNDECIDABLE
    assert "swamped" in found.reason
    assert not present(diagnoses)


def test_a_layer_over_a_merged_weight_that_ate_the_update_is_not_called_unadapted():
    rng = np.random.default_rng(0)
    W = BFLOAT16.round(rng.standard_normal((64, 48)))
    x, A, B = rng.standard_normal((80, 48)), rng.standard_normal((4, 48)), np.ones((64, 4)) * 2e-4
    oracle = lora_linear(BFLOAT16.round(x), W, A, B, scale=1.0)
    merged = BFLOAT16.round(LoRA(A, B, 1.0).merge(W))
    actual = {"y": BFLOAT16.round(BFLOAT16.round(x) @ merged.T)}
    contract = BFLOAT16_CONTRACT.relax(forms=Forms(merged=True))
    variance = half_ulp_variance(oracle, BFLOAT16)
    assert not present(diagnose(view(oracle, contract, variance, actual)))


def test_exact_elements_count_but_do_not_decide_alone():
    oracle = linear_case(np.random.default_rng(0), FLOAT32)
    variance = {n: 0 * t for n, t in oracle.reference().items()}
    for outputs, expected in (
        (oracle.reference(), []),
        (changed(oracle, scale=0.0), ["not applied"]),
    ):
        actual = {n: FLOAT32.round(t * 1.0) for n, t in (oracle.reference() | outputs).items()}
        assert present(diagnose(view(oracle, FLOAT32_CONTRACT, variance, actual))) == expected


@pytest.mark.parametrize("path", ["update", "base", "bias"])
def test_a_path_that_is_one_percent_off_shows_in_its_gain(path):
    oracle = linear_case(np.random.default_rng(0), BFLOAT16)
    weaker = {
        "update": {"scale": 0.99 * 1.25},
        "base": {"W": 0.99 * oracle.static["W"]},
        "bias": {"b": 0.9 * oracle.inputs["b"]},
    }[path]
    rng, variance = np.random.default_rng(5), half_ulp_variance(oracle, BFLOAT16)
    for outputs, expected in ((changed(oracle, **weaker), {path}), (oracle.reference(), set())):
        actual = as_rounded(outputs, BFLOAT16, rng)
        gains = path_gains(view(oracle, CONTRACTS[BFLOAT16], variance, actual))
        assert {g.name for g in gains if g.is_off()} == expected


def test_the_power_report_says_what_these_inputs_cannot_show_and_what_could():
    oracle = linear_case(np.random.default_rng(0), BFLOAT16, update=2e-4)
    forward = type(oracle)(oracle.kernel, oracle.inputs, oracle.static, mistakes=oracle.mistakes)
    variance = half_ulp_variance(forward, BFLOAT16)
    said = blind_spots(forward, CONTRACTS[BFLOAT16], variance)
    (not_applied,) = (text for text in said if text.startswith("not applied:"))
    assert "UNDECIDABLE" in not_applied
    assert "float32 inputs" in not_applied
    assert "larger B" in not_applied


def test_the_power_report_agrees_with_the_diagnosis_of_a_right_kernel():
    oracle = oracles(BFLOAT16)["linear"]
    variance = half_ulp_variance(oracle, BFLOAT16)
    found = {p.name: p for p in power(oracle, CONTRACTS[BFLOAT16], variance)}
    for d in judged(oracle, oracle.reference(), BFLOAT16):
        assert found[d.name].is_decidable == (d.state is State.EXCLUDED)


def eager(torch, x, W, A, B, b, scale):
    """What PyTorch users write; every operation rounds to bfloat16."""
    linear = torch.nn.functional.linear
    return linear(x, W, b) + linear(linear(x, A), B) * scale


@pytest.mark.peers
@pytest.mark.parametrize(
    ("factor", "named"), [(1.0, []), (0.0, ["not applied"]), (3.0, [names.ALPHA_UNDIVIDED])]
)
def test_a_pytorch_kernel_in_bfloat16_is_diagnosed_with_its_gradients(factor, named):
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    from lora_ref.verdict.bounds import bounds

    drawn = torch.Generator().manual_seed(0)
    shapes = {"x": (40, 96), "W": (64, 96), "A": (3, 96), "B": (64, 3), "b": (64,), "dy": (40, 64)}
    t = {n: torch.randn(s, generator=drawn).to(torch.bfloat16) for n, s in shapes.items()}
    dy = t.pop("dy")
    oracle = lora_linear(**t, scale=1.25, dy=dy)
    inputs = {n: v.requires_grad_(n != "W") for n, v in t.items()}
    y = eager(torch, **inputs, scale=1.25 * factor)
    y.backward(dy)
    actual = {f"d{n}": inputs[n].grad for n in ("x", "A", "B", "b")} | {"y": y.detach()}
    actual = {n: v.double().numpy() for n, v in actual.items()}
    found = bounds(oracle, BFLOAT16_CONTRACT)
    variance = {n: np.asarray(f.s, dtype=np.float64) for n, f in found.items()}
    assert present(diagnose(view(oracle, BFLOAT16_CONTRACT, variance, actual))) == named


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.6, 0.8, 1.0, 1.4, 2.0])
def test_y_alone_names_nothing_where_the_update_is_below_an_ulp(factor):
    """What the order of operations leaves of it is then no fixed share of it."""
    oracle = linear_case(np.random.default_rng(0), BFLOAT16, inputs=97, outputs=61, update=0.002)
    forward = type(oracle)(oracle.kernel, oracle.inputs, oracle.static, mistakes=oracle.mistakes)
    x, W, b = oracle.inputs["x"], oracle.static["W"], oracle.inputs["b"]
    adapter = oracle.inputs["adapter"]
    update = BFLOAT16.round(factor * adapter.scale * (x @ adapter.A.T) @ adapter.B.T)
    base = BFLOAT16.round(BFLOAT16.round(x @ W.T) + b)
    actual = {"y": BFLOAT16.round(base + update)}
    variance = half_ulp_variance(forward, BFLOAT16)
    diagnoses = {d.name: d for d in diagnose(view(forward, BFLOAT16_CONTRACT, variance, actual))}
    assert not present(diagnoses.values())
    assert diagnoses[names.NOT_APPLIED].state is State.UNDECIDABLE
    assert "swamped" in diagnoses[names.NOT_APPLIED].reason
