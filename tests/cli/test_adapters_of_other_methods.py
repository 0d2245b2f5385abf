"""`rank`, `verify` and `merge` on adapters that are no LoRA: what they are, and what reads them."""

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import factors, save_adapter, status_of, three

from lora_ref.adapters import AdaLoRA, DoRA, LoHa
from lora_ref.adapters.adalora import peft_scaling
from lora_ref.checkpoint.peft import write_adapter
from lora_ref.checkpoint.peft_adalora import from_adalora
from lora_ref.checkpoint.peft_dora import from_dora
from lora_ref.checkpoint.tuners import TUNERS, from_adapters, open_adapter

LAYER = "layer.0.q"
A, B = factors()[LAYER]
SAVED = {
    "DoRA": lambda: from_dora(
        {LAYER: DoRA(A, B, np.ones(11, "float32"), 5 / 3, True)}, {"r": 3, "lora_alpha": 5}
    ),
    "ADALORA": lambda: from_adalora(
        {LAYER: AdaLoRA(B, np.ones(3, "float32"), A, peft_scaling(5, 3))},
        {"init_r": 3, "lora_alpha": 5, "total_step": 9},
    ),
    "LOHA": lambda: from_adapters(
        {LAYER: LoHa(A, B, A, B, 5 / 3)}, {"r": 3, "alpha": 5}, TUNERS["LOHA"]
    ),
}


@pytest.fixture(params=SAVED)
def other(request, tmp_path):
    """The name of a method, and the directory of its adapter."""
    write_adapter(tmp_path / "other", SAVED[request.param]())
    return request.param, tmp_path / "other"


@pytest.mark.parametrize("command", ["rank", "verify", "merge"])
def test_an_adapter_of_another_method_is_refused_with_what_it_is_and_what_reads_it(
    command, other, tmp_path, capsys
):
    name, directory = other
    base, _, merged = three(tmp_path)
    arguments = {
        "rank": (directory,),
        "verify": ("--base", base, "--adapter", directory, "--merged", merged),
        "merge": ("--base", base, "--adapter", directory, "--out", tmp_path / "out"),
    }
    assert status_of(command, *arguments[command]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith(f"lora-ref: {directory / 'adapter_config.json'}: ")
    assert name in done.err
    assert "lora_ref.checkpoint.open_adapter reads adapters of this method" in done.err
    assert not (tmp_path / "out").exists()
    open_adapter(directory)


@pytest.mark.parametrize("command", ["rank", "verify", "merge", "combine"])
def test_an_adapter_of_a_changed_base_is_named_and_so_is_what_converts_it(
    command, tmp_path, capsys
):
    base, _, merged = three(tmp_path)
    adapter = save_adapter(tmp_path / "a", factors(), init_lora_weights="pissa")
    out = ("--out", tmp_path / "out")
    arguments = {
        "rank": (adapter, "--to", 2, *out),
        "verify": ("--base", base, "--adapter", adapter, "--merged", merged),
        "merge": ("--base", base, "--adapter", adapter, *out),
        "combine": (adapter, adapter, "--weights", 0.5, 0.5, *out),
    }
    assert status_of(command, *arguments[command]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"lora-ref: {adapter}")
    assert "init_lora_weights 'pissa' changed the base" in said
    assert "path_initial_model_for_weight_conversion" in said
    assert "lora_ref.init.plain_lora" in said
    assert not (tmp_path / "out").exists()


def test_a_variant_that_nothing_here_reads_gets_no_such_hint(tmp_path, capsys):
    adapter = save_adapter(tmp_path / "a", factors(), use_qalora=True)
    assert status_of("rank", adapter) == 2
    said = capsys.readouterr().err
    assert "use_qalora asks for QALoRA's pooled input" in said
    assert "open_adapter" not in said
