"""A contract that no arithmetic has is refused where it is made, with what to write instead."""

import numpy as np
import pytest

from lora_ref.verdict import (
    BFLOAT16_CONTRACT,
    FLOAT32,
    FLOAT32_CONTRACT,
    MERGED_BFLOAT16,
    PRESETS,
    Accumulator,
    AnyOrder,
    Blocked,
    Forms,
    Grid,
    Pairwise,
    Probable,
    ScaleSites,
    attention,
    bounds,
    emulate,
    judge,
    lora_linear,
)

X, W, A, B = (np.ones(shape) for shape in ((5, 7), (11, 7), (3, 7), (11, 3)))
ORACLE = lora_linear(X, W, A, B, scale=0.5)
Y = ORACLE.reference()["y"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("order", AnyOrder, r"got the class AnyOrder; give AnyOrder\(\)"),
        ("order", 128, r"got the int 128; give Blocked\(128\) from lora_ref\.verdict"),
        ("order", "any", r"the str 'any'; give AnyOrder\(\), Blocked"),
        ("store", "float32", "a Grid, got the str 'float32'; give FLOAT32 from"),
        ("store", "bf16", "give BFLOAT16 from"),
        ("inputs", np.float16, "got the class float16; give FLOAT16 from"),
        ("output", np.dtype("float64"), "give FLOAT64 from"),
        ("output", None, "give BFLOAT16, FLOAT16, FLOAT32 or another grid from"),
        ("load", "tf32", "give TF32 from"),
        ("accumulate", FLOAT32, r"got the grid FLOAT32; give Accumulator\(FLOAT32\) from"),
        ("forms", "merged", r"a Forms, got the str 'merged'; give Forms\(merged=True\)"),
        ("scale", 2.0, r"a ScaleSites, got the float 2\.0; give ScaleSites"),
    ],
)
def test_a_field_of_another_type_is_refused_with_what_to_write(field, value, said):
    with pytest.raises(TypeError, match=f"Contract: {field} must be .*{said}"):
        BFLOAT16_CONTRACT.relax(**{field: value})


def test_a_dtype_of_pytorch_is_refused_with_the_grid_that_it_stands_for():
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    with pytest.raises(TypeError, match="output must be a Grid, got a dtype; give BFLOAT16 from"):
        FLOAT32_CONTRACT.relax(output=torch.bfloat16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Blocked(0),
        lambda: Blocked(-5),
        lambda: Pairwise(0),
        lambda: Probable(-1.0),
        lambda: Probable(float("nan")),
        lambda: Blocked(2.5),
        lambda: Forms(factored=False, merged=False),
        lambda: BFLOAT16_CONTRACT.relax(exp_ulps=-1),
        lambda: BFLOAT16_CONTRACT.relax(store=Grid("no bits", 0, -126, 1.0, True)),
        lambda: BFLOAT16_CONTRACT.relax(store=Grid("no range", 8, -126, 0.0, True)),
    ],
)
def test_a_value_that_no_arithmetic_has_is_refused(make):
    with pytest.raises(ValueError, match="must "):
        make()


@pytest.mark.parametrize("make", [lambda: Accumulator("float32"), lambda: ScaleSites("operand")])
def test_a_part_of_a_contract_of_another_type_is_refused(make):
    with pytest.raises(TypeError, match="must be a"):
        make()


@pytest.mark.parametrize(("name", "meant"), [("bf16", "bfloat16"), ("FP16", "float16")])
def test_a_preset_that_is_none_is_refused_with_the_one_that_was_meant(name, meant):
    with pytest.raises(KeyError, match=rf"'{name}' is no preset \(did you mean '{meant}'\?\)"):
        PRESETS[name]


def test_a_name_in_place_of_a_contract_is_refused_with_the_preset():
    with pytest.raises(TypeError, match=r"contract must be a Contract, .*PRESETS\['bfloat16'\]"):
        judge(Y, ORACLE, "bfloat16")


@pytest.mark.parametrize("call", [lambda o, c: judge(Y, c, o), lambda o, c: emulate(c, o)])
def test_oracle_and_contract_in_each_other_s_place_are_told(call):
    with pytest.raises(TypeError, match="oracle must come before contract"):
        call(ORACLE, BFLOAT16_CONTRACT)


def test_what_is_no_oracle_is_refused_with_what_makes_one():
    with pytest.raises(TypeError, match=r"judge: oracle must be an Oracle, .*lora_linear"):
        judge(Y, Y, BFLOAT16_CONTRACT)


def test_an_oracle_is_shown_in_one_line_of_shapes_and_outputs():
    assert repr(ORACLE) == "lora_linear: x (5, 7), A (3, 7), B (11, 3), W (11, 7); judges y"
    q = np.ones((2, 4, 3))
    assert repr(attention(q, q, q, do=q)) == (
        "attention: q (2, 4, 3), k (2, 4, 3), v (2, 4, 3); judges y, dq, dk, dv"
    )
    with_gradients = lora_linear(X, W, A, B, scale=0.5, b=np.ones(11), dy=np.ones((5, 11)))
    assert repr(with_gradients).endswith(f"; judges {', '.join(with_gradients.reference())}")


def test_the_explanation_says_on_which_operands_a_factor_may_be():
    said = BFLOAT16_CONTRACT.explain()
    assert "on an operand of the product that it multiplies" in said
    assert "s (x Aᵀ) Bᵀ: on x Aᵀ or B, never on x or A" in said
    formula = BFLOAT16_CONTRACT.relax(scale=ScaleSites(operand=False, result=False)).explain()
    assert "a number factor: where the formula has it\n" in formula
    assert "never on x or A" not in formula


def test_the_explanation_says_which_forms_are_of_a_layer_or_of_a_merge_or_of_attention():
    said = MERGED_BFLOAT16.explain()
    assert "form of a layer: y = x W'ᵀ with W' stored\n" in said
    assert "form of a merge: W' = (W + ½ s BA) + ½ s BA\n" in said
    assert "form of attention: weights again" in said


def test_a_scale_on_the_input_is_what_the_explanation_says_that_it_is_not_admitted(rng):
    """s on x rounds x s before x Aᵀ: at s = 1 + 2⁻⁷ an ulp of x, which no bound here has."""
    draw = BFLOAT16_CONTRACT.inputs.round
    x, V, P, Q = (draw(rng.standard_normal(s)) for s in ((5, 1), (11, 1), (1, 1), (11, 1)))
    s = 1.0 + 2.0**-7
    oracle = lora_linear(x, 0 * V, P, Q, scale=s)
    found = bounds(oracle, BFLOAT16_CONTRACT.relax(store=FLOAT32))["y"]
    y = draw(draw(s * x) @ P.T @ Q.T)
    assert np.any(abs(y - found.v) > found.e)
