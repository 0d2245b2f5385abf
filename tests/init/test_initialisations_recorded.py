"""The initialisations that were recorded from PEFT 0.21.2, in float64."""

import json
from pathlib import Path

import pytest
from init_checks import check_case

from lora_ref.checkpoint import SafetensorsFile

VECTORS = Path(__file__).parent.parent / "vectors"
CASES = json.loads((VECTORS / "peft_init.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_an_initialisation_gives_the_recorded_factors_and_the_recorded_weight(name):
    file = SafetensorsFile.open(VECTORS / "peft_init.safetensors")
    fields = CASES[name]
    check_case(fields, {key: file.tensor(f"{name}/{key}") for key in fields["arrays"]}, "golden")
