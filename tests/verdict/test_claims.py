"""Names, shapes and grids that do not fit what was claimed are refused with the remedy."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ref.verdict.claims import check_on_grid, check_output_grid, check_outputs
from lora_ref.verdict.contract import BFLOAT16_CONTRACT, FLOAT16_CONTRACT, FLOAT32_CONTRACT
from lora_ref.verdict.grids import BFLOAT16, FLOAT8_E4M3, FLOAT16, FLOAT32, FLOAT64, TF32
from lora_ref.verdict.incoming import received

SHAPES = {"y": (5, 11), "dx": (5, 7), "dA": (3, 7), "dB": (11, 3)}


def arrays(**others):
    return {name: np.ones(shape) for name, shape in SHAPES.items()} | others


def test_outputs_come_in_the_expected_order_whatever_the_given_one():
    given = dict(reversed(arrays().items()))
    assert [*check_outputs(given, SHAPES)] == [*SHAPES]


def test_a_bare_array_is_y():
    assert check_outputs(np.ones((5, 11)), {"y": (5, 11)})["y"].values.shape == (5, 11)


def test_an_output_may_be_left_out_on_purpose():
    given = arrays()
    del given["dx"]
    assert [*check_outputs(given, SHAPES, left_out=("dx",))] == ["y", "dA", "dB"]


def test_an_output_that_was_not_computed_may_be_left_out_on_purpose():
    given = {**arrays(), "dx": None}
    assert [*check_outputs(given, SHAPES, left_out=("dx",))] == ["y", "dA", "dB"]


def test_an_output_that_is_given_and_left_out_is_refused():
    with pytest.raises(ValueError, match="dx must be given or left out, got both"):
        check_outputs(arrays(), SHAPES, left_out=("dx",))


def test_nothing_to_judge_is_refused():
    with pytest.raises(ValueError, match="at least one output must be given, got none"):
        check_outputs({}, SHAPES, left_out=tuple(SHAPES))


def test_an_output_left_out_without_saying_so_is_missing():
    with pytest.raises(ValueError, match="dx, dA, dB must be given, got only y; the outputs are y"):
        check_outputs(np.ones((5, 11)), SHAPES)


@pytest.mark.parametrize(("name", "meant"), [("da", "dA"), ("dBB", "dB"), ("DX", "dx"), ("Y", "y")])
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(name, meant):
    expected = (
        rf"'{name}' \(did you mean '{meant}'\?\) is no output of this oracle; the outputs are"
    )
    with pytest.raises(ValueError, match=expected):
        check_outputs(arrays(**{name: np.ones(2)}), SHAPES)


def test_an_unknown_name_stands_for_the_only_missing_one():
    given = arrays(result=np.ones((5, 11)))
    del given["y"]
    with pytest.raises(ValueError, match=r"'result' \(did you mean 'y'\?\)"):
        check_outputs(given, SHAPES)


def test_an_unknown_name_in_left_out_is_refused_too():
    with pytest.raises(ValueError, match=r"'dW' \(W is frozen and has no gradient here"):
        check_outputs(arrays(), SHAPES, left_out=("dW",))


def test_the_gradient_of_the_frozen_weight_is_refused_as_such():
    with pytest.raises(ValueError, match=r"'dW' \(W is frozen and has no gradient"):
        check_outputs(arrays(dW=np.ones(2)), SHAPES)


@pytest.mark.parametrize("kind", [tuple, list])
def test_outputs_without_names_are_refused_with_the_names(kind):
    match = f"must be a mapping of names to arrays, got a {kind.__name__}; give .'y': ..., 'dx'"
    with pytest.raises(TypeError, match=match):
        check_outputs(kind(arrays().values()), SHAPES)


def test_a_gradient_that_is_none_was_not_computed():
    with pytest.raises(ValueError, match="dA must be an array, got None: no such gradient was"):
        check_outputs(arrays(dA=None), SHAPES)


@pytest.mark.parametrize(
    ("expected", "got", "hint"),
    [
        ((3, 7), (7, 3), r"; its transpose fits: give dA\.swapaxes\(-1, -2\)"),
        ((2, 3, 7), (2, 7, 3), "; its transpose fits"),
        ((5, 7), (1, 5, 7), "; only a leading axis of size 1 differs, which dA has"),
        (
            (1, 5, 7),
            (5, 7),
            "; only a leading axis of size 1 differs, which the expected shape has",
        ),
        ((5, 7), (5, 1, 7), "; only axes of size 1 differ"),
        ((2, 3, 7), (7, 2, 3), "; the same axes in another order"),
        ((2, 3, 7), (6, 7), "; as many elements: a reshape apart"),
        ((3, 7), (3, 8), ""),
        ((), (2,), ""),
    ],
)
def test_another_shape_is_refused_with_what_it_looks_like(expected, got, hint):
    start = f"dA must have the shape {expected} of the forward of LoRA, got {got}"
    with pytest.raises(ValueError, match="check_outputs: dA must have") as caught:
        check_outputs({"dA": np.ones(got)}, {"dA": expected}, source="the forward of LoRA")
    assert start in str(caught.value)
    plain = hint.replace("\\", "")
    assert str(caught.value).endswith(f"got {got}") if not hint else plain in str(caught.value)


@pytest.mark.parametrize("shape", [(), (0, 3), (4,), (2, 3)])
@pytest.mark.parametrize("grid", [BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TF32, FLOAT8_E4M3])
def test_numbers_of_the_grid_pass(rng, grid, shape):
    values = rng.standard_normal(shape) if shape else np.array(0.3)
    on_grid = grid.round(values.reshape(-1) * 1.0).reshape(shape)
    assert check_on_grid("x", on_grid, grid) is None


def test_the_first_number_off_the_grid_is_named_with_its_neighbours():
    values = np.ones((4, 5))
    values[1, 3], values[2, 0] = 0.1, -0.1
    with pytest.raises(
        ValueError, match="check_on_grid: x must hold numbers of bfloat16"
    ) as caught:
        check_on_grid("x", values, BFLOAT16)
    said = str(caught.value)
    assert "2 of 20 elements are not, the first at (1, 3): 0.1, between 0.099609375 and" in said
    assert "give the numbers after the cast to bfloat16" in said


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([BFLOAT16, FLOAT16, TF32]))
def test_the_neighbours_are_adjacent_numbers_of_the_grid(v, grid):
    values = np.array([v])
    if grid.holds(values).all():
        return
    with pytest.raises(ValueError, match="x must hold numbers of") as caught:
        check_on_grid("x", values, grid)
    said = str(caught.value)
    if abs(v) > grid.largest:
        assert f"beyond the largest, {float(np.copysign(grid.largest, v))!r};" in said
        return
    low, high = (float(t) for t in said.split("between ")[1].split(";")[0].split(" and "))
    assert low < v < high
    assert grid.holds(np.array([low, high])).all()
    assert grid.holds(np.array([low + (high - low) / 2])).all() == (low + (high - low) / 2 == low)


def test_the_claimed_dtype_passes_without_a_note():
    given = received(np.ones(3, dtype=ml_dtypes.bfloat16), "y")
    assert check_output_grid("y", given, BFLOAT16_CONTRACT) == ()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_emulated_result_in_a_finer_dtype_passes_with_a_note(rng, dtype):
    values = BFLOAT16.round(rng.standard_normal((5, 7))).astype(dtype)
    (note,) = check_output_grid("y", received(values, "y"), BFLOAT16_CONTRACT)
    assert note == f"y is held in {np.dtype(dtype).name}; its numbers are all of bfloat16"


def test_float32_results_under_a_bfloat16_claim_are_refused_with_the_presets_that_fit(rng):
    given = received(rng.standard_normal((5, 7)).astype(np.float32), "y")
    with pytest.raises(ValueError, match="y must hold bfloat16, the output of bfloat16") as caught:
        check_output_grid("y", given, BFLOAT16_CONTRACT)
    said = str(caught.value)
    assert "got an array of float32; 35 of 35 elements are not, the first at (0, 0): " in said
    assert "choose a preset with such outputs ('float32', 'tf32', 'merged_float32')" in said
    assert "or 'bfloat16' with .relax(output=FLOAT32)" in said


def test_float64_that_holds_float32_numbers_gets_the_presets_of_float32(rng):
    values = rng.standard_normal((5, 7)).astype(np.float32).astype(np.float64)
    with pytest.raises(ValueError, match=r"array of float64; .*such outputs \('float32', 'tf32'"):
        check_output_grid("y", received(values, "y"), BFLOAT16_CONTRACT)


@pytest.mark.parametrize(
    ("dtype", "contract"),
    [
        (ml_dtypes.bfloat16, FLOAT32_CONTRACT),
        (np.float16, BFLOAT16_CONTRACT),
        (ml_dtypes.bfloat16, FLOAT16_CONTRACT),
        (ml_dtypes.float8_e4m3fn, BFLOAT16_CONTRACT),
    ],
)
def test_a_dtype_that_cannot_hold_the_claim_is_refused_whatever_its_values(dtype, contract):
    given = received(np.zeros(3, dtype=dtype), "y")
    match = f"must hold {contract.output.name}, .* array of {given.grid.name}, which cannot hold it"
    with pytest.raises(ValueError, match=match):
        check_output_grid("y", given, contract)


def test_without_a_preset_the_claimed_contract_is_to_be_relaxed():
    given = received(np.zeros(3, dtype=ml_dtypes.float8_e4m3fn), "y")
    with pytest.raises(ValueError, match=r"; choose 'float32' with \.relax\(output=FLOAT8_E4M3\)"):
        check_output_grid("y", given, FLOAT32_CONTRACT)
