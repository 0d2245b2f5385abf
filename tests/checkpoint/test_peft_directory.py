"""The directory of an adapter of any method: what is missing is said alike by every reader."""

import pytest
from peft_files import linear, save

from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.peft_adalora import read_adalora
from lora_ref.checkpoint.peft_dora import open_dora
from lora_ref.checkpoint.tuners import TUNERS, open_adapter, open_tuned

# A reader, and the fields of a configuration that it takes.
READERS = {
    "LoRA": (PeftAdapter.open, {}),
    "DoRA": (open_dora, {"use_dora": True}),
    "AdaLoRA": (read_adalora, {"peft_type": "ADALORA", "init_r": 3}),
    "LoHa": (lambda at: open_tuned(at, TUNERS["LOHA"]), {"peft_type": "LOHA"}),
    "any": (open_adapter, {"peft_type": "ADALORA", "init_r": 3}),
}


@pytest.fixture(params=READERS)
def reader(request):
    return READERS[request.param]


def refusal_of(read, path):
    with pytest.raises(CheckpointError) as error:
        read(path)
    return str(error.value)


def test_a_path_that_is_no_directory_is_named_once(reader, tmp_path):
    read, fields = reader
    need = "must be a directory with an adapter in it, got"
    missing = tmp_path / "a"
    assert refusal_of(read, missing) == f"{missing}: {need} a path that does not exist"
    at = save(missing, linear(), **fields) / "adapter_config.json"
    assert refusal_of(read, at) == f"{at}: {need} a file: give its directory"


def test_a_directory_without_a_configuration_is_named_with_it(reader, tmp_path):
    at = tmp_path / "adapter_config.json"
    assert refusal_of(reader[0], tmp_path) == f"{at}: does not exist"


def test_a_pickle_in_the_place_of_the_tensors_is_called_one(reader, tmp_path):
    read, fields = reader
    directory = save(tmp_path / "a", linear(), **fields)
    weights = directory / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    said = refusal_of(read, directory)
    assert said.startswith(str(weights.with_suffix(".bin")))
    assert "pickle" in said


@pytest.mark.parametrize("name", ["DoRA", "AdaLoRA"])
def test_a_bad_setting_that_lora_has_too_is_refused_with_the_path_of_its_file(name, tmp_path):
    read, fields = READERS[name]
    directory = save(tmp_path / "a", linear(), **fields, lora_alpha="5")
    at = directory / "adapter_config.json"
    assert refusal_of(read, directory) == f"{at}: lora_alpha must be a finite number, got '5'"


@pytest.mark.parametrize("name", ["adapter_config.json", "README.md"])
def test_a_directory_under_a_name_of_an_adapters_file_is_never_overwritten(name, tmp_path):
    out = save(tmp_path / "a", linear())
    adapter = PeftAdapter.open(save(tmp_path / "b", linear()))
    (out / name).unlink(missing_ok=True)
    (out / name).mkdir()
    (out / name / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match=f"an adapter and nothing else.*got .'{name}'"):
        write_adapter(out, adapter, overwrite=True)
    assert (out / name / "thesis.tex").read_text() == "mine"


def test_a_link_to_a_directory_is_not_taken_for_an_adapters_file(tmp_path):
    out = save(tmp_path / "a", linear())
    adapter = PeftAdapter.open(save(tmp_path / "b", linear()))
    (tmp_path / "mine").mkdir()
    (out / "README.md").symlink_to(tmp_path / "mine")
    with pytest.raises(CheckpointError, match="an adapter and nothing else"):
        write_adapter(out, adapter, overwrite=True)
    assert (out / "README.md").is_symlink()


def test_a_readme_alone_is_no_adapter_to_overwrite(tmp_path):
    adapter = PeftAdapter.open(save(tmp_path / "b", linear()))
    out = tmp_path / "a"
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"an adapter and nothing else.*got \['README.md'\]"):
        write_adapter(out, adapter, overwrite=True)
    assert (out / "README.md").read_text() == "mine"
