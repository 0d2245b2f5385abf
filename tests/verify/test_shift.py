"""Which names of one checkpoint are which of another."""

import pytest

from lora_ref.verify.names import Shift, find_shift


@pytest.mark.parametrize(
    ("wanted", "known", "shift"),
    [
        (["bert.a.w", "bert.b.w"], ["a.w", "b.w"], Shift("bert.", "")),
        (["a.w", "b.w"], ["model.a.w", "model.b.w"], Shift("", "model.")),
        (["0.auto.a.w"], ["a.w"], Shift("0.auto.", "")),
        (
            ["model.layers.1.a.w"],
            ["model.language.layers.1.a.w"],
            Shift("model.", "model.language."),
        ),
    ],
)
def test_a_prefix_more_or_less_is_found(wanted, known, shift):
    assert find_shift(wanted, known) == shift


def test_a_layer_is_never_taken_for_another_one():
    assert find_shift(["layers.1.q.weight"], ["layers.0.q.weight"]) == Shift()


def test_a_module_is_never_taken_for_another_one():
    assert find_shift(["lm_head.weight"], ["wte.weight", "mlp.weight"]) == Shift()


def test_many_names_with_one_end_do_not_take_their_number_squared():
    wanted = [f"a.{i}.q.weight" for i in range(20000)]
    known = [f"b.{i}.q.weight" for i in range(20000)]
    assert find_shift(wanted, known) == Shift("a.", "b.")
